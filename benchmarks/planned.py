"""python -m benchmarks.planned DATA: is the config of `prepare new` better than lite's in its time?

Fold 0 is trained twice: by `lite.toml`, for as many of its epochs as fit --minutes, and by the plan
that `prepare new` makes for the time of that whole run. Both have the plan's classes and folds, so
that they validate the same frames, and each predicts them by its own views. Steps of both are timed
in turns beforehand, and the plan's epochs are as many as fit the time of lite's.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from benchmarks import command
from engine.command import run_main

if TYPE_CHECKING:
    from engine.config import Config
    from engine.experiment import Experiment

TURNS = 2
"""Measurements of each side's steps, in turns."""


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
    from benchmarks.figures import say
    from engine.plan.choices import data_choices, shapes
    from engine.plan.planned import examine, make_plan
    from engine.plan.written import sections_of

    found, machine = examine(root, device="cpu")
    data = sections_of(data_choices(found, shapes(found, 8)[0]))["data"]
    lite = _lite(data, epochs=12)
    step_s, steps = _measure(lite, scratch / "lite")
    epochs = max(1, min(12, int(budget_s / (step_s * steps))))
    lite = _with(lite, "training", {"epochs": epochs, "validate_every": max(1, epochs // 3)})
    # Of the whole run: as much again as lite takes for views, which the plan counts too.
    plan = make_plan(found, machine, lite.data.folds * step_s * steps * epochs / 0.85)
    planned = plan.config()
    sides = {"lite": lite, "planned": planned}
    turns: dict[str, list[float]] = {"lite": [], "planned": []}
    each: dict[str, float] = {}
    for turn in range(TURNS):
        for name, config in sides.items():
            step_s, steps = _measure(config, scratch / f"{turn}{name}")
            turns[name].append(step_s)
            each[name] = statistics.median(turns[name]) * steps
    fold_s = each["lite"] * lite.training.epochs
    fits = max(1, int(fold_s / each["planned"]))
    every = {"epochs": fits, "validate_every": math.ceil(fits / 3)}
    sides["planned"] = _with(planned, "training", every)
    rows = []
    for seed in range(seeds):
        row: dict[str, Any] = {"data": root.name, "seed": 42 + seed}
        for name, config in sides.items():
            seeded = _with(config, "training", {"seed": 42 + seed})
            row[name] = _trained(seeded, each[name], scratch / f"{name}{seed}")
        rows.append(row)
        say(
            f"{root.name}, seed {row['seed']}: lite {row['lite']['miou']:.4f} "
            f"in {row['lite']['steps_s']:.0f} s of steps, "
            f"planned {row['planned']['miou']:.4f} in {row['planned']['steps_s']:.0f} s"
        )
    gains = [row["planned"]["miou"] - row["lite"]["miou"] for row in rows]
    say(f"planned - lite: {statistics.mean(gains):+.4f} ({min(gains):+.4f} .. {max(gains):+.4f})")
    told = {choice.name: choice.value for choice in plan.choices if choice.name != "data.root"}
    return {"rows": rows, "epoch_s": each, "measured_step_s": turns, "plan": told}


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


def _with(config: "Config", section: str, changes: Mapping[str, Any]) -> "Config":
    from benchmarks.subset import with_section

    return with_section(config, section, **changes)


def _open(config: "Config", folder: Path) -> "Experiment":
    from engine.experiment import open_experiment
    from engine.rundir import RunDir

    return open_experiment(config, RunDir(folder))


def _measure(config: "Config", folder: Path) -> tuple[float, int]:
    """Seconds of a step, and steps of an epoch."""
    from engine.training.pace import measure

    run = _open(config, folder)
    task = run.task(0)
    return measure(task, run.policy).step_s, task.steps_per_epoch


def _trained(config: "Config", epoch_s: float, folder: Path) -> dict[str, Any]:
    """Train fold 0 and predict its validation frames by all views."""
    from engine.training.loop import FoldTraining
    from engine.views.predictor import open_predictor
    from kernels.metrics import mean_iou

    run = _open(config, folder)
    task = replace(run.task(0), later=0)
    run.dir.fold(0).mkdir(parents=True, exist_ok=True)
    start_s = time.monotonic()
    FoldTraining(task, run.policy).run()
    wall_s = time.monotonic() - start_s
    predictor = open_predictor(run.config, run.dir, [0], run.policy)
    samples = [run.dataset.train.samples[index] for index in task.validation.tolist()]
    # By all views, at the first temperature of both.
    miou = mean_iou(predictor.confusion(samples))
    return {
        "miou": round(float(miou), 4),
        "epochs": config.training.epochs,
        "steps_s": round(epoch_s * config.training.epochs, 1),
        "wall_s": round(wall_s, 1),
        "frames": [len(task.training), len(task.validation)],
    }


if __name__ == "__main__":
    run_main(main)
