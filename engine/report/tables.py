"""Tables of results for the terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from engine.runtime.progress import duration

Cell = str | float | None
"""Text as it is; a score with four decimals, a whole number without; "-" for None and NaN."""


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    text: int = 1,
    caption: str | None = None,
) -> Table:
    """A titled table.

    Args:
        title: above it, on the left.
        columns: their names.
        rows: their cells; an empty row draws a line.
        text: the first so many columns hold words and stand left, the others numbers.
        caption: below it.
    """
    drawn = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for number, name in enumerate(columns):
        # A name that is too long goes on in the next line; rich would cut it.
        if number < text:
            drawn.add_column(name, overflow="fold")
        else:
            drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(*map(shown, row)) if row else drawn.add_section()
    return drawn


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """The time of each stage."""
    rows = ((stage, duration(value)) for stage, value in seconds.items())
    return table("time by stage", ("stage", "time"), rows)


def shown(cell: Cell) -> str:
    """What a cell says."""
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.4f}"
    return "-" if cell is None else str(cell)
