"""Which form of some PNGs decodes fastest on this machine: measured, in turns, on a sample."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from engine.frames.decode import decode
from engine.frames.images import decode_image
from engine.frames.kinds import AS_IT_IS, KINDS, Origin
from engine.frames.recode import FORMS, Form, rewritten

_SAMPLED = 8
"""Files of a kind that are timed, spread over all: enough to even out what they show."""

_ROUNDS = 7
"""Times that each is timed, for a median."""

_ALIKE = 1.05
"""Costs that are closer than that are equal: of such forms the smallest is taken, or none."""

_DISK_BYTES_S = 1e9
"""A solid-state disk's rate, at which a file counts as read: what is timed comes from memory, where
files have less room the larger they are."""


class Choice(NamedTuple):
    """The form that files of a kind are given."""

    form: Form | None
    """None: they stay as they are."""
    growth: float
    """Bytes for each one before."""


def choose_form(kind: str, contents: Iterable[bytes], forms: Iterable[Form], room: Path) -> Choice:
    """The one of some forms that a sample decodes fastest in.

    Args:
        kind: of `KINDS`.
        contents: of whole files; those that `rewritten` leaves alone are passed over.
        forms: candidates, beside the form that the files have.
        room: folder for files that are timed, and deleted again.
    """
    fit = [content for content in contents if rewritten(content, FORMS[0])]
    if not fit:
        return Choice(None, 1)
    sides: dict[Form | None, list[bytes]] = {None: fit}
    sides |= {form: [rewritten(content, form) or b"" for content in fit] for form in forms}
    paths: list[list[Path]] = []
    for number, side in enumerate(sides.values()):
        paths.append([room / f"{number}-{place}" for place in range(len(side))])
        for path, content in zip(paths[-1], side, strict=True):
            path.write_bytes(content)
    seconds = dict(zip(sides, decode_seconds(kind, paths), strict=True))
    for path in [path for each in paths for path in each]:
        path.unlink()
    sizes = {form: sum(map(len, side)) / len(fit) for form, side in sides.items()}
    form = fastest(seconds, sizes)
    return Choice(form, sizes[form] / sizes[None])


def fastest(
    seconds: Mapping[Form | None, float], sizes: Mapping[Form | None, float]
) -> Form | None:
    """The form that a file of so many bytes is read and decoded fastest in; None: as it is."""
    costs = {form: taken_s + sizes[form] / _DISK_BYTES_S for form, taken_s in seconds.items()}
    near = [form for form, cost in costs.items() if cost <= _ALIKE * min(costs.values())]
    return None if None in near else min(near, key=lambda form: sizes[form])


def decode_seconds(kind: str, sides: Sequence[Sequence[Path]]) -> list[float]:
    """The median time of a processor to read a file of each side, from memory, and decode it."""
    seconds = seconds_each([partial(_decode_all, kind, side) for side in sides])
    return [taken_s / len(side) for taken_s, side in zip(seconds, sides, strict=True)]


def seconds_each(works: Sequence[Callable[[], None]]) -> list[float]:
    """The median time of a processor for each work, all in turns, in one thread.

    Not by the clock: what else runs here would be counted.
    """
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(1 + _ROUNDS):
        for work, times in zip(works, taken, strict=True):
            start_s = time.thread_time()
            work()
            if turn:  # the first one fills caches and compiles
                times.append(time.thread_time() - start_s)
    return [statistics.median(times) for times in taken]


def spread(paths: Sequence[Path]) -> list[Path]:
    """Some of the paths, evenly spread over all."""
    count = min(_SAMPLED, len(paths))
    return [paths[(2 * n + 1) * len(paths) // (2 * count)] for n in range(count)]


def pixels_of(kind: str, content: bytes) -> tuple[NDArray[Any], Origin]:
    """What a file of a kind holds, before any config says what its values stand for.

    Raises UnfitError if it is not of the kind.
    """
    if kind == "image":
        return decode_image(content, turn=True)
    return decode(content, KINDS[kind]), AS_IT_IS


def _decode_all(kind: str, paths: Iterable[Path]) -> None:
    for path in paths:
        pixels_of(kind, path.read_bytes())
