"""`engine.train --profile`: one fold opened as for training, and timed."""

import os

from engine.cli import ConfigError
from engine.config import Config
from engine.rundir import RunDir


def profile(config: Config, run_dir: RunDir, fold: int) -> int:
    """Show where an epoch of a fold spends its time; the fold itself stays as it is.

    Returns:
        0.

    Raises:
        ConfigError: there is nothing to train.
        DatasetError: the dataset has faults.
    """
    # Before PyTorch is loaded, whose profiler calls a missing GPU an error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from rich.console import Console

    from engine.experiment import open_experiment
    from engine.training.profile import profile_fold, profile_table

    if not config.training.epochs:
        raise ConfigError("--profile: training.epochs = 0, so there is nothing to train")
    run = open_experiment(config, run_dir)
    folder = run_dir.root / "profile"
    figures = profile_fold(run.task(fold), run.policy, folder)
    Console().print(profile_table(figures))
    Console().print(f"written to {folder}", highlight=False)
    return 0
