"""python -m benchmarks.quality: do the plain recipe and the engine train to the same quality?

Fold 0 of exp093_2 at lite size is trained by the engine and by the plain recipe (benchmarks/plain):
same frames, same epochs, several seeds; each is scored on the fold's validation frames by its own
multi-scale views. Any field of the config can be set, above all --data.root and --training.epochs.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import command
from engine.cli import parse_command_line
from engine.command import run_main

if TYPE_CHECKING:
    from benchmarks.subset import Subset


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train both sides for each seed and print; returns the exit code."""
    parser = command.parser("quality", __doc__)
    add, all_frames = parser.add_argument, "training frames (default: all)"
    add("--seeds", type=command.at_least(1), default=3, metavar="N", help="how many (default: 3)")
    add("--frames", type=command.at_least(2), default=sys.maxsize, metavar="N", help=all_frames)
    options, flags = parse_command_line(parser, arguments)
    command.check_ready("cv2", "albumentations", "segmentation_models_pytorch")
    config = command.load_size("lite", flags, "cpu")

    from benchmarks.figures import say
    from benchmarks.subset import open_subset, reseeded

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="roomsmith-quality-") as scratch:
        subset = open_subset(config, options.frames, Path(scratch) / "frames")
        for number in range(options.seeds):
            seeded = subset.configured(reseeded(subset.config, 1000 * number))
            row = _compare(seeded, Path(scratch) / str(number))
            say(
                f"seed {row['seed']}: ours {row['miou']:.4f} in {row['seconds']:.0f} s, "
                f"plain {row['rival_miou']:.4f} in {row['rival_seconds']:.0f} s"
            )
            rows.append(row)
            if options.json:
                machine = {**command.describe_machine(), "epochs": config.training.epochs}
                command.write_json(options.json, {"machine": machine, "rows": rows})
    gains = [row["miou"] - row["rival_miou"] for row in rows]
    print(
        f"ours - plain: {statistics.mean(gains):+.4f} ({min(gains):+.4f} .. {max(gains):+.4f}), "
        f"{len(gains)} seeds of {config.training.epochs} epochs"
    )
    return 0


def _compare(subset: "Subset", folder: Path) -> dict[str, Any]:
    row = {"name": "quality", "rival": "plain", "seed": subset.config.training.seed}
    for prefix, side in (("", _ours), ("rival_", _plain)):
        start_s = time.monotonic()
        mious = side(subset, folder / side.__name__)
        row |= {f"{prefix}miou": max(mious), f"{prefix}mious": list(mious)}
        row[f"{prefix}seconds"] = round(time.monotonic() - start_s, 1)
    return row


def _ours(subset: "Subset", folder: Path) -> Sequence[float]:
    """Train and score by the engine: mIoU by temperature."""
    from benchmarks.rows import ours

    run = ours.experiment(subset, folder)
    ours.train_fold(run)
    return ours.out_of_fold(run, ours.load(run))[0]


def _plain(subset: "Subset", folder: Path) -> Sequence[float]:
    """Train and score by the recipe: mIoU by temperature."""
    from benchmarks.plain.recipe import Recipe
    from benchmarks.plain.run import load_best, out_of_fold, train_fold

    config, best = subset.config, folder / "best0.pt"
    # What a user may do to be faster changes no result; softmax of one pass gives the same too.
    recipe = Recipe(config.runtime.device, channels_last=True, shared_passes=True)
    train_fold(config, subset.training, subset.validation, 0, best, recipe)
    fold = load_best(config, best, recipe), subset.folds.validation(0)
    return out_of_fold(config, subset.dataset, folder, [fold]).miou_T


if __name__ == "__main__":
    run_main(main)
