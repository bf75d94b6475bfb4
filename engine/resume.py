"""What an earlier call holds a later one to: its experiment, and what its folds run with."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, NamedTuple

from engine.config import Config
from engine.epochs import epochs_of, is_trained
from engine.formats import FORMAT, READ_BY
from engine.mistakes import ConfigError
from engine.origin import is_moved
from engine.rundir import RunDir, changed_config, load_run, run_format, to_complete
from engine.runtime.recorded import RecordedRuntime, resume_reduce, resume_runtime

if TYPE_CHECKING:
    # Not to refuse another experiment: it loads PyTorch.
    from engine.frames.decode import Sample
    from engine.runtime.device import DevicePolicy

_log = logging.getLogger(__name__)

_OF_DEVICE = ("device", "source", "compile", "cuda_graphs", "layers")
"""Fields of a fold's record that follow from its device."""


class Goal(NamedTuple):
    """Where a call of training ends, which no result depends on: a later call goes on from there.

    Attributes:
        until: "trained": with the folds that are asked for; "predicted": with all out-of-fold
            predictions and the temperature.
        epochs: after so many of each of these folds; None = after all.
    """

    until: Literal["trained", "predicted", "finished"] = "finished"
    epochs: int | None = None

    @property
    def is_training(self) -> bool:
        """Whether nothing but folds is wanted."""
        return self.until == "trained" or self.epochs is not None


FINISHED = Goal()


def check_same_experiment(config: Config, run: RunDir) -> None:
    """Refuse a run folder that holds another experiment.

    Raises:
        ConfigError: naming every field that changed, but for those that are no part of it; or the
            store holds frames predicted in INT8 and more should be otherwise, or the reverse.
    """
    # What is read in another way has another fingerprint, which is asked for later.
    apart = ("data.root:", *(f"{name}:" for name in READ_BY), "runtime.", "report.")
    before = load_run(run)
    lines = differences(before, config)
    fields = (line.partition(":")[0] for line in lines)
    apart += tuple(f"{field}:" for field in fields if is_moved(config, run, field))
    changed = [line for line in lines if not line.startswith(apart)]
    if changed:
        told = f"{run.root} holds another experiment; choose another --out, or undo:"
        if (damage := changed_config(run.root)) is not None:
            changed.append(str(damage))
        raise ConfigError("\n  ".join([told, *changed]))
    if before.int8 != config.int8:
        _check_predicted(before.runtime.inference, config.runtime.inference, run)


def differences(old: Config, new: Config) -> list[str]:
    """One line for each field in which two configs differ: `training.lr: 0.1 -> 0.2`."""
    was, now = old.model_dump(), new.model_dump()
    return [
        f"{section}.{key}: {was[section][key]} -> {now[section][key]}"
        for section in was
        for key in was[section]
        if was[section][key] != now[section][key]
    ]


def stopped(run: RunDir, fold: int, epoch: int, epochs: int) -> ConfigError:
    """What to do about a fold that was stopped after `epoch` of its epochs."""
    return ConfigError(
        f"fold {fold} of {run.root} was stopped in epoch {epoch + 1} of {epochs}; --resume "
        "continues it exactly, another --out starts afresh"
    )


def resolved(
    config: Config, policy: "DevicePolicy", samples: "Sequence[Sample]"
) -> RecordedRuntime:
    """What a fold that begins now runs with, all `auto` resolved."""
    import torch

    from engine.data.sources import choose_source

    runtime, training, added = config.runtime, config.training, dict[str, str]()
    if training.parts > 1:
        from engine.distributed.exchange import resolved_reduce

        added = {"reduce": resolved_reduce(training.reduce, policy.device)}
    return RecordedRuntime(
        device=str(policy.device),
        source=choose_source(runtime, samples, policy.device, surfaces=config.sees_surfaces)[0],
        kernels=runtime.kernels,
        compile="on" if policy.compile else "off",
        cuda_graphs="on" if policy.replay else "off",
        threads=torch.get_num_threads(),
        precision="bf16" if policy.autocast_dtype is not None else "fp32",
        deterministic=runtime.deterministic,
        layers="fused" if policy.own_layers else "torch",
        **added,
    )


def told_trained(config: Config, run: RunDir, chosen: Sequence[int]) -> str:
    """How far the `chosen` folds and the others of a run are, for a call that ends with them."""
    epochs, folds = max(config.training.epochs, 1), range(config.networks)
    done = [is_trained(run, fold, config.training) for fold in folds]
    stood = ", ".join(
        f"fold {fold} "
        + ("is trained" if done[fold] else f"has {epochs_of(run, fold)} of {epochs}")
        for fold in chosen
    )
    rest = [str(fold) for fold in folds if not done[fold]]
    remain = f"folds {' '.join(rest)} and all that follows remain" if rest else "the rest remains"
    return f"{stood}; {remain}, as asked: {to_complete(run.root)}"


def kept_setup(
    config: Config, policy: "DevicePolicy", now: RecordedRuntime, run: RunDir, fold: int
) -> tuple[Config, "DevicePolicy"]:
    """What a fold that was begun before goes on with, and on what, see `resume_runtime`.

    `config` and `policy` are of this call, and `now` is what it would begin with. What the fold
    began with and is not here gives way to that, which the log says.
    """
    from engine.runtime.device import set_up_device

    began = _as_can_be(recorded_runtime(run, fold), now, fold)
    if config.training.parts > 1:
        reduce = resume_reduce(config.training.reduce, began, fold)
        training = config.training.model_copy(update={"reduce": reduce})
        config = config.model_copy(update={"training": training})
    kept = config.runtime if began == now else resume_runtime(config.runtime, began, fold)
    if kept == config.runtime:
        return config, policy
    return config.model_copy(update={"runtime": kept}), set_up_device(kept)


def _as_can_be(began: RecordedRuntime, now: RecordedRuntime, fold: int) -> RecordedRuntime:
    """A fold's record, but for what is not here; the log says what and what for.

    Fewer cores are no obstacle: a number of threads can be had on any.
    """
    lacking: tuple[str, ...] = ()
    if began.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            lacking = _OF_DEVICE
        elif int(began.device.partition(":")[2] or 0) >= torch.cuda.device_count():
            told = "fold %d began on %s and goes on on %s: there are fewer GPUs here"
            _log.info(told, fold, began.device, now.device)
            began = began.model_copy(update={"device": now.device})
    if not lacking and began.source == "dali" and find_spec("nvidia.dali") is None:
        lacking = ("source",)
    if not lacking:
        return began
    _log.warning(
        "fold %d began with %s = %s, which is not here; it goes on with %s, and from here on "
        "rounding differs from an undisturbed run's",
        *(fold, lacking[0], getattr(began, lacking[0])),
        ", ".join(f"{name} = {getattr(now, name)}" for name in lacking),
    )
    return began.model_copy(update={name: getattr(now, name) for name in lacking})


def recorded_runtime(run: RunDir, fold: int) -> RecordedRuntime:
    """What a fold that was begun in a run folder runs with.

    A fold that format 1 began has no record: it keeps what the folder's config asks for, and each
    call resolves its `auto` anew.

    Raises:
        ConfigError: the folder's config cannot be read.
        ValueError: the fold's record is damaged.
    """
    if run.runtime(fold).exists():
        return RecordedRuntime.read(run.runtime(fold))
    return RecordedRuntime.asked_for(load_run(run).runtime)


def _check_predicted(before: str, now: str, run: RunDir) -> None:
    """Refuse to go over to INT8, or back, where that would not be told from what is there."""
    if run.manifest.exists():
        raise ConfigError(
            f"{run.oof} was predicted with runtime.inference = {before!r}, and {now!r} predicts "
            f"otherwise: use --runtime.inference {before}, or move it away to predict again"
        )
    if run_format(run) != FORMAT:
        raise ConfigError(
            f"{run.root} was begun by an older release, and its config stays as it is: go on with "
            f"--runtime.inference {before}, or choose another --out"
        )
