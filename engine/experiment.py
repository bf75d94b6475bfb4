"""An experiment opened for work: its config, checked data, folds and device, and their hashes."""

import logging
from dataclasses import dataclass
from pathlib import Path

from engine.cli import ConfigError, differences, load_config, to_toml
from engine.config import ROOMS, Config
from engine.data.folds import Folds, make_folds
from engine.frames.index import Dataset, load_dataset
from engine.model.network import input_normalisation
from engine.rooms.dataset import render_rooms
from engine.rundir import RunDir, write_json, write_text
from engine.runtime.device import DevicePolicy, choose_device
from engine.runtime.environment import (
    RUNTIME_FIELDS,
    describe_environment,
    fold_hashes,
    stage_identity,
    weights_identity,
)
from engine.runtime.progress import track_total
from engine.training.loop import FoldTask
from engine.views.networks import check_runtime

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """A config on its data: what every stage of one call needs.

    Attributes:
        config: the experiment's fields.
        dir: its run folder.
        dataset: the checked frames.
        folds: the split of the training frames.
        policy: device and precision.
        weights_hash: of all that trained weights depend on.
    """

    config: Config
    dir: RunDir
    dataset: Dataset
    folds: Folds
    policy: DevicePolicy
    weights_hash: str

    def task(self, fold: int) -> FoldTask:
        """What training of a fold needs."""
        return FoldTask(
            config=self.config,
            dataset=self.dataset,
            run=self.dir,
            fold=fold,
            training=self.folds.training(fold),
            validation=self.folds.validation(fold),
            config_hash=self.weights_hash,
        )

    def stage_hash(self, *parts: str) -> str:
        """Hash of what predictions are made from: training, inference settings and `parts`."""
        return stage_identity(self.config, self.weights_hash, *parts)

    def fold_hashes(self) -> list[str]:
        """Hash of each fold's weights; "untrained" for a fold without any."""
        return fold_hashes(self.config, self.dir)

    def describe(self) -> None:
        """Write what the run is made from: config, environment and folds."""
        write_text(self.dir.config, to_toml(self.config))
        write_json(self.dir.environment, describe_environment(self.dataset.fingerprint))
        write_json(self.dir.folds, self.folds.to_json(self.dataset.train.samples))


def check_same_experiment(config: Config, run_dir: RunDir) -> None:
    """Refuse a run folder that holds another experiment.

    Raises:
        ConfigError: naming every field that changed, but for those that change no result.
    """
    if not run_dir.config.exists():
        return
    runtime = {f"{section}.{key}" for section, keys in RUNTIME_FIELDS.items() for key in keys}
    changed = [
        line
        for line in differences(load_config([run_dir.config]), config)
        if line.partition(":")[0] not in runtime and not line.startswith("runtime.")
    ]
    if changed:
        raise ConfigError(
            f"{run_dir.root} holds another experiment; choose another --out, or undo:\n  "
            + "\n  ".join(changed)
        )


def read_dataset(config: Config) -> Dataset:
    """Check the dataset that a config names; the embedded rooms are rendered if they are not there.

    Raises:
        DatasetError: the dataset has faults.
    """
    data = config.data
    root = Path(data.root)
    if data.root == ROOMS:
        root = Path("data") / ROOMS
        with track_total("rendering rooms") as progress:
            render_rooms(root, progress=progress)
    with track_total("checking files") as progress:
        return load_dataset(
            root,
            data.classes,
            data.small_classes,
            need_depth=config.model.input == "rgbd",
            workers=config.runtime.workers,
            progress=progress,
        )


def open_experiment(config: Config, run_dir: RunDir) -> Experiment:
    """Check the dataset, cut the folds, choose the device; writes nothing.

    Raises:
        DatasetError: the dataset has faults.
        RuntimeError: the device or `runtime.inference` is not there.
    """
    # An unknown encoder is found now, not after the files have been read.
    input_normalisation(config.model)
    data = config.data
    dataset = read_dataset(config)
    folds = make_folds(
        dataset.train.samples, data.fold_kind, data.folds, data.fold_seed, data.blocks_per_fold
    )
    _log.info(
        "%s: %d training and %d test frames; %s folds, leakage %.1f %%",
        data.root,
        len(dataset.train.samples),
        len(dataset.test.samples),
        folds.kind,
        100 * folds.leakage,
    )
    policy = choose_device(config.runtime)
    check_runtime(config, policy.device)
    weights_hash = weights_identity(config, dataset.fingerprint, folds.fold_of.tolist())
    return Experiment(config, run_dir, dataset, folds, policy, weights_hash)
