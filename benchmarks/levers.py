"""Levers of a recipe: what a change is worth at equal training time, and the file of all of them.

Two recipes train the same fold with several seeds for the same seconds of steps; the frames that it
validates are predicted by all views, and both sides' counts, of all seeds together, are compared by
the paired bootstrap of `roomsmith compare`. Its interval is over scenes or blocks of frames; what
the seed does is told by the difference of each.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.equal_time import Trained
from benchmarks.recipes import Recipe
from engine.mistakes import ConfigError

RULE = (
    "kept: the interval over all seeds lies above 0, and so does each seed's difference; dropped: "
    "it lies below 0; else undecided"
)
"""How a row is decided."""

RESAMPLES = 10_000

_APART = ("data.root:", "runtime.", "report.", "training.epochs:", "training.validate_every:")
"""Fields that are no part of a lever, or follow from the time."""

_LEVERS = ("runtime.precision:", "runtime.threads:")
"""Among them, those that change what a training does in a second, and its bytes."""


def differing(a: Recipe, b: Recipe) -> list[str]:
    """What the first recipe does otherwise than the second; a ConfigError if they are the same."""
    from engine.resume import differences

    found = differences(b.config, a.config)
    lines = [line for line in found if line.startswith(_LEVERS) or not line.startswith(_APART)]
    if a.plain != b.plain:
        lines.insert(0, "plain PyTorch" if a.plain else "the engine, not plain PyTorch")
    if not lines:
        raise ConfigError(f"{a.name} and {b.name} are the same recipe; type what differs")
    return lines


def check_comparable(a: Recipe, b: Recipe) -> None:
    """Refuse, by a ConfigError, recipes of other frames' classes or folds."""
    fields = ("classes", "label_map", "ignore", "splits", "folds", "fold_kind", "fold_seed")
    for field in (*fields, "blocks_per_fold"):
        values = [getattr(one.config.data, field) for one in (a, b)]
        if values[0] != values[1]:
            raise ConfigError(
                f"{a.name} and {b.name} have other data.{field}: {values[0]} and {values[1]}; "
                f"type the same in both"
            )


def row_of(pairs: Sequence[tuple[Trained, Trained]]) -> dict[str, Any]:
    """What is told of a lever's trainings, a pair a seed, the lever's own first.

    Raises:
        ValueError: the sides were scored on other labels.
    """
    from engine.selection.statistics import paired_bootstrap

    first, group = pairs[0][0], np.array(pairs[0][0].group)
    counts = [(a.loaded(), b.loaded()) for a, b in pairs]
    each = [paired_bootstrap(a, b, group, resamples=RESAMPLES).miou.difference for a, b in counts]
    a, b = (np.stack([pair[n] for pair in counts]).sum(axis=0, dtype=np.int64) for n in (0, 1))
    found = paired_bootstrap(a, b, group, resamples=RESAMPLES).miou
    found = found.model_copy(update={"groups_of": first.groups_of})
    sides = list(zip(*pairs, strict=True))
    return {
        "difference": round(found.difference, 4),
        "low": _rounded(found.low),
        "high": _rounded(found.high),
        "p": _rounded(found.p),
        "groups": found.groups,
        "groups_of": found.groups_of,
        "frames": first.frames,
        "difference_by_seed": [round(one, 4) for one in each],
        "miou": [round(one.miou, 4) for one in sides[0]],
        "rival_miou": [round(one.miou, 4) for one in sides[1]],
        "train_s": [round(one.train_s, 1) for one in sides[0]],
        "rival_train_s": [round(one.train_s, 1) for one in sides[1]],
        "validation_s": [round(one.validation_s, 1) for one in sides[0]],
        "rival_validation_s": [round(one.validation_s, 1) for one in sides[1]],
        "decision": decide(found.low, found.high, each),
        "told": str(found),
    }


def decide(low: float | None, high: float | None, by_seed: Sequence[float]) -> str:
    """`RULE` on an interval and each seed's difference."""
    if low is not None and low > 0 and min(by_seed) > 0:
        return "kept"
    return "dropped" if high is not None and high < 0 else "undecided"


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the file of levers, in the place of one of the same name."""
    from benchmarks.command import write_json

    rows = read(path) if path.exists() else []
    names = [one["lever"] for one in rows]
    at = names.index(row["lever"]) if row["lever"] in names else len(rows)
    rows[at : at + 1] = [dict(row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"rule": RULE, "rows": rows})


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of levers; a ConfigError if it is none."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; name a file that --compare has written") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all("lever" in row for row in rows):
        raise ConfigError(f"{path} holds no levers; name a file that --compare has written")
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for docs/recipe.md; epochs and minutes: its own for the rival's."""
    columns = ["lever", "what differs", "mIoU", "without", "difference", "95 % interval", "p"]
    columns += ["seeds", "epochs", "minutes", "decision"]
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        interval = "too few groups"
        if row["low"] is not None:
            interval = f"{row['low']:+.4f} .. {row['high']:+.4f}"
        minutes = (f"{np.mean(row[key]) / 60:.1f}" for key in ("train_s", "rival_train_s"))
        scores = (f"{np.mean(row[key]):.4f}" for key in ("miou", "rival_miou"))
        p = "" if row["p"] is None else f"{row['p']:.3f}"
        differs = "; ".join(row["differs"]).replace("|", "\\|")
        found = f"{row['difference']:+.4f}", interval, p, str(len(row["seeds"]))
        took = f"{row['epochs']} for {row['rival_epochs']}", " for ".join(minutes)
        lines.append([row["lever"], differs, *scores, *found, *took, row["decision"]])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
