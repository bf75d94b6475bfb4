"""The stages between training and the summary: out-of-fold predictions, temperature, submission."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.data.folds import Folds
from engine.data.sources import ResidentFrames
from engine.frames.index import Dataset
from engine.identity import stage_identity
from engine.report.atlas_report import Atlas, AtlasFrames
from engine.report.environment import warn_apart
from engine.report.finish import is_finished, run_atlas
from engine.resume import resolved
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, own_threads
from engine.selection.records import TemperatureChoice
from engine.selection.scores import calibrated, choose_temperature
from engine.views import store, submission
from engine.views.masks import masks
from engine.views.predictor import Predictor, open_predictor
from engine.views.records import FoldState

if TYPE_CHECKING:
    # Not to predict in one process.
    from engine.distributed.world import World


class Opened(Protocol):
    """What they need of an `engine.experiment.Experiment`."""

    @property
    def config(self) -> Config:
        """The experiment."""

    @property
    def dir(self) -> RunDir:
        """Its folder."""

    @property
    def dataset(self) -> Dataset:
        """Its frames."""

    @property
    def folds(self) -> Folds:
        """Which fold validates which."""

    @property
    def policy(self) -> DevicePolicy:
        """What it runs on."""

    @property
    def weights_hash(self) -> str:
        """Of all that trained weights depend on."""

    @property
    def world(self) -> "World | None":
        """The processes that take batches in turns, with this one; it is the first."""

    def as_begun(self, fold: int) -> Self:
        """The same with the settings that a fold began with."""

    def tell(self, **order: Any) -> None:
        """Have the others do their part."""


def predict_out_of_fold(
    run: Opened,
    trained: Sequence[int],
    networks: Sequence[str],
    key: str,
    resident: ResidentFrames | None,
) -> dict[int, FoldState]:
    """Predict the validation frames of folds with all their networks; finish once all are there.

    A frame's probabilities are the mean over its fold's networks. `networks` are their hashes.
    """

    def load(fold: int, start: int) -> Predictor:
        begun = run.as_begun(fold)
        if world is not None:
            recorded = resolved(begun.config, begun.policy, samples)
            run.tell(do="predict", fold=fold, start=start, recorded=recorded)
        opened = open_predictor(begun.config, run.dir, config.members(fold), begun.policy)
        here = resident if opened.policy.device == run.policy.device else None
        return replace(opened, reader=replace(opened.reader, resident=here))

    config, samples = run.config, run.dataset.train.samples
    world = None if config.openvino else run.world
    if run.dir.manifest.exists() and run.dir.store.exists():
        predicted = store.open_store(run.dir.oof, key).manifest.predicted
        if not run.dir.temperature.exists():
            _choose_temperature(run, predicted)
        return predicted
    begun = stage_identity(config, run.weights_hash)
    layout = store.oof_layout(config, samples, run.folds, begun)
    writer = store.ProbStoreWriter(run.dir.oof, layout)
    predicted = {}
    for fold in range(config.data.folds):
        members = config.members(fold)
        if not {*members} <= {*trained}:
            continue
        # One hash of one network, as it has always been.
        weights = ",".join(networks[member] for member in members)
        opening = partial(load, fold)
        with own_threads():
            predicted[fold] = store.predict_fold(opening, fold, weights, samples, writer, world)
    if len(predicted) == config.data.folds:
        warn_apart(run.dir, config.networks)
        writer.finish(_choose_temperature(run, predicted).best, key)
    return predicted


def _choose_temperature(run: Opened, predicted: Mapping[int, FoldState]) -> TemperatureChoice:
    """Write and return the choice, which follows from the counts alone."""
    count_FTCC = np.array([state.confusion for state in predicted.values()])
    fixed = run.config.selection.temperature
    choice = choose_temperature(run.config.inference.temperatures, count_FTCC, fixed)
    choice = calibrated(choice, {fold: state.calibration for fold, state in predicted.items()})
    choice.write(run.dir.temperature)
    return choice


def set_temperature(run: Opened) -> None:
    """Write the temperature that the config sets, where no frame is held out to score one."""
    given = run.config.inference.temperatures
    fixed = run.config.selection.temperature
    best = given[0] if fixed is None else fixed
    choice = TemperatureChoice(best=best, index=given.index(best), chosen_by="config", scores=[])
    choice.write(run.dir.temperature)


def predict_test(run: Opened, key: str) -> float | None:
    """Predict the test frames into the submission; the seconds that it took, None without any."""

    def predict(start: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        temperature = TemperatureChoice.read(run.dir.temperature).best
        folds, begun = range(run.config.networks), run.as_begun(0)
        predictor = open_predictor(begun.config, run.dir, folds, begun.policy).at(temperature)
        if run.world is None or run.config.openvino:
            return masks(predictor, test, start)
        from engine.views.together import masks_in_order

        recorded = resolved(begun.config, begun.policy, test)
        run.tell(do="test", start=start, temperature=temperature, recorded=recorded)
        return masks_in_order(predictor, test, start, run.world)

    test = run.dataset.test.samples
    with own_threads():
        return submission.write_submission(predict, test, run.dir, key)


def map_errors(run: Opened, key: str) -> Atlas:
    """The atlas of a run's out-of-fold masks, made unless it is there."""
    samples, fold_of = run.dataset.train.samples, run.folds.fold_of.tolist()
    return run_atlas(
        run.dir, key, AtlasFrames(samples, fold_of, run.config.data.classes), run.policy
    )


def is_complete(run: Opened, key: str) -> bool:
    """Whether the summary of what `key` stands for is there, and the submission, if any is due."""
    submitted = not run.dataset.test.samples or submission.is_submitted(run.dir)
    return submitted and is_finished(run.dir, key, holds_out=run.config.holds_out)
