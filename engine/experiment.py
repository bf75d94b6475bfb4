"""An experiment opened for work: its config, checked data, folds and device, and their hashes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from engine.cli import ConfigError, differences, to_toml
from engine.config import ROOMS, Config, RuntimeConfig, data_root
from engine.data.folds import Folds, make_folds
from engine.data.sources import choose_source, resident_limit
from engine.formats import FORMAT
from engine.frames.cache import cache_folder
from engine.frames.index import CheckMemory, Dataset, DatasetSpec, Sample, load_dataset
from engine.identity import (
    fold_hashes,
    load_run,
    run_format,
    stage_identity,
    weights_identity,
)
from engine.model.network import input_normalisation
from engine.rooms.dataset import render_rooms
from engine.rundir import RunDir, write_text
from engine.runtime.device import DevicePolicy, set_up_device
from engine.runtime.environment import describe_environment
from engine.runtime.progress import track_total
from engine.runtime.recorded import RecordedRuntime, resume_runtime
from engine.training.checkpoint import Position, load_last
from engine.training.loop import FoldTask
from engine.views.predictor import check_runtime

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

    def begin(self, fold: int) -> tuple[FoldTask, DevicePolicy]:
        """What trains a fold, and on what; noted in the run folder.

        A fold that was begun before keeps what it began with, see `resume_runtime`.
        """
        task, policy, runtime = self.task(fold), self.policy, self.config.runtime
        samples = self.dataset.train.samples
        now = recorded(runtime, policy, samples)
        if self.position(fold) is not None:
            began = recorded_runtime(self.dir, fold)
            kept = runtime if began == now else resume_runtime(runtime, began, fold)
            if kept != runtime:
                policy = set_up_device(kept)
                now = recorded(kept, policy, samples)
                config = self.config.model_copy(update={"runtime": kept})
                task = replace(task, config=config)
        now.write(self.dir.runtime(fold))
        return task, policy

    def position(self, fold: int) -> Position | None:
        """Where an earlier call left the fold; None if it never saved."""
        saved = load_last(self.dir.last(fold), self.weights_hash)
        return None if saved is None else saved.position

    def is_trained(self, fold: int) -> bool:
        """Whether the fold has been trained to its last epoch."""
        position = self.position(fold)
        return position is not None and position.epoch == self.config.training.epochs

    def stage_hash(self, *parts: str) -> str:
        """Hash of what predictions are made from: training, inference settings and `parts`."""
        return stage_identity(self.config, self.weights_hash, *parts)

    def fold_hashes(self) -> list[str]:
        """Hash of each fold's weights; "untrained" for a fold without any."""
        return fold_hashes(self.config, self.dir)

    def write_description(self) -> None:
        """Write what the run is made from: config, environment and folds."""
        # An older folder's config says what its hashes were made of.
        if run_format(self.dir) in (None, FORMAT):
            write_text(self.dir.config, to_toml(self.config))
        describe_environment(self.dataset.fingerprint).write(self.dir.environment)
        self.folds.file(self.dataset.train.samples).write(self.dir.folds)


def check_same_experiment(config: Config, run_dir: RunDir) -> None:
    """Refuse a run folder that holds another experiment.

    Raises:
        ConfigError: naming every field that changed, but for those that are no part of it.
    """
    if not run_dir.config.exists():
        return
    changed = [
        line
        for line in differences(load_run(run_dir), config)
        if not line.startswith(("data.root:", "runtime."))
    ]
    if changed:
        raise ConfigError(
            f"{run_dir.root} holds another experiment; choose another --out, or undo:\n  "
            + "\n  ".join(changed)
        )


def read_dataset(config: Config, device: torch.device | None = None) -> Dataset:
    """Check the dataset that a config names; the embedded rooms are rendered if they are not there.

    Args:
        config: the experiment.
        device: on which to train. Frames that its source would keep are kept decoded as they are
            checked; by default none are.

    Raises:
        DatasetError: the dataset has faults.
    """
    data, runtime = config.data, config.runtime
    root = data_root(config)
    limit = 0 if device is None else resident_limit(runtime, device)
    if data.root == ROOMS:
        with track_total("rendering rooms") as progress:
            render_rooms(root, progress=progress)
    with track_total("checking files") as progress:
        return load_dataset(
            root,
            DatasetSpec(data.classes, data.small_classes, config.model.needs_depth),
            workers=runtime.workers,
            progress=progress,
            memory=CheckMemory(cache_folder(runtime.cache), frame_bytes=limit),
        )


def open_experiment(config: Config, run_dir: RunDir) -> Experiment:
    """Choose the device, check the dataset, cut the folds; writes nothing.

    Raises:
        RuntimeError: the device or `runtime.inference` is not there.
        DatasetError: the dataset has faults.
    """
    # An unknown encoder or an absent device is found now, not after the files have been read.
    input_normalisation(config.model)
    policy = set_up_device(config.runtime)
    check_runtime(config, policy.device)
    data = config.data
    dataset = read_dataset(config, policy.device)
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
    weights_hash = weights_identity(config, run_dir, dataset.fingerprint, folds.fold_of.tolist())
    return Experiment(config, run_dir, dataset, folds, policy, weights_hash)


def recorded(
    runtime: RuntimeConfig, policy: DevicePolicy, samples: Sequence[Sample]
) -> RecordedRuntime:
    """What a fold that begins now runs with, all `auto` resolved."""
    return RecordedRuntime(
        device=str(policy.device),
        source=choose_source(runtime, samples, policy.device)[0],
        kernels=runtime.kernels,
        compile="on" if policy.compile else "off",
        cuda_graphs="on" if policy.replay else "off",
        threads=torch.get_num_threads(),
        precision="bf16" if policy.autocast_dtype is not None else "fp32",
    )


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
