"""What was done to files that are sound but not plain, in words; entered only where any was."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.frames.kinds import Origin

_SHOWN = 5
"""Names in a message: enough to see what sort of files they are."""


def image_lines(origins: Iterable[Origin]) -> list[str]:
    """A line for each sort of thing that images went through, with counts."""
    converted: Counter[str] = Counter()
    turned: Counter[int] = Counter()
    others: Counter[str] = Counter()
    for origin in origins:
        # Of other formats, but RGB: read as they are.
        if origin.source and "8-bit RGB " not in origin.source:
            converted[origin.source] += 1
        if origin.orientation > 1:
            turned[origin.orientation] += 1
        others.update(origin.told)
    lines = []
    if converted:
        counts = ", ".join(f"{count} {source}" for source, count in sorted(converted.items()))
        dropped = "; alpha is dropped" if any(_has_alpha(source) for source in converted) else ""
        lines.append(f"images made 8-bit RGB: {counts}{dropped}")
    if turned:
        counts = ", ".join(f"{count} of orientation {n}" for n, count in sorted(turned.items()))
        lines.append(f"images turned upright by EXIF (data.exif): {counts}")
    return lines + [f"{count} images {what}" for what, count in sorted(others.items())]


def skipped(folder: Path, names: Sequence[str], taken: Sequence[str]) -> str:
    """Which of the files in a folder were not taken."""
    known = set(taken)
    others = [name for name in names if name not in known]
    return f"{folder}: {len(others)} others skipped: {some_names(others)}"


def _has_alpha(source: str) -> bool:
    return "alpha" in source or "RGBA" in source


def some_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
