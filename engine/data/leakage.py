"""How many frames are validated while a neighbour of theirs is trained on, as records say it."""

from engine.rundir import Record

BY_INDEX = ", by an index"
"""In how it was measured: not every pair was compared."""


class ContentLeakage(Record):
    """How many frames are validated while a direct neighbour is trained on."""

    share: float | None
    """0..1; None: not measured."""
    method: str
    """How it was measured, or why it was not."""
    closest: tuple[str, str] | None = None
    """Stems of the two frames of different folds that are most alike, if any are at all."""
    alike: float | None = None
    """How alike they are: 1 the same picture, 0 nothing in common."""

    def told(self) -> str:
        """The share, how it was measured and the closest pair, in words."""
        share = "not measured" if self.share is None else f"{100 * self.share:.1f} %"
        pair = f"; closest: {' and '.join(self.closest)}, {self.alike}" if self.closest else ""
        return f"{share} ({self.method}{pair})"


def leakage_told(leakage: float, measured: bool, content: ContentLeakage | None) -> str:
    """What a reader is told of the leakage: by number, and by content with how it was measured."""
    number = f"{100 * leakage:.1f} %" if measured else "not measured (no two numbers in a row)"
    return f"leakage {number}" + (f"; by content {content.told()}" if content else "")
