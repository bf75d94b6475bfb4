"""python -m benchmarks.quality: do the plain recipe and the engine train to the same quality?"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import at_least, check_installed, load_size, say
from engine.cli import parse_command_line
from engine.command import run_main

if TYPE_CHECKING:
    from benchmarks.subset import Subset


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
    add, all_frames = parser.add_argument, "training frames (default: all)"
    add("--seeds", type=at_least(1), default=3, metavar="N", help="how many (default: 3)")
    add("--frames", type=int, default=sys.maxsize, metavar="N", help=all_frames)
    add("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options, flags = parse_command_line(parser, arguments)
    check_installed()
    config = load_size("lite", flags, "cpu")

    from benchmarks.report import describe_machine, write_json
    from benchmarks.subset import open_subset

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="roomsmith-quality-") as scratch:
        subset = open_subset(config, options.frames, Path(scratch) / "frames")
        for number in range(options.seeds):
            seed = config.training.seed + 1000 * number
            row = _compare(subset, seed, Path(scratch) / str(seed))
            say(
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
    from benchmarks.subset import with_section

    seeded = subset.configured(with_section(subset.config, "training", seed=seed))
    row: dict[str, Any] = {"name": "quality", "rival": "plain", "seed": seed}
    for prefix, side in (("", _ours), ("rival_", _plain)):
        start_s = time.monotonic()
        mious = side(seeded, folder / side.__name__)
        row |= {f"{prefix}miou": max(mious), f"{prefix}mious": list(mious)}
        row[f"{prefix}seconds"] = round(time.monotonic() - start_s, 1)
    return row


def _ours(subset: "Subset", folder: Path) -> Sequence[float]:
    """Train and score by the engine: mIoU by temperature."""
    from benchmarks import engine_parts

    run = engine_parts.experiment(subset, folder)
    engine_parts.train(run)
    return engine_parts.out_of_fold(run, engine_parts.load(run))[0]


def _plain(subset: "Subset", folder: Path) -> Sequence[float]:
    """Train and score by the recipe: mIoU by temperature."""
    from benchmarks.plain.recipe import Recipe
    from benchmarks.plain.run import OutOfFold, load_best
    from benchmarks.plain.training import train_fold

    config, best = subset.config, folder / "best0.pt"
    # What a user may do to be faster changes no result; softmax of one pass gives the same too.
    recipe = Recipe(config.runtime.device, channels_last=True, shared_passes=True)
    train_fold(config, subset.training, subset.validation, 0, best, recipe)
    predicted = OutOfFold(config, subset.dataset, folder)
    predicted.add(load_best(config, best, recipe), subset.folds.validation(0))
    return predicted.finish().miou_T


if __name__ == "__main__":
    run_main(main)
