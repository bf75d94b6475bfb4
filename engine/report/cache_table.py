"""What `engine.prepare cache` shows."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from engine.frames.cache import GIB
from engine.frames.prune import Entry
from engine.runtime.progress import duration

_MIB = 1 << 20

_HOUR_S = 3600


def cache_table(folder: Path, entries: Sequence[Entry], gone: Sequence[Entry]) -> Table:
    """A row for each data set's frames and one for all reports; `gone` was deleted just now."""
    table = Table("data set", "size", "last used", "", title=str(folder))
    frames = [entry for entry in entries if entry.path.is_dir()]
    for entry in frames:
        shown = entry.dataset or entry.path.name
        table.add_row(shown, _size(entry.size), _ago(entry.age_s), "in use" * entry.in_use)
    if reports := [entry for entry in entries if entry not in frames]:
        size, latest_s = sum(entry.size for entry in reports), reports[0].age_s
        table.add_row(f"checks of {len(reports)} data sets", _size(size), _ago(latest_s), "")
    told = f"{_size(sum(entry.size for entry in entries))} in all"
    if gone:
        told += f"; {len(gone)} deleted, {_size(sum(entry.size for entry in gone))}"
    table.caption = told
    return table


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / _MIB:.1f} MiB"


def _ago(age_s: float) -> str:
    if age_s >= 48 * _HOUR_S:
        return f"{age_s / (24 * _HOUR_S):.0f} days ago"
    return f"{duration(max(age_s, 0))} ago"
