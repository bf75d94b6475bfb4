"""python -m engine.train: folds -> training -> out-of-fold -> temperature -> submission, atlas.

Each stage leaves its files in the run folder and is skipped where they already stand, so a later
call goes on where an earlier one ended.
"""

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli import ConfigError, load_config, parse_command_line, run_main
from engine.config import Config
from engine.rundir import RunDir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.experiment import Experiment
    from engine.report.atlas import MaskOf
    from engine.report.atlas_report import AtlasFrames
    from engine.views.predictor import Predictor
    from engine.views.store import FoldState

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.train")

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
"""The embedded default: what runs when no --config is given."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.train",
        description="Train the folds of an experiment, predict out-of-fold, choose the "
        "temperature and write a submission. Without --config: a small demo on rendered rooms.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="TOML files, merged left to right (default: configs/demo.toml)",
    )
    parser.add_argument("--out", type=Path, help="run folder (default: runs/ + config names)")
    parser.add_argument("--folds", type=int, nargs="+", metavar="K", help="train only these")
    parser.add_argument(
        "--resume", action="store_true", help="continue a fold that was stopped half-way"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="train nothing: show where an epoch of the first of the folds spends its time, "
        "and write profile/phases.json and profile/trace.json.gz into --out",
    )
    parser.add_argument(
        "--kernels",
        choices=("fused", "reference"),
        help="short for --runtime.kernels: reference runs plain PyTorch for the fused operations",
    )
    options, flags = parse_command_line(parser, arguments)
    if options.kernels:
        flags.setdefault("runtime", {})["kernels"] = options.kernels
    files = options.config or [DEMO]
    config = load_config(files, flags)
    out = options.out or Path("runs") / "-".join(file.stem for file in files)
    chosen = options.folds if options.folds is not None else list(range(config.data.folds))
    for fold in chosen:
        if not 0 <= fold < config.data.folds:
            raise ConfigError(
                f"--folds {fold}: data.folds = {config.data.folds}, so 0 .. "
                f"{config.data.folds - 1} exist"
            )
    if options.profile:
        return profile(config, RunDir(out), chosen[0])
    return train(config, RunDir(out), sorted(set(chosen)), resume=options.resume)


def train(config: Config, run_dir: RunDir, chosen: Sequence[int], *, resume: bool = False) -> int:
    """Run every stage that is not done yet.

    Args:
        config: the experiment.
        run_dir: the run folder; created, or continued if it holds the same experiment.
        chosen: folds to train in this call; the later stages wait until all are trained.
        resume: continue a fold that an earlier call left half-way.

    Returns:
        0.

    Raises:
        ConfigError: the run folder holds another experiment, or a stopped fold without `resume`.
        DatasetError: the dataset has faults.
        RuntimeError: training diverged, or a file of the run is damaged.
    """
    from engine.identity import is_sealed
    from engine.report.show import show

    if is_sealed(config, run_dir):
        _log.info("%s is complete; nothing to do", run_dir.root)
    elif not _complete(config, run_dir, chosen, resume):
        return 0
    show(run_dir)
    return 0


def _complete(config: Config, run_dir: RunDir, chosen: Sequence[int], resume: bool) -> bool:
    """Run every stage that can be run; whether the run is finished now."""
    from engine.experiment import check_same_experiment, open_experiment
    from engine.identity import seal
    from engine.report.atlas import complete_atlas
    from engine.report.summary import Summary
    from engine.views.submission import forget_progress

    start_s = time.monotonic()
    check_same_experiment(config, run_dir)
    run = open_experiment(config, run_dir)
    _check_stopped(run, chosen, resume)
    opened_s = round(time.monotonic() - start_s, 3)
    key = run.stage_hash(*run.fold_hashes())
    if run_dir.summary.exists() and Summary.read(run_dir.summary).key == key:
        _log.info("%s is complete; nothing to do", run_dir.root)
        complete_atlas(run_dir, key, *_atlas_of(run, key))
        forget_progress(run_dir)
    else:
        run.write_description()
        _train_folds(run, chosen)
        predicted = _predict_out_of_fold(run)
        missing = [str(k) for k in range(config.data.folds) if k not in predicted]
        if missing:
            _log.info(
                "folds %s remain: run the same command without --folds to complete %s",
                " ".join(missing),
                run_dir.root,
            )
            return False
        _finish(run, predicted, opened_s)
    seal(config, run_dir)
    return True


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
    Console().print(profile_table(profile_fold(run.task(fold), run.policy, folder)))
    Console().print(f"written to {folder}", highlight=False)
    return 0


def _check_stopped(run: "Experiment", chosen: Sequence[int], resume: bool) -> None:
    for fold in chosen:
        position = run.position(fold)
        if position and position.epoch < run.config.training.epochs and not resume:
            raise ConfigError(
                f"fold {fold} of {run.dir.root} was stopped in epoch {position.epoch + 1} of "
                f"{run.config.training.epochs}; --resume continues it exactly, another --out "
                "starts afresh"
            )


def _train_folds(run: "Experiment", chosen: Sequence[int]) -> None:
    from engine.model.weights import check_source
    from engine.training.checkpoint import EPOCH_HEADER
    from engine.training.loop import train_fold

    untrained = [fold for fold in chosen if not run.is_trained(fold)]
    # A file that is missing is missed now, not when the folds before it have been trained.
    for fold in untrained:
        if run.position(fold) is None:
            check_source(run.config.model.of_fold(fold))
    if untrained and run.config.training.epochs:
        _log.info("%s", EPOCH_HEADER)
    for fold in untrained:
        train_fold(*run.begin(fold))


def _predict_out_of_fold(run: "Experiment") -> "dict[int, FoldState]":
    """Predict every trained fold's validation frames; finish the store once all are trained."""
    import numpy as np

    from engine.selection.scores import choose_temperature
    from engine.views.oof import oof_layout, predict_fold
    from engine.views.predictor import open_predictor
    from engine.views.store import ProbStoreWriter, forget_progress, open_store

    config, samples = run.config, run.dataset.train.samples
    weights = run.fold_hashes()
    key = run.stage_hash(*weights)
    if run.dir.manifest.exists():
        finished = open_store(run.dir.oof, key).manifest.predicted
        forget_progress(run.dir.oof)
        return finished
    writer = ProbStoreWriter(run.dir.oof, oof_layout(config, samples, run.folds, run.stage_hash()))

    def predict(fold: int) -> "FoldState":
        def load() -> "Predictor":
            return open_predictor(config, run.dir, [fold], run.policy)

        return predict_fold(load, fold, weights[fold], samples, writer)

    predicted = {k: predict(k) for k in range(config.data.folds) if run.is_trained(k)}
    if len(predicted) == config.data.folds:
        choice = choose_temperature(
            config.inference.temperatures,
            np.stack([state.counts() for state in predicted.values()]),
            config.selection.temperature,
        )
        choice.write(run.dir.temperature)
        writer.finish(choice.best, key)
    return predicted


def _finish(run: "Experiment", predicted: "dict[int, FoldState]", opened_s: float) -> None:
    """Predict the test frames, map the errors and write the summary."""
    from engine.report.finish import SubmissionFrames, finish
    from engine.report.summary import FoldResult, summarise
    from engine.selection.scores import TemperatureChoice
    from engine.training.checkpoint import best_line, read_metrics
    from engine.views.predictor import open_predictor

    config, test = run.config, run.dataset.test.samples
    choice = TemperatureChoice.read(run.dir.temperature)
    key = run.stage_hash(*run.fold_hashes())

    def masks(start: int) -> "Iterator[tuple[int, NDArray[np.uint8]]]":
        predictor = open_predictor(config, run.dir, range(config.data.folds), run.policy)
        return predictor.at(choice.best).masks(test, start)

    results = {}
    for fold, state in predicted.items():
        # A fold that was not trained has one line too: the score of the weights it was given.
        lines = read_metrics(run.dir.metrics(fold), max(config.training.epochs, 1))
        best = best_line(lines)
        assert best.miou is not None, "the last epoch is validated"
        results[fold] = FoldResult(
            state.counts()[choice.index],
            best.epoch,
            best.miou,
            sum(line.train_s for line in lines),
            sum(line.validation_s for line in lines),
            state.elapsed_s,
        )
    summary = summarise(key, config.data.classes, choice.best, results, run.folds.leakage, opened_s)
    finish(run.dir, summary, *_atlas_of(run, key), SubmissionFrames(test, masks))


def _atlas_of(run: "Experiment", key: str) -> "tuple[AtlasFrames, Callable[[], MaskOf]]":
    """The training frames, and what opens their stored predictions."""
    import numpy as np

    from engine.report.atlas import MaskOf, stored_masks
    from engine.report.atlas_report import AtlasFrames
    from engine.views.store import open_store

    samples, classes = run.dataset.train.samples, run.config.data.classes

    def open_masks() -> MaskOf:
        store = open_store(run.dir.oof, key)
        return stored_masks([store.prob_NChw], np.ones((1, len(classes))), run.policy)

    return AtlasFrames(samples, run.folds.fold_of.tolist(), classes), open_masks


if __name__ == "__main__":
    run_main(main)
