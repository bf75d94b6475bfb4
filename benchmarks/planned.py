"""python -m benchmarks.planned DATA: is the config of `prepare new` better than lite's in its time?

Fold 0 is trained twice: by `lite.toml`, for as many of its epochs as fit --minutes, and by the plan
that `prepare new` makes for the time of that whole run. Both have the plan's classes and folds, so
that they validate the same frames, and each predicts them by its own views. Steps of both are timed
in turns beforehand, and the plan's epochs are as many as fit the time of lite's.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from benchmarks import command
from engine.command import run_main

if TYPE_CHECKING:
    from engine.config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train both sides and print; returns the exit code."""
    parser = command.parser("planned", __doc__)
    add = parser.add_argument
    add("root", type=Path, metavar="DATA", help="dataset folder")
    add("--minutes", type=float, default=2.0, help="a fold's training, at most (default: 2)")
    add("--seeds", type=command.at_least(1), default=1, metavar="N", help="how many (default: 1)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="roomsmith-planned-") as scratch:
        content = _compare(options.root, 60 * options.minutes, options.seeds, Path(scratch))
    if options.json:
        command.write_json(options.json, {"machine": command.describe_machine(), **content})
    return 0


def _compare(root: Path, budget_s: float, seeds: int, scratch: Path) -> dict[str, Any]:
    from benchmarks.apart import apart
    from benchmarks.equal_time import (
        fitted,
        measure_in_turns,
        told_measured,
        train_and_predict,
    )
    from benchmarks.figures import say
    from benchmarks.recipes import Recipe
    from engine.plan.choices import data_choices, shapes
    from engine.plan.planned import examine, make_plan
    from engine.plan.written import sections_of

    found, machine = examine(root, device="cpu")
    data = sections_of(data_choices(found, shapes(found, 8)[0]))["data"]
    lite = Recipe("lite", _lite(data, epochs=12))
    epoch_s = measure_in_turns([lite], 0, scratch)["lite"].epoch_s
    lite = lite.having(epochs=max(1, min(12, int(budget_s / epoch_s))))
    # Of the whole run: as much again as lite takes for views, which the plan counts too.
    fold_s = epoch_s * lite.config.training.epochs
    plan = make_plan(found, machine, lite.config.data.folds * fold_s / 0.85)
    sides = [lite, Recipe("planned", plan.config())]
    measured = measure_in_turns(sides, 0, scratch)
    fold_s = measured["lite"].epoch_s * lite.config.training.epochs
    sides = [fitted(one, measured[one.name].epoch_s, fold_s) for one in sides]
    rows = []
    for number in range(seeds):
        row: dict[str, Any] = {"data": root.name, "seed": 42 + number}
        for one in sides:
            seeded = one.having(seed=42 + number)
            trained = apart(train_and_predict, seeded, 0, scratch / f"{one.name}{number}")
            epochs = one.config.training.epochs
            row[one.name] = {
                "miou": round(trained.miou, 4),
                "epochs": epochs,
                "steps_s": round(measured[one.name].epoch_s * epochs, 1),
                "train_s": round(trained.train_s, 1),
                "frames": trained.frames,
            }
        rows.append(row)
        say(
            f"{root.name}, seed {row['seed']}: lite {row['lite']['miou']:.4f} "
            f"in {row['lite']['steps_s']:.0f} s of steps, "
            f"planned {row['planned']['miou']:.4f} in {row['planned']['steps_s']:.0f} s"
        )
    gains = [row["planned"]["miou"] - row["lite"]["miou"] for row in rows]
    say(f"planned - lite: {statistics.mean(gains):+.4f} ({min(gains):+.4f} .. {max(gains):+.4f})")
    told = {choice.name: choice.value for choice in plan.choices if choice.name != "data.root"}
    return {"rows": rows, "measured": told_measured(measured), "plan": told}


def _lite(data: Mapping[str, Any], epochs: int) -> "Config":
    """`lite.toml` on the same classes and folds; all else is its own."""
    from engine.cli import load_config
    from engine.named import config_file

    same = ["root", "classes", "label_map", "ignore", "depth_scale", "depth_invalid"]
    same += ["splits", "folds", "fold_kind", "blocks_per_fold"]
    fields: dict[str, JsonValue] = {key: data[key] for key in same if key in data}
    training: dict[str, JsonValue] = {"epochs": epochs}
    runtime: dict[str, JsonValue] = {"device": "cpu"}
    flags: dict[str, JsonValue] = {"data": fields, "training": training, "runtime": runtime}
    return load_config([config_file("lite")], flags)


if __name__ == "__main__":
    run_main(main)
