"""A fold's epochs for MLflow: an MLflow run a fold, in an experiment named as the run folder.

Offline they lie in a database: `mlflow ui --backend-store-uri sqlite:///RUN/mlflow/mlflow.db`.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from engine.config import Config
from engine.rundir import RunDir

_LONGEST = 6000
"""Characters that MLflow takes of a parameter."""


class MlflowRun:
    """A run of MLflow's; that of an earlier call is deleted there."""

    errors: ClassVar[tuple[type[Exception], ...]] = (MlflowException,)

    def __init__(self, config: Config, run: RunDir, fold: int) -> None:
        folder, name = run.root.absolute() / "mlflow", run.root.absolute().name
        folder.mkdir(exist_ok=True)
        database, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client = MlflowClient(None if config.report.online else database)
        found = self._client.get_experiment_by_name(name)
        place = None if config.report.online else artifacts
        where = found.experiment_id if found else self._client.create_experiment(name, place)
        before = folder / f"fold{fold}.txt"
        if before.is_file():
            with suppress(MlflowException):  # it was of another server, or is gone
                self._client.delete_run(before.read_text(encoding="utf-8"))
        self._id = self._client.create_run(where, run_name=f"fold {fold}").info.run_id
        before.write_text(self._id, encoding="utf-8")
        self._client.log_batch(self._id, params=_parameters(config))

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures, or send them and wait for the server's answer, at step `epoch`."""
        now_ms = int(time.time() * 1000)
        metrics = [Metric(key, value, now_ms, epoch) for key, value in figures.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


def _parameters(config: Config) -> list[Param]:
    """Every field by its full name; at most a hundred, as MLflow takes at once."""
    return [
        Param(f"{section}.{key}", json.dumps(value)[:_LONGEST])
        for section, fields in config.model_dump(mode="json").items()
        for key, value in fields.items()
    ]
