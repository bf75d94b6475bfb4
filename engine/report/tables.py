"""Tables of results for the terminal."""

import math
from collections.abc import Iterable, Sequence

from rich.table import Column, Table

Cell = str | float | None
"""Text as it is; a score with four decimals, a whole number without; "-" for None and NaN."""


Row = Sequence[Cell]
"""An empty one draws a line."""


def table(title: str, columns: Sequence[str], rows: Iterable[Row], *, text: int = 1) -> Table:
    """A titled table; a caption, if it is given one, stands left.

    Args:
        title: above it, on the left.
        columns: their names.
        rows: their cells.
        text: the first so many columns hold words and stand left, the others numbers.
    """
    # A name that is too long goes on in the next line; rich would cut it.
    words = [Column(name, overflow="fold") for name in columns[:text]]
    numbers = [Column(name, justify="right") for name in columns[text:]]
    drawn = Table(*words, *numbers, title=title)
    drawn.title_justify = drawn.caption_justify = "left"
    for row in rows:
        drawn.add_row(*map(shown, row)) if row else drawn.add_section()
    return drawn


def shown(cell: Cell) -> str:
    """What a cell says."""
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.4f}"
    return "-" if cell is None else str(cell)
