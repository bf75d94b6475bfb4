"""`engine.train --profile`: where an epoch of a fold spends its time."""

import os

from engine.config import Config
from engine.early import check_inputs, check_out
from engine.mistakes import ConfigError
from engine.rundir import RunDir


def profile(config: Config, run_dir: RunDir, fold: int) -> None:
    """Show where an epoch of a fold spends its time; the fold itself stays as it is."""
    if not config.training.epochs:
        raise ConfigError("--profile: training.epochs = 0, so there is nothing to train")
    check_out(run_dir.root)
    check_inputs(config, [fold])
    # Before PyTorch is loaded, whose profiler calls a missing GPU an error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from rich.console import Console

    from engine.experiment import open_experiment
    from engine.rehearsal import check_training
    from engine.training.profile import profile_fold, profile_tables

    run, folder, console = open_experiment(config, run_dir), run_dir.root / "profile", Console()
    check_training(config, {fold: len(run.folds.training(fold))})
    report = profile_fold(run.task(fold), run.policy, folder)
    console.print(*profile_tables(report))
    console.print(f"written to {folder}", highlight=False)
