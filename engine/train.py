"""python -m engine.train: folds -> training -> out-of-fold -> temperature -> submission, atlas.

Each stage leaves its files in the run folder and is skipped where they already stand, so a later
call goes on where an earlier one ended.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli import ConfigError, load_config, parse_command_line, run_main
from engine.config import Config
from engine.rundir import RunDir, read_json, write_json

if TYPE_CHECKING:
    from engine.experiment import Experiment

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
        from engine.profile import profile

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
    from engine.experiment import check_same_experiment, open_experiment

    start_s = time.monotonic()
    check_same_experiment(config, run_dir)
    run = open_experiment(config, run_dir)
    _check_stopped(run, chosen, resume)
    opened_s = time.monotonic() - start_s
    key = run.stage_hash(*run.fold_hashes())
    if run_dir.summary.exists() and read_json(run_dir.summary)["key"] == key:
        from engine.views.submission import forget_progress

        _log.info("%s is complete; nothing to do", run_dir.root)
        forget_progress(run_dir)
        _atlas(run, key)
        _show(run_dir)
        return 0
    run.describe()
    _train_folds(run, chosen)
    predicted = _predict_out_of_fold(run)
    if len(predicted) < config.data.folds:
        missing = sorted(set(range(config.data.folds)) - {int(fold) for fold in predicted})
        _log.info(
            "folds %s remain: run the same command without --folds to complete %s",
            " ".join(map(str, missing)),
            run_dir.root,
        )
        return 0
    _finish(run, predicted, opened_s)
    return 0


def _check_stopped(run: "Experiment", chosen: Sequence[int], resume: bool) -> None:
    from engine.training.loop import stopped_at

    for fold in chosen:
        position = stopped_at(run.dir, fold, run.weights_hash)
        if position and position.epoch < run.config.training.epochs and not resume:
            raise ConfigError(
                f"fold {fold} of {run.dir.root} was stopped in epoch {position.epoch + 1} of "
                f"{run.config.training.epochs}; --resume continues it exactly, another --out "
                "starts afresh"
            )


def _train_folds(run: "Experiment", chosen: Sequence[int]) -> None:
    from engine.model.weights import check_source
    from engine.training.epoch_table import EPOCH_HEADER
    from engine.training.loop import is_complete, stopped_at, train_fold

    epochs = run.config.training.epochs
    tasks = [
        run.task(fold)
        for fold in chosen
        if not is_complete(run.dir, fold, epochs, run.weights_hash)
    ]
    # A file that is missing is missed now, not when the folds before it have been trained.
    for task in tasks:
        if stopped_at(run.dir, task.fold, run.weights_hash) is None:
            check_source(run.config.model.of_fold(task.fold))
    if tasks and epochs:
        _log.info("%s", EPOCH_HEADER)
    for task in tasks:
        train_fold(task, run.policy)


def _predict_out_of_fold(run: "Experiment") -> dict[str, Any]:
    """Predict every trained fold's validation frames; finish the store once all are trained.

    Returns:
        The store's state by fold: frames done, confusion by temperature, seconds.
    """
    from engine.selection.temperature import choose_temperature, total_confusion
    from engine.training.loop import is_complete
    from engine.views.networks import load_fold
    from engine.views.oof import oof_layout, predict_fold
    from engine.views.store import ProbStoreWriter, forget_progress, open_store

    config, samples = run.config, run.dataset.train.samples
    trained = [
        fold
        for fold in range(config.data.folds)
        if is_complete(run.dir, fold, config.training.epochs, run.weights_hash)
    ]
    weights = run.fold_hashes()
    key = run.stage_hash(*weights)
    if (run.dir.oof / "manifest.json").exists():
        finished: dict[str, Any] = open_store(run.dir.oof, key).manifest["predicted"]
        forget_progress(run.dir.oof)
        return finished
    writer = ProbStoreWriter(run.dir.oof, oof_layout(config, samples, run.folds, run.stage_hash()))
    for fold in trained:
        predict_fold(
            partial(load_fold, config, run.dir, fold, run.policy),
            fold,
            weights[fold],
            run.folds,
            samples,
            config,
            run.policy,
            writer,
        )
    predicted = {str(fold): writer.state(fold, weights[fold]) for fold in trained}
    if len(trained) == config.data.folds:
        choice = choose_temperature(
            config.inference.temperatures,
            total_confusion(predicted),
            config.selection.temperature,
        )
        write_json(run.dir.temperature, choice)
        writer.finish(choice["best"], key)
    return predicted


def _finish(run: "Experiment", predicted: dict[str, Any], opened_s: float) -> None:
    """Predict the test frames, map the errors and write the summary."""
    from engine.report.summary import summarise
    from engine.runtime.environment import peak_memory_mib
    from engine.training.checkpoint import read_metrics
    from engine.views.masks import predict_masks
    from engine.views.networks import load_folds
    from engine.views.submission import forget_progress, write_submission

    config, test = run.config, run.dataset.test.samples
    choice = read_json(run.dir.temperature)
    folds = range(config.data.folds)
    key = run.stage_hash(*run.fold_hashes())

    def masks(start: int) -> Any:
        networks = load_folds(config, run.dir, folds, run.policy)
        return predict_masks(networks, test, choice["best"], config, run.policy, start)

    submission_s = write_submission(masks, test, run.dir, key)
    # A fold that was not trained has one line too: the score of the weights that it was given.
    lines = max(config.training.epochs, 1)
    metrics = {k: read_metrics(run.dir.metrics(k), lines) for k in folds}
    summary = summarise(config.data.classes, predicted, choice, metrics, run.folds.leakage)
    summary["seconds"] = {"prepare": round(opened_s, 3), **summary["seconds"]}
    if submission_s is not None:
        summary["seconds"]["submission"] = submission_s
    summary["seconds"]["atlas"] = _atlas(run, key)["elapsed_s"]
    summary["seconds"]["total"] = round(sum(summary["seconds"].values()), 3)
    summary["peak_memory_mib"] = round(peak_memory_mib())
    write_json(run.dir.summary, {"key": key, **summary})
    forget_progress(run.dir)
    _show(run.dir)


def _atlas(run: "Experiment", key: str) -> dict[str, Any]:
    """The error atlas of the stored predictions, made unless it stands."""
    import numpy as np

    from engine.report.atlas import has_atlas, stored_masks, write_atlas
    from engine.views.store import open_store

    if has_atlas(run.dir, key):
        found: dict[str, Any] = read_json(run.dir.atlas)
        return found
    samples, classes = run.dataset.train.samples, run.config.data.classes
    ones_1C = np.ones((1, len(classes)))
    masks = stored_masks([open_store(run.dir.oof, key).prob_NChw], ones_1C, run.policy)
    return write_atlas(run.dir, key, samples, run.folds.fold_of.tolist(), classes, masks)


def _show(run_dir: RunDir) -> None:
    from rich.console import Console

    from engine.report.atlas_report import atlas_tables
    from engine.report.summary import summary_tables

    console = Console()
    scores = read_json(run_dir.temperature)["scores"]
    tables = summary_tables(read_json(run_dir.summary), scores)
    for table in [*tables, *atlas_tables(read_json(run_dir.atlas))]:
        console.print(table)
    console.print(f"written to {run_dir.root}", highlight=False)


if __name__ == "__main__":
    run_main(main)
