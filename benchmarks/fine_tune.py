"""python -m benchmarks.fine_tune: what a trained run is worth to a small set of other classes.

One fold of the demo is the source: 13 classes of rendered rooms. Other rooms, 60 frames of them in
five classes that the source does not have, are then learnt in three scene folds three times, with
the same steps of the same batches: from the ImageNet weights, from the source, and from the source
with its encoder frozen. Each pair is compared on its out-of-fold predictions, scene by scene.

A training that was stopped goes on when the command is typed again with the same --work.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from engine.command import run_main

SCENES, FRAMES = 14, 5
"""Rooms, the last two of which are test scenes, and views of each: 60 training frames."""

CLASSES = {
    "shell": ("ceiling", "floor", "wall", "window"),
    "rest": ("bed", "sofa", "chair"),
    "work": ("table", "tv"),
    "storage": ("furniture", "books"),
    "clutter": ("objects", "picture"),
}
"""The five classes, and those of the rooms that each is made of."""

SIDES = {
    "ImageNet": (),
    "run": ("model.weights=run:{source}#0",),
    "run, encoder frozen": ("model.weights=run:{source}#0", 'training.frozen=["encoder"]'),
}
"""What each side starts from, as flags over the same config."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, compare and print; returns the exit code."""
    parser = command.parser("fine_tune", __doc__)
    add = parser.add_argument
    add("--work", type=Path, required=True, metavar="DIR", help="folder for rooms and runs")
    add("--epochs", type=command.at_least(1), default=12, metavar="N", help="of five classes")
    add("--source-epochs", type=command.at_least(1), default=4, metavar="N", help="of the source")
    add("--seeds", type=command.at_least(1), default=3, metavar="N", help="how many (default: 3)")
    options = parser.parse_args(arguments)
    work: Path = options.work
    from benchmarks.figures import say
    from engine.rooms.dataset import render_rooms

    source = work / "source"
    epochs = f"training.epochs={options.source_epochs}"
    _train(
        source, f"data.root={_rooms(work / 'rooms')}", epochs, "--folds", "0", "--until", "trained"
    )
    five = work / "five"
    render_rooms(five, scenes=SCENES, frames=FRAMES, seed=1)
    rows: list[dict[str, Any]] = []
    for number in range(options.seeds):
        runs = {}
        for side, flags in SIDES.items():
            runs[side] = work / f"{number}-{side.replace(', ', '-').replace(' ', '-')}"
            given = [flag.format(source=source) for flag in flags]
            seed = f"training.seed={42 + 1000 * number}"
            _train(runs[side], *_config(five, options.epochs), *given, seed)
        for side in list(SIDES)[1:]:
            row = _compare(runs, side, 42 + 1000 * number)
            say(row["told"])
            rows.append(row)
            if options.json:
                machine = {**command.describe_machine(), "epochs": options.epochs}
                command.write_json(options.json, {"machine": machine, "rows": rows})
    return 0


def _rooms(root: Path) -> Path:
    from engine.rooms.dataset import render_rooms

    render_rooms(root)
    return root


def _config(root: Path, epochs: int) -> list[str]:
    """Flags over the demo's config."""
    from engine.nyuv2 import CLASSES as ALL

    named = {name: five for five, names in CLASSES.items() for name in names}
    labels = ",".join(f"{value}={named[name]}" for value, name in enumerate(ALL))
    fields = {
        "data.root": str(root),
        "data.classes": ",".join(CLASSES),
        "data.label_map": labels,
        "training.epochs": str(epochs),
        "training.validate_every": str(epochs),
    }
    return [f"{name}={value}" for name, value in fields.items()]


def _train(out: Path, *flags: str) -> None:
    """Train by the demo's config, or go on, as a user does."""
    words = [sys.executable, "-m", "engine.train", "demo", *flags, "report.page=false"]
    done = subprocess.run([*words, "--out", str(out), "--resume"], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _compare(runs: dict[str, Path], side: str, seed: int) -> dict[str, Any]:
    """What a side gains over the ImageNet weights, and what its steps took of their time."""
    from engine.report.comparison import difference, open_pair
    from engine.report.summary import Summary
    from engine.rundir import RunDir

    ours, rival = RunDir(runs[side]), RunDir(runs["ImageNet"])
    found = difference(*open_pair(ours, rival), 10_000, 0).miou
    mious = [Summary.read(run.summary).oof.miou for run in (ours, rival)]
    seconds = [sum(map(_train_s, run.root.glob("fold*/metrics.jsonl"))) for run in (ours, rival)]
    told = (
        f"seed {seed}: {side} {mious[0]:.4f} in {seconds[0]:.1f} s of steps, ImageNet "
        f"{mious[1]:.4f} in {seconds[1]:.1f} s: {found}"
    )
    return {
        "name": side,
        "rival": "ImageNet",
        "seed": seed,
        "miou": mious[0],
        "rival_miou": mious[1],
        "difference": found.to_json(),
        "train_s": round(seconds[0], 2),
        "rival_train_s": round(seconds[1], 2),
        "told": told,
    }


def _train_s(metrics: Path) -> float:
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return sum(float(json.loads(line)["train_s"]) for line in lines)


if __name__ == "__main__":
    run_main(main)
