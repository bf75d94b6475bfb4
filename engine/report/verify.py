"""Every file of a folder read and held to its checksums: `engine.prepare verify`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from engine.damage import DamageError
from engine.report.tables import table
from engine.rundir import FOR_PEOPLE
from engine.sums import check, sum_file

_MIB = 1 << 20


class Verdict(NamedTuple):
    """What was found of a file."""

    name: str
    """Relative to the folder."""
    size: int
    """Bytes; 0 of one that is lost."""
    state: str
    """sound, damaged, lost or unchecked: it has no checksums."""
    told: str = ""
    """What is wrong, and what to do about it."""


def verify(root: Path, progress: Callable[[int, int], None] | None = None) -> list[Verdict]:
    """Read all files below a folder, whatever was read before.

    Args:
        root: the folder of a run or a blend, or any that holds some, such as the cache.
        progress: is told the number of files that were read, and of all.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; name a run folder")
    found = {path for path in root.rglob("*") if path.is_file()}
    beside = {path for path in found if path.suffix == ".sum" and path.name[0] == "."}
    named = {path.with_name(path.name[1 : -len(".sum")]) for path in beside}
    # What is for people only has none.
    told = (
        path for path in found - beside if not FOR_PEOPLE.intersection(path.relative_to(root).parts)
    )
    files, verdicts = sorted(named.union(told)), []
    for number, path in enumerate(files):
        verdicts.append(_verdict(path, path.relative_to(root).as_posix()))
        if progress is not None:
            progress(number + 1, len(files))
    return verdicts


def verdict_table(root: Path, verdicts: list[Verdict]) -> Table:
    """A row a file."""
    rows = ((v.name, v.state, f"{v.size / _MIB:.1f}") for v in verdicts)
    return table(f"files of {root}", ("file", "state", "MiB"), rows, text=2)


def refuse(root: Path, verdicts: list[Verdict]) -> None:
    """Raise a ValueError that names every file that is damaged or lost."""
    told = [verdict.told for verdict in verdicts if verdict.told]
    if told:
        raise ValueError("\n  ".join([f"{len(told)} damaged files in {root}:", *told]))


def _verdict(path: Path, name: str) -> Verdict:
    if not path.exists():
        return Verdict(name, 0, "lost", str(DamageError(path, "it is gone")))
    try:
        state = "sound" if check(path, anew=True) else "unchecked"
    except DamageError as error:
        if error.path == sum_file(path):
            return Verdict(name, path.stat().st_size, "unchecked", str(error))
        return Verdict(name, path.stat().st_size, "damaged", str(error))
    return Verdict(name, path.stat().st_size, state)
