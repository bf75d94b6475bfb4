"""A folder of trainings: what was stopped goes on, what is done is read."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.apart import apart
from benchmarks.command import write_json
from benchmarks.equal_time import Measured, measure_in_turns
from benchmarks.recipes import Recipe
from engine.cli import to_toml
from engine.mistakes import ConfigError

AT_ONCE = 4
"""Recipes that are timed in turns: each is a process of some gigabytes."""


class WorkFolder:
    """Trainings of one fold, each in a folder of its recipe's name, with its `result.json`."""

    def __init__(self, root: Path, fold: int) -> None:
        self.root, self.fold = root, fold

    def measured(self, recipes: Sequence[Recipe]) -> dict[str, Measured]:
        """The steps of the recipes by name, each timed once, in turns with each other.

        One that comes later is timed in turns with one that is known, and its seconds are brought
        to those of that time: the machine may have been faster or slower then.

        Raises:
            ConfigError: the folder holds those of another recipe by that name.
        """
        known = {
            one.name: Measured(**self._read(path, self._key(one)))
            for one in recipes
            if (path := self._measured(one)).exists()
        }
        # The last one, the rival of a comparison, is in the first group and beside all others.
        while missing := [one for one in recipes if one.name not in known][-AT_ONCE:]:
            beside = [one for one in recipes if one.name in known][-1:]
            new = measure_in_turns([*missing, *beside], self.fold, self.root / "measuring")
            scale = 1.0
            for one in beside:
                scale = known[one.name].epoch_s / new[one.name].epoch_s
            for one in missing:
                step_s = [scale * seconds for seconds in new[one.name].step_s]
                known[one.name] = new[one.name]._replace(step_s=step_s)
                self._write(self._measured(one), self._key(one), known[one.name]._asdict())
        return known

    def once(self, one: Recipe, work: Callable[..., Any], *more: Any) -> dict[str, Any]:
        """What `work(recipe, fold, folder, *more)` returns in a process of its own, or returned.

        It is a dict of JSON or a NamedTuple of it, whose paths have become text.

        Raises:
            ConfigError: the folder holds what came of other arguments.
            RuntimeError: it failed.
        """
        path, key = self.root / one.name / "result.json", self._key(one, work.__name__, *more)
        if not path.exists():
            found = apart(work, one, self.fold, path.parent, *more)
            self._write(path, key, found if isinstance(found, dict) else found._asdict())
        return self._read(path, key)

    def _measured(self, one: Recipe) -> Path:
        return self.root / "measured" / f"{one.name}.json"

    def _key(self, one: Recipe, *more: object) -> str:
        """What a result is of."""
        text = "\n".join([to_toml(one.config), *map(str, (one.plain, self.fold, *more))])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self, path: Path, key: object) -> dict[str, Any]:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key:
            raise ConfigError(
                f"--work {self.root} holds other trainings ({path.relative_to(self.root)}); type "
                "what they were begun with, or choose another --work"
            )
        found: dict[str, Any] = kept["found"]
        return found

    def _write(self, path: Path, key: object, found: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = json.loads(json.dumps(found, default=str))
        write_json(path, {"key": key, "found": plain})
