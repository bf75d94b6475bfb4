"""What `engine.prepare encode` shows: files, bytes and decode times of a dataset and its copy."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from engine.frames.encode import Outcome
from engine.report.tables import table

WORTH = 0.1
"""Share of the decode time that a copy has to save to be worth its disk."""

_MIB = 1 << 20

_COLUMNS = ("files", "encoding", "form", "number", "MiB", "then", "ms a file", "then", "ratio")


def encoding_table(out: Path, outcomes: Sequence[Outcome]) -> Table:
    """A row for each sort of files and one for all."""
    rows: list[list[str]] = []
    for one in outcomes:
        form = str(one.form or "as it is") + (f" ({one.kept} as they are)" if one.kept else "")
        times = _cells(*_bytes([one]), one.seconds_before, one.seconds_after)
        rows.append([*one.group, form, str(one.files), *times])
    files = sum(one.files for one in outcomes)
    before_s, after_s = _seconds(outcomes)
    all_times = _cells(*_bytes(outcomes), before_s / files, after_s / files)
    rows += [[], ["all", "", "", str(files), *all_times]]
    drawn = table(str(out), _COLUMNS, rows, text=3)
    drawn.caption = (
        "time of one processor, in turns, medians; files come from memory: from a disk, their size "
        "counts too"
    )
    return drawn


def verdict(out: Path, outcomes: Sequence[Outcome]) -> str:
    """What the copy gains, and whether it is worth it."""
    before_s, after_s = _seconds(outcomes)
    saved = 1 - after_s / before_s
    if saved < WORTH:
        return (
            f"{out} saves {100 * saved:.1f} % of the time to decode, less than {100 * WORTH:.0f} %:"
            " the copy is not worth it, delete it"
        )
    told = f"{out} decodes {before_s / after_s:.2f} x as fast as its original, pixels are the same"
    return f"{told}; use it by --data.root {out}"


def _bytes(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    return sum(one.bytes_before for one in outcomes), sum(one.bytes_after for one in outcomes)


def _seconds(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """To decode all files."""
    before_s = sum(one.files * one.seconds_before for one in outcomes)
    # What was copied all the same takes what it took.
    changed = sum((one.files - one.kept) * one.seconds_after for one in outcomes)
    return before_s, changed + sum(one.kept * one.seconds_before for one in outcomes)


def _cells(before: int, after: int, before_s: float, after_s: float) -> list[str]:
    sizes = [f"{size / _MIB:.1f}" for size in (before, after)]
    return [*sizes, f"{1e3 * before_s:.3f}", f"{1e3 * after_s:.3f}", f"{before_s / after_s:.2f}"]
