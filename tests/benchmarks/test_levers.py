"""The levers that docs/recipe.md tells of, and how recipes are timed before they are compared."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import levers, work
from benchmarks.equal_time import Measured
from benchmarks.recipes import Recipe
from engine.config import Config


def test_the_levers_that_are_told_are_those_that_were_measured() -> None:
    root = Path(__file__).resolve().parents[2]
    rows = levers.read(root / "benchmarks" / "results" / "recipe.json")
    assert levers.markdown(rows) in (root / "docs" / "recipe.md").read_text("utf-8")
    assert len({row["lever"] for row in rows}) == len(rows) >= 12
    for row in rows:
        assert row["decision"] == levers.decide(
            row["low"], row["high"], row["difference_by_seed"]
        ), row["lever"]


def test_few_are_timed_at_once_and_all_beside_the_last(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Recipe("first", tiny_config)
    names = [f"lever{number}" for number in range(5)]
    levers = [first.having(lr=1e-4 * n)._replace(name=name) for n, name in enumerate(names, 1)]
    asked = list[list[str]]()

    def timed(recipes: list[Recipe], *_: Any) -> dict[str, Measured]:
        asked.append([each.name for each in recipes])
        return {each.name: Measured([float(len(asked))], 5) for each in recipes}

    monkeypatch.setattr(work, "measure_in_turns", timed)
    found = work.WorkFolder(tmp_path, 0).measured([*levers, first])
    assert asked == [["lever2", "lever3", "lever4", "first"], ["lever0", "lever1", "first"]]
    assert {each.epoch_s for each in found.values()} == {5}


@pytest.mark.parametrize(
    ("low", "high", "by_seed", "decision"),
    [
        (0.001, 0.02, [0.004, 0.02], "kept"),
        (0.001, 0.02, [-0.001, 0.03], "undecided"),
        (-0.001, 0.02, [0.004, 0.02], "undecided"),
        (-0.02, -0.001, [-0.02, 0.01], "dropped"),
        (None, None, [0.1, 0.1], "undecided"),
    ],
)
def test_a_lever_is_kept_by_interval_and_seeds(
    low: float | None, high: float | None, by_seed: list[float], decision: str
) -> None:
    assert levers.decide(low, high, by_seed) == decision
