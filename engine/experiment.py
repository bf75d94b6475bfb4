"""An experiment opened for work (config, checked data, folds, device, hash), and its stages.

Each stage leaves its files in the run folder and is skipped where they already stand, so a later
call goes on where an earlier one ended.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from engine import stages
from engine.config import Config
from engine.damage import remedy
from engine.data.alike import alike_frames
from engine.data.checked import read_dataset
from engine.data.folds import Folds, check_same_folds, cut_folds, images_of, is_exact
from engine.data.leakage import leakage_told
from engine.data.sources import ResidentFrames, trained_frames
from engine.epochs import last_epoch
from engine.frames.cache import cache_folder
from engine.frames.index import Dataset
from engine.frames.samples import hw_of, of_each_size
from engine.identity import fold_hashes, stage_identity, weights_identity
from engine.lease import hold
from engine.model.network import input_normalisation
from engine.origin import Origin, check_origin, check_teachers, origin_of
from engine.rehearsal import check_training, check_views
from engine.report.census import judge_data
from engine.report.environment import describe_environment, note_computer
from engine.report.finish import finish
from engine.report.mend import mend
from engine.report.page.write import report_at_the_end
from engine.report.seal import dataset_files, seal
from engine.report.seen import judged_origin
from engine.report.submission_scores import score_submission
from engine.report.summary import summarise, summarise_unscored
from engine.report.zoom_gap import zoom_gap
from engine.resume import (
    FINISHED,
    Goal,
    check_same_experiment,
    kept_setup,
    recorded_runtime,
    resolved,
    stopped,
)
from engine.rundir import NOT_MEASURED, RunDir, load_run, to_complete, write_config
from engine.runtime.device import DevicePolicy, set_up_device
from engine.runtime.gpu import compiling_pays
from engine.runtime.graphs import free_recordings
from engine.training import checkpoint
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import Position
from engine.views import int8_network, store
from engine.views.openvino_pass import check_openvino
from engine.views.records import FoldState
from kernels.compiling import work_s

if TYPE_CHECKING:
    # Not to train in one process.
    from engine.distributed.world import World

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """A config on its data and device: what every stage of one call needs."""

    config: Config
    dir: RunDir
    dataset: Dataset
    folds: Folds
    policy: DevicePolicy
    weights_hash: str
    """Of all that trained weights depend on."""
    world: "World | None" = None
    """The processes that this one, the first, has to help it."""
    origin: Origin | None = None
    """What the config names of another run or of code."""

    def task(self, fold: int) -> FoldTask:
        """What training of a network needs; of several with the same frames each has a seed."""
        frames = self.folds.training(fold), self.folds.validation(fold)
        config = self.config.of_network(fold)
        if member := fold // config.data.folds if config.holds_out else fold:
            training = config.training.model_copy(update={"seed": config.training.seed + member})
            config = config.model_copy(update={"training": training})
        return FoldTask(config, self.dataset, self.dir, fold, *frames, self.weights_hash)

    def begin(self, fold: int) -> tuple[FoldTask, DevicePolicy]:
        """What trains a fold, and on what, as noted when it was begun; a new one is noted now."""
        begun = self.position(fold) is not None
        note_computer(self.dir.fold_environment(fold), fold, begun=begun)
        run = self.as_begun(fold) if begun else self
        task, policy = run.task(fold), run.policy
        samples = trained_frames(run.config, run.dataset, fold)
        resolved(run.config, policy, samples).write(self.dir.runtime(fold))
        if task.config.training.teacher:
            from engine.training.pseudo import taught

            task = taught(task, policy, run.is_trained)
        if run.config.training.parts > 1:
            if run.config.runtime.tune != "off":
                _log.info("runtime.tune: steps of several parts have one form, nothing is tuned")
        elif run.config.runtime.tune != "off" or self.dir.step_form(fold).exists():
            from engine.training.tuning.choice import choose_form

            policy = choose_form(task, policy, begun=begun)
        return task, policy

    def as_begun(self, fold: int) -> Self:
        """The same with the settings that a fold began with, see `kept_setup`; sets its threads."""
        now = resolved(self.config, self.policy, trained_frames(self.config, self.dataset, fold))
        config, policy = kept_setup(self.config, self.policy, now, self.dir, fold)
        return replace(self, config=config, policy=policy)

    def tell(self, **order: Any) -> None:
        """Have the other processes, if there are some, do a part of what comes next."""
        if self.world is not None:
            from engine.distributed.orders import Order

            self.world.order(Order(**order).model_dump_json())

    def position(self, fold: int) -> Position | None:
        """Where an earlier call left the fold; None if it never saved."""
        epochs = last_epoch(self.dir, fold, self.config.training)
        return checkpoint.position_of(self.dir, fold, epochs, self.weights_hash)

    def is_trained(self, fold: int, epochs: int | None = None) -> bool:
        """Whether the fold has been trained to its last epoch, or for so many of its `epochs`.

        After its last one, its weights have to be there.
        """
        position, last = self.position(fold), last_epoch(self.dir, fold, self.config.training)
        if position is None or position.epoch < min(last, last if epochs is None else epochs):
            return False
        if position.epoch >= last and not (best := self.dir.best(fold)).exists():
            raise FileNotFoundError(f"{best} is missing; {remedy(best)}")
        return True

    def quantise(self, fold: int, weights: str) -> str:
        """Hash of a trained fold's network in INT8, which is made if it is not there.

        `weights` is the SHA-256 of the fold's weights. Raises RuntimeError without NNCF.
        """
        found = int8_network.find_sound(self.dir, fold, weights)
        if found is None:
            from engine.views.int8 import quantise_fold

            parts = self.folds.training(fold), self.folds.validation(fold)
            training, validation = (
                [self.dataset.train.samples[index] for index in part] for part in parts
            )
            found = quantise_fold(self.config, self.dir, fold, self.policy, training, validation)
        return found.network

    def write_description(self) -> None:
        """Write what the run is made from: config, environment and folds."""
        # One at a time: else one machine's checksums would stand beside another one's environment.
        with hold(self.dir.description, wait=True):
            write_config(self.config, self.dir)
            describe_environment(self.dataset.fingerprint).write(self.dir.environment)
            train = self.dataset.train
            self.folds.file(train.samples, images_of(train)).write(self.dir.folds)
            if self.origin is not None and not self.dir.origin.exists():
                self.origin.write(self.dir.origin)


def open_experiment(config: Config, run_dir: RunDir) -> Experiment:
    """Choose the device, check the dataset, cut the folds; writes nothing.

    Raises ValueError if the device, RuntimeError if `runtime.inference` is not there; else as
    `read_dataset`.
    """
    # An unknown encoder or an absent device is found now, not after the files have been read.
    origin = origin_of(config, run_dir)
    input_normalisation(config.model, origin.folds[0] if origin and origin.folds else None)
    policy = set_up_device(config.runtime)
    if config.code and config.runtime.cuda_graphs == "auto":
        # A recording would silently leave out what a plug-in does in Python.
        policy = replace(policy, replay=False)
    if policy.device.type == "cpu" and config.runtime.kernels == "fused":
        from kernels.ahead import compile_ahead

        compile_ahead()
    if config.openvino:
        check_openvino(policy.device, config.runtime.inference)
    dataset, data = read_dataset(config, policy.device), config.data
    frames, kept = dataset.train.samples, cache_folder(config.runtime.cache)
    alike = None
    if config.holds_out:
        alike = alike_frames(dataset.train, exact=is_exact(run_dir), folder=kept)
    folds = cut_folds(config, frames, alike)
    check_same_folds(run_dir, folds, frames)
    leakage = leakage_told(folds.leakage, folds.numbered, folds.content)
    told = f"{folds.told()}, {leakage}" if config.holds_out else NOT_MEASURED
    counts = len(frames), len(dataset.test.samples)
    _log.info("%s: %d training and %d test frames; %s", data.root, *counts, told)
    if gap := zoom_gap(config, hw_of(frames).tolist()):
        _log.info("%s", gap.told())
    weights_hash = weights_identity(config, run_dir, dataset.fingerprint, folds.fold_of.tolist())
    if policy.replay and config.runtime.compile == "auto":
        policy = replace(policy, compile=compiling_pays(config, len(frames)))
    origin = judged_origin(origin, config, run_dir, dataset, folds)
    return Experiment(config, run_dir, dataset, folds, policy, weights_hash, origin=origin)


def open_together(config: Config, run_dir: RunDir, world: "World | None") -> Experiment:
    """`open_experiment`, by this process and then by those that help it."""
    run = replace(open_experiment(config, run_dir), world=world)
    run.tell(do="open", weights_hash=run.weights_hash, threads=torch.get_num_threads())
    return run


def complete(
    config: Config,
    run_dir: RunDir,
    chosen: Sequence[int],
    *,
    resume: bool,
    goal: Goal = FINISHED,
    world: "World | None" = None,
) -> bool:
    """Run every stage that can be run; whether the run is finished now.

    A `run_dir` that holds the same experiment is continued. The `chosen` folds are trained; later
    stages wait until all are, and until another process that is at them is done; none goes beyond
    the `goal`. `resume` continues a fold that was stopped half-way. A finished run is sealed. This
    process is the first of a `world` where others help it (`engine.follow`).
    Raises ConfigError if the folder holds another experiment, or a stopped fold without `resume`;
    HeldError if another process trains one of the folds; ValueError if a fold that is to be trained
    has nothing to learn from; RuntimeError if training diverged, DamageError if a file is damaged
    that does not follow from others; else as `open_experiment`.
    """
    start_s, files = work_s(), dataset_files(config)
    if run_dir.config.is_file():
        check_same_experiment(config, run_dir)
    run = open_together(config, run_dir, world)
    opened_s = round(work_s() - start_s, 3)
    key = stage_identity(config, run.weights_hash, *fold_hashes(config, run_dir))
    done = stages.is_complete(run, key)
    if done and not os.access(run_dir.root, os.W_OK):
        _log.info("%s is complete; nothing can be written there", run_dir.root)
        return True
    resident = None if done else _train(run, chosen, resume, goal.epochs)
    if not done and goal.is_training:
        return False
    with hold(run_dir.results, wait=True):
        compared = run_dir.parity.exists()
        mend(run_dir)
        store.adopt_progress(run_dir)
        # In this order: another process may train a fold meanwhile; a trained one stays as it is.
        whole = config.holds_out and run_dir.manifest.exists() and run_dir.store.exists()
        trained = [k for k in range(config.networks) if whole or run.is_trained(k)]
        weights = fold_hashes(config, run_dir)
        networks = _networks(run, trained, weights)
        key = stage_identity(config, run.weights_hash, *weights)
        if finished := stages.is_complete(run, key):
            _log.info("%s is complete; nothing to do", run_dir.root)
            if config.holds_out:
                stages.map_errors(run, key)
            if compared:  # it was damaged, perhaps; a run of an older release has none
                _compare_step(run)
            store.forget_progress(run_dir)
        else:
            if run_dir.config.is_file() and load_run(run_dir).int8 != config.int8:
                write_config(config, run_dir)  # by which a blend opens the store
            predicted: Mapping[int, FoldState] = {}
            if config.holds_out:
                predicted = stages.predict_out_of_fold(run, trained, networks, key, resident)
            del resident
            missing = [str(k) for k in range(config.networks) if k not in trained]
            if missing:
                what = "folds" if config.holds_out and config.training.members == 1 else "networks"
                told = f"{what} %s remain: run the same command without --folds to complete %s"
                _log.info(told, " ".join(missing), run_dir.root)
                return False
            if goal.until == "predicted":
                told = "%s is predicted out-of-fold, as asked; submission and atlas remain: %s"
                _log.info(told, run_dir.root, to_complete(run_dir.root))
                return False
            _write_results(run, key, predicted, opened_s)
        score_submission(run_dir, run.dataset.test.samples, config.data.classes)
        checkpoint.forget(config, run_dir)
        seal(config, run_dir, files)
        if config.report.page and not (finished and run_dir.report.exists()):
            report_at_the_end(run_dir)
    return True


def _write_results(
    run: Experiment, key: str, predicted: Mapping[int, FoldState], opened_s: float
) -> None:
    """Submission, parity, atlas and, last, the summary; of all that was `predicted` out-of-fold."""
    run_dir = run.dir
    described = run_dir.config, run_dir.environment, run_dir.folds
    if not all(path.exists() for path in described):
        run.write_description()
    if run.config.holds_out:
        summary = summarise(run.config, run_dir, key, predicted, run.folds.leakage, opened_s)
        summary = summary.model_copy(update=run.folds.measured())
    else:
        stages.set_temperature(run)
        summary = summarise_unscored(run.config, run_dir, key, opened_s)
    if gap := zoom_gap(run.config, hw_of(run.dataset.train.samples).tolist()):
        summary = summary.model_copy(update={"zoom_gap": gap})
    submission_s = stages.predict_test(run, key)
    _compare_step(run)
    atlas_s = stages.map_errors(run, key).elapsed_s if run.config.holds_out else None
    finish(run_dir, summary, submission_s, atlas_s)


def check_folds(run: Experiment, chosen: Sequence[int], *, resume: bool) -> list[int]:
    """The `chosen` folds that are not trained yet, once all is judged that they begin with.

    Writes nothing. Raises as `complete`; whatever it does not refuse cannot be known before.
    """
    dataset, training = run.dataset, run.config.training
    check_views(run.config, of_each_size(dataset.train, dataset.test), run.policy.device)
    for fold in chosen:
        position = run.position(fold)
        if position and position.epoch < last_epoch(run.dir, fold, training) and not resume:
            raise stopped(run.dir, fold, position.epoch, training.epochs)
    untrained = [fold for fold in chosen if not run.is_trained(fold)]
    check_teachers(run.config, untrained, run.is_trained)
    if untrained:
        judge_data(run.config, dataset, run.folds, sorted({*map(run.folds.of, untrained)}))
        begin = [fold for fold in untrained if run.position(fold) is None]
        check_origin(run.config, run.dir, begin, untrained)
        check_training(run.config, {fold: len(run.folds.training(fold)) for fold in begin})
    return untrained


def _train(
    run: Experiment, chosen: Sequence[int], resume: bool, epochs: int | None
) -> ResidentFrames | None:
    """Train the folds that are not trained for so many epochs; returns as `_train_folds`."""
    chosen = check_folds(run, chosen, resume=resume)
    untrained = [fold for fold in chosen if not run.is_trained(fold, epochs)]
    if not untrained:
        return None
    with ExitStack() as folds:
        for fold in untrained:
            folds.enter_context(hold(run.dir.training(fold)))
        run.write_description()
        # Asked again: another process may have trained one before it was leased.
        untrained = [fold for fold in untrained if not run.is_trained(fold, epochs)]
        return _train_folds(run, untrained, epochs)


def _networks(run: Experiment, trained: Sequence[int], weights: Sequence[str]) -> list[str]:
    """Hash of what predicts by fold: of its weights, or of the network in INT8, made if need be."""
    hashes = list(weights)
    for fold in trained if run.config.int8 else ():
        if run.dir.best(fold).exists():
            hashes[fold] = run.quantise(fold, weights[fold])
    return hashes


def _compare_step(run: Experiment) -> None:
    """Write how far the training step is from float32, unless an earlier call has."""
    if not run.dir.parity.exists():
        from engine.report.parity import compare_with_float32

        began = recorded_runtime(run.dir, 0)
        compare_with_float32(run.task(0), run.policy, began).write(run.dir.parity)


def _train_folds(
    run: Experiment, untrained: Sequence[int], epochs: int | None = None
) -> ResidentFrames | None:
    """Returns the training frames, if they are on the run's device, decoded, after the last."""
    if untrained and run.config.training.epochs:
        _log.info("%s", checkpoint.EPOCH_HEADER)
    threads, resident = torch.get_num_threads(), None
    for later, fold in zip(range(len(untrained))[::-1], untrained, strict=True):
        resident = None  # gone before the fold's own are there
        task, policy = run.begin(fold)
        world = run.world if task.config.training.epochs else None
        if world is not None:
            at = run.position(fold) or Position()
            began = recorded_runtime(run.dir, fold)
            run.tell(
                do="train", fold=fold, at=(at.epoch, at.step), recorded=began, stop_after=epochs
            )
        task = replace(task, later=later, stop_after=epochs)
        resident = FoldTraining(task, policy, world=world).run()
        if policy.device != run.policy.device:
            resident = None
        if policy.device.type == "cuda":
            free_recordings()
        # A resumed fold may have set those that it began with.
        torch.set_num_threads(threads)
    return resident
