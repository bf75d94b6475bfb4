"""What a data set in another form is read as: its frames by name, and the pixels of one at a time.

H W: pixels of a frame.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Label = NDArray[np.uint8] | NDArray[np.uint16]


class Frame(NamedTuple):
    """A frame, by name."""

    stem: str
    split: Literal["train", "test"] = "train"
    scene: str = ""
    """What `scenes.csv` says of it; empty: nothing."""
    fold: str = ""
    """What `splits.csv` says of it: a fold's number, `train` or `validation`; empty: nothing."""


class Pixels(NamedTuple):
    """The pixels of a frame, or files that are copied as they are."""

    image: NDArray[np.uint8] | Path
    """(H, W, 3) RGB."""
    depth: NDArray[np.uint16] | Path | None = None
    """(H, W), 0 = missing."""
    label: Label | Path | None = None
    """(H, W)."""


class Source(Protocol):
    """A data set in another form."""

    @property
    def made_of(self) -> Mapping[str, JsonValue]:
        """What its pixels depend on, files and options: a folder is completed with the same."""

    @property
    def frames(self) -> Sequence[Frame]:
        """All frames; no two have one stem in a split."""

    @property
    def data(self) -> Mapping[str, JsonValue]:
        """Fields of `[data]` that frames are read with, `classes` among them."""

    def read(self, number: int) -> Pixels:
        """The pixels of a frame; may be called by several threads. ConfigError for a fault."""

    def notes(self) -> Sequence[str]:
        """What was converted, skipped or assumed, with counts, of the frames read so far."""


def state(path: Path) -> JsonValue:
    """What tells whether a file is the one of an earlier call: its name, size and time."""
    told = path.stat()
    return [path.name, told.st_size, told.st_mtime_ns]


def states(paths: Iterable[Path | None]) -> str:
    """The same of many files, in 64 letters."""
    digest = hashlib.sha256()
    for path in paths:
        if path is not None:
            digest.update(f"{path}\0{state(path)}\n".encode())
    return digest.hexdigest()
