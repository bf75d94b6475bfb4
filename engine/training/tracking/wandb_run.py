"""A fold's epochs for Weights & Biases: a W&B run a fold, in a group named as the run folder.

Offline it lies in `wandb/fold0/`, and `wandb sync RUN/wandb/fold0/wandb/offline-run-*` sends it.
"""

import shutil
from collections.abc import Mapping
from typing import ClassVar

import wandb

from engine.config import Config
from engine.rundir import RunDir


class WandbRun:
    """A run of W&B's; what an earlier call sent to a server stays there as another one."""

    errors: ClassVar[tuple[type[Exception], ...]] = (wandb.Error,)

    def __init__(self, config: Config, run: RunDir, fold: int) -> None:
        folder = run.root / "wandb" / f"fold{fold}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._run = wandb.init(
            project="roomsmith",
            group=run.root.absolute().name,
            name=f"{run.root.absolute().name} fold {fold}",
            dir=folder,
            config=config.model_dump(mode="json"),
            mode="online" if config.report.online else "offline",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Hand the figures to W&B's own process, at step `epoch`."""
        self._run.log(dict(figures), step=epoch)

    def close(self) -> None:
        """Wait until all of it is written or sent."""
        self._run.finish()
