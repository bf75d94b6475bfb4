"""The form of a fold's steps: as it began, as a file says, as was measured once, or measured now.

`runtime.tune` says which. What is chosen is written into the fold's folder (`step.json`) and kept
when it is resumed, whatever is asked for then. All three files are a `Tuned`, so that one run's can
be given to another.
"""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch

from engine.frames.cache import cache_folder
from engine.runtime.device import DevicePolicy
from engine.runtime.forms import AXES, PLAIN
from engine.runtime.graphs import free_recordings
from engine.runtime.machine import driver, processor
from engine.training.loop import FoldTask
from engine.training.tuning.options import Options, obstacle, options
from engine.training.tuning.processor import bf16_is_fast, offer_bf16
from engine.training.tuning.tuner import Tuned, Tuner, Workshop
from engine.training.tuning.workshop import StepWorkshop, own_randomness
from engine.whole import discard

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[3]
_SOURCES = ("kernels/**/*.py", "engine/model/*.py", "engine/training/step.py")
"""What a step is made of; `AXES` and `options` are told apart."""

_OF_STEP = {"accumulate", "clip_norm", "boundary_weight", "ignored_edges", "depth_weight"}
_OF_STEP |= {"dice_weight", "lovasz_weight", "focal_weight", "label_smoothing"}
"""Fields of [training] that change what a step computes, beside its batch."""


def machine(task: FoldTask, policy: DevicePolicy) -> dict[str, str]:
    """All that a choice depends on: what computes, by which versions, on which shapes."""
    on_gpu, config = policy.device.type == "cuda", task.config
    size = (task.batch_size, config.model.in_channels, *config.data.crop_hw)
    return {
        "device": torch.cuda.get_device_name(policy.device) if on_gpu else processor(),
        "driver": driver() or "",
        "versions": " ".join(
            f"{name} {version}" for name, version in _versions().items() if version is not None
        ),
        "sources": _sources(),
        "axes": json.dumps(AXES),
        "shapes": json.dumps([*size, len(config.data.classes)]),
        "dtype": str(policy.autocast_dtype or torch.float32),
        "model": config.model.model_copy(update={"weights": ""}).model_dump_json(),
        "training": config.training.model_dump_json(include=_OF_STEP),
        "runtime": f"kernels {config.runtime.kernels}, compile {config.runtime.compile}, replayed "
        f"{policy.replay}, deterministic {policy.deterministic}, threads {torch.get_num_threads()}",
    }


@dataclass(frozen=True)
class Means:
    """What choosing is done with; tests bring their own."""

    clock: Callable[[], float] = time.perf_counter
    machine: Callable[[FoldTask, DevicePolicy], dict[str, str]] = machine
    options: Callable[[FoldTask, DevicePolicy], Options] = options
    workshop: Callable[[FoldTask, DevicePolicy], Workshop] = StepWorkshop
    bf16_is_fast: Callable[[], bool] = bf16_is_fast


def choose_form(
    task: FoldTask, policy: DevicePolicy, *, begun: bool, means: Means | None = None
) -> DevicePolicy:
    """The policy of a fold, its step in the form that is chosen; a new choice is written down.

    Args:
        task: the fold.
        policy: what it would run on untuned.
        begun: whether an earlier call began it: then it goes on as it began.
        means: other than this machine's.

    Raises:
        FileNotFoundError: `runtime.tune` names a file that is not there.
        ValueError: a file that says the form is damaged, or has an axis that is not known.
        RuntimeError: the form cannot be had here.
    """
    tune, path = task.config.runtime.tune, task.run.step_form(task.fold)
    if begun:
        if not path.exists():
            if tune != "off":
                _log.info("fold %d goes on with an untuned step, as it began", task.fold)
            return policy
        tuned = Tuned.read(path)
        if (why := obstacle(tuned.form, task, policy)) is not None:
            _log.warning(
                "fold %d began with a step that cannot be had here (%s); it goes on untuned, and "
                "from here on rounding differs from an undisturbed run's",
                *(task.fold, why),
            )
            return policy
        _log.info("fold %d goes on with a step of %s, as it began", task.fold, tuned.form.told())
        return policy.formed(tuned.form)
    if tune == "off":
        discard(path)  # of a call that was killed before it saved
        return policy
    if tune == "auto":
        measured = _measured(task, policy, means or Means())
        if measured is None:
            discard(path)
            return policy
        tuned = measured
    else:
        tuned = Tuned.read(Path(tune))
        _log.info("tune: %s, as %s says", tuned.form.told(), tune)
    formed = _formed(tuned, Path(tune), task, policy)
    tuned.write(path)
    return formed


def _formed(tuned: Tuned, path: Path, task: FoldTask, policy: DevicePolicy) -> DevicePolicy:
    """The policy with a form, which has to be had here."""
    if (why := obstacle(tuned.form, task, policy)) is not None:
        remedy = "choose another file, or --runtime.tune auto"
        raise RuntimeError(f"{path} asks for a step that cannot be had here: {why}; {remedy}")
    return policy.formed(tuned.form)


def _measured(task: FoldTask, policy: DevicePolicy, means: Means) -> Tuned | None:
    """What the cache knows of such a fold on such a machine, or is told now; None: no choice."""
    choices = means.options(task, policy)
    offers = policy.device.type == "cpu" and policy.autocast_dtype is None and means.bf16_is_fast()
    if not choices:
        told = "nothing to measure: no other form of the step would leave the same bytes on a CPU"
        _log.info("tune: %s", told)
        if not offers:
            return None
    depends = means.machine(task, policy)
    tuned, path = _recall(task, depends)
    if tuned is None:
        with own_randomness(policy):
            tuned = _tuned(task, policy, means, choices)
            if offers:
                fast = replace(policy, autocast_dtype=torch.bfloat16)
                workshops = means.workshop(task, policy), means.workshop(task, fast)
                tuned = tuned.model_copy(update={"offer": offer_bf16(*workshops, means.clock)})
        tuned = tuned.model_copy(update={"machine": depends})
        _keep(tuned, path)
    if offers and tuned.offer is not None:
        _log.info("tune: %s", tuned.offer)
    return tuned if choices else None


def _tuned(task: FoldTask, policy: DevicePolicy, means: Means, choices: Options) -> Tuned:
    """Measure now, if there are choices."""
    if not choices:
        return Tuned(form=PLAIN)
    default = PLAIN.at("compile", "on") if policy.compile else PLAIN
    same_bytes = policy.device.type == "cpu"
    workshop = means.workshop(task, policy)
    tuned = Tuner(workshop, means.clock, same_bytes=same_bytes).tune(choices, default)
    if policy.replay:
        del workshop
        free_recordings()
    return tuned


def _recall(task: FoldTask, depends: Mapping[str, str]) -> tuple[Tuned | None, Path]:
    """What an earlier call kept under such a key, and its path."""
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    path = cache_folder(task.config.runtime.cache) / f"tuned-{key[:32]}.json"
    if not path.exists():
        return None, path
    try:
        tuned = Tuned.read(path)
    except ValueError as error:  # damaged, or of a release whose axes have other options
        _log.warning("tune: %s; it is measured again", error)
        return None, path
    _log.info("tune: %s, as measured before (%s)", tuned.form.told(), path)
    return tuned, path


def _keep(tuned: Tuned, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tuned.write(path)
    except OSError as error:
        _log.warning("tune: %s cannot be kept for other runs: %s", path, error)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "triton", "timm", "roomsmith"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {**found, "cuda": torch.version.cuda, "cudnn": str(cudnn)}


def _sources() -> str:
    """A hash of the files that a step is made of."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in _ROOT.glob(pattern)):
        digest.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
