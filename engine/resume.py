"""What an earlier call holds a later one to: its experiment, and what its folds run with."""

from engine.cli import ConfigError
from engine.config import Config, RuntimeConfig
from engine.rundir import RunDir, load_run
from engine.runtime.recorded import RecordedRuntime, resume_runtime


def check_same_experiment(config: Config, run: RunDir) -> None:
    """Refuse a run folder that holds another experiment.

    Raises:
        ConfigError: naming every field that changed, but for those that are no part of it.
    """
    changed = [
        line
        for line in differences(load_run(run), config)
        if not line.startswith(("data.root:", "runtime."))
    ]
    if changed:
        raise ConfigError(
            f"{run.root} holds another experiment; choose another --out, or undo:\n  "
            + "\n  ".join(changed)
        )


def differences(old: Config, new: Config) -> list[str]:
    """One line for each field in which two configs differ: `training.lr: 0.1 -> 0.2`."""
    was, now = old.model_dump(), new.model_dump()
    return [
        f"{section}.{key}: {was[section][key]} -> {now[section][key]}"
        for section in was
        for key in was[section]
        if was[section][key] != now[section][key]
    ]


def kept_runtime(
    config: RuntimeConfig, now: RecordedRuntime, run: RunDir, fold: int
) -> RuntimeConfig:
    """What a fold that was begun before goes on with, see `resume_runtime`.

    Args:
        config: of this call.
        now: what it would begin with.
        run: the folder.
        fold: of it.
    """
    began = recorded_runtime(run, fold)
    return config if began == now else resume_runtime(config, began, fold)


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
