"""`sweep.json`: the plan in the folder of a sweep; a later call goes on with it or is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from engine.lease import Place
from engine.mistakes import ConfigError
from engine.rundir import Record
from engine.sweep.plan import Plan
from engine.sweep.runs import Run

_NAME = "sweep.json"

_APART = ("data.root", "runtime.", "report.")
"""Fields that may differ from call to call, as for a run folder."""

_SHOWN = 8
"""Differences that an error lists before it counts the rest."""


class RunRecord(Record):
    """A run of the plan."""

    experiment: str
    values: dict[str, JsonValue]
    """fields over the experiment's configs"""
    folds: list[int]


class SweepRecord(Record):
    """`sweep.json`: the plan of a sweep's folder."""

    experiments: dict[str, dict[str, JsonValue]]
    """by name, fields that their configs came to without anything over them, by full name"""
    runs: dict[str, RunRecord]
    then: list[str]
    """names of the commands that follow the runs"""
    threads: int | None
    """CPU threads of each command, by which bytes may differ; None: as the configs say"""

    @classmethod
    def of(cls, runs: Sequence[Run], plan: Plan, threads: int | None) -> "SweepRecord":
        """What is to be recorded of a plan."""
        return cls(
            experiments={run.experiment: _fields(run) for run in runs},
            runs={
                run.name: RunRecord(
                    experiment=run.experiment, values=run.values, folds=list(run.folds)
                )
                for run in runs
            },
            then=[
                command.name
                for command in plan
                if command.run is None or command.argv[0] == "blend"
            ],
            threads=threads,
        )


def place_of(root: Path) -> Place:
    """What a driver leases: one at a time runs a sweep."""
    return Place(root, "sweep", f"the sweep {root}", ())


def recorded(root: Path) -> SweepRecord | None:
    """What a sweep's folder holds; None if it is none yet.

    Raises ConfigError where the folder holds something else, ValueError for a damaged record.
    """
    file = root / _NAME
    if file.exists():
        return SweepRecord.read(file)
    if (root / "config.toml").exists() or (root / "blend.json").exists():
        raise ConfigError(f"{root} is a run folder; choose another --out for the sweep")
    return None


def keep(root: Path, new: SweepRecord, *, extend: bool) -> None:
    """Record a plan in the folder of its sweep.

    Raises ConfigError where another one is recorded there, and says what differs; but with `extend`
    one that has all that is there, and more, takes its place.
    """
    old = recorded(root)
    if old == new:
        return
    if old is not None:
        changed, added = _differences(old, new)
        lines = [*changed, *added]
        if changed or (added and not extend):
            more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            undo = "choose another --out, or undo" if changed else "add --extend, or undo"
            told = f"{root} holds another plan; {undo}:"
            raise ConfigError("\n  ".join([told, *lines[:_SHOWN], *more]))
    new.write(root / _NAME)


def _differences(old: SweepRecord, new: SweepRecord) -> tuple[list[str], list[str]]:
    """What is not as it was, a line each, and what is new."""
    changed = [f"run {name} is gone" for name in old.runs if name not in new.runs]
    changed += [f"{name} is gone" for name in old.then if name not in new.then]
    for name, fields in old.experiments.items():
        now = new.experiments.get(name, fields)
        lines = _changes(fields, now)
        changed += [f"{name}: {line}" for line in lines]
    for name, run in old.runs.items():
        new_run = new.runs.get(name, run)
        changed += [f"{name}: {line}" for line in _changes(run.values, new_run.values)]
        if run.folds != new_run.folds:
            changed.append(f"{name}: folds {run.folds} -> {new_run.folds}")
    added = [f"run {name} is new" for name in new.runs if name not in old.runs]
    added += [f"{name} is new" for name in new.then if name not in old.then]
    return changed, added


def _changes(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> list[str]:
    """A line for each field in which two differ, but for those that are no part of a run."""
    fields = [field for field in sorted({*old, *new}) if not field.startswith(_APART)]
    return [
        f"{field}: {_told(old, field)} -> {_told(new, field)}"
        for field in fields
        if (field in old, old.get(field)) != (field in new, new.get(field))
    ]


def _told(fields: Mapping[str, JsonValue], field: str) -> str:
    return repr(fields[field]) if field in fields else "its config's"


def _fields(run: Run) -> dict[str, JsonValue]:
    sections = run.base.model_dump(mode="json", exclude={"runtime", "report"})
    return {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()
    }
