"""python -m benchmarks.quality: do the plain recipe and the engine train to the same quality?"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.throughput import check_installed
from engine.cli import ConfigError, load_config, parse_command_line, run_main

if TYPE_CHECKING:
    from benchmarks.subset import Subset

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train both sides for each seed and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Train fold 0 of exp093_2 at lite size by the engine and by the plain recipe "
        "(benchmarks/plain): same frames, same epochs, several seeds; score each on the fold's "
        "validation frames by its own multi-scale views. Any field of the config can be set, above "
        "all --data.root and --training.epochs.",
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many (default: 3)")
    parser.add_argument("--frames", type=int, metavar="N", help="training frames (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options, flags = parse_command_line(parser, arguments)
    if options.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {options.seeds}")
    check_installed()
    flags.setdefault("runtime", {}).setdefault("device", "cpu")
    config = load_config([_CONFIGS / "exp093_2.toml", _CONFIGS / "lite.toml"], flags)

    from benchmarks.report import describe_machine
    from benchmarks.subset import open_subset
    from engine.rundir import write_json

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="roomsmith-quality-") as scratch:
        subset = open_subset(config, options.frames or sys.maxsize, Path(scratch) / "frames")
        for number in range(options.seeds):
            seed = config.training.seed + 1000 * number
            row = _compare(subset, seed, Path(scratch) / str(seed))
            _say(
                f"seed {seed}: ours {row['miou']:.4f} in {row['seconds']:.0f} s, "
                f"plain {row['rival_miou']:.4f} in {row['rival_seconds']:.0f} s"
            )
            rows.append(row)
            if options.json:
                machine = {**describe_machine(), "epochs": config.training.epochs}
                write_json(options.json, {"machine": machine, "rows": rows})
    gains = [row["miou"] - row["rival_miou"] for row in rows]
    print(
        f"ours - plain: {statistics.mean(gains):+.4f} ({min(gains):+.4f} .. {max(gains):+.4f}), "
        f"{len(gains)} seeds of {config.training.epochs} epochs"
    )
    return 0


def _compare(subset: "Subset", seed: int, folder: Path) -> dict[str, Any]:
    from benchmarks.rows.job import with_section

    seeded = subset.configured(with_section(subset.config, "training", seed=seed))
    row: dict[str, Any] = {"name": "quality", "rival": "plain", "seed": seed}
    for prefix, side in (("", _ours), ("rival_", _plain)):
        start_s = time.monotonic()
        mious = side(seeded, folder / side.__name__)
        row |= {f"{prefix}miou": max(mious), f"{prefix}mious": mious}
        row[f"{prefix}seconds"] = round(time.monotonic() - start_s, 1)
    return row


def _ours(subset: "Subset", folder: Path) -> list[float]:
    """Train and score by the engine: mIoU by temperature."""
    from benchmarks.rows.oof import engine_scores
    from engine.rundir import RunDir
    from engine.runtime.device import choose_device
    from engine.training.loop import FoldTask, train_fold
    from engine.views.networks import load_fold

    run, policy = RunDir(folder), choose_device(subset.config.runtime)
    task = FoldTask(
        subset.config,
        subset.dataset,
        run,
        0,
        subset.folds.training(0),
        subset.folds.validation(0),
        "benchmark",
    )
    run.fold(0).mkdir(parents=True)
    train_fold(task, policy)
    network = load_fold(subset.config, run, 0, policy)
    return engine_scores(subset, network, policy, folder / "scores")[0]


def _plain(subset: "Subset", folder: Path) -> list[float]:
    """Train and score by the recipe: mIoU by temperature."""
    from benchmarks.plain.recipe import Recipe
    from benchmarks.plain.run import OutOfFold, load_best
    from benchmarks.plain.training import train_fold

    # What a user may do to be faster changes no result; softmax of one pass gives the same too.
    recipe = Recipe(subset.config.runtime.device, channels_last=True, shared_passes=True)
    samples, validation = subset.dataset.train.samples, subset.folds.validation(0)
    train_fold(
        subset.config,
        [samples[i] for i in subset.folds.training(0)],
        [samples[i] for i in validation],
        0,
        folder / "best0.pt",
        recipe,
    )
    predicted = OutOfFold(subset.config, subset.dataset, folder, recipe)
    predicted.add(load_best(subset.config, folder / "best0.pt", recipe), validation)
    return list(predicted.finish().miou_T)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
