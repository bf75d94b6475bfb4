"""What store and submission note: how far they are, and what a finished store holds.

Axes: N samples, T temperatures, C class (truth by prediction), h w half-scale pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.rundir import Record

SUBMISSION_NOTE = ".submission.json"
"""The file of `SubmissionProgress` in a run folder; there until a summary tells of its seconds."""


class FoldState(Record):
    """How many of a fold's frames the weights of a hash predicted, and what was counted."""

    weights: str
    done: int
    elapsed_s: float
    confusion: list[list[list[int]]]
    """(T, C, C) at the labels' own resolution"""


class Note(Record):
    """How far arrays are good that are made for what `key` stands for."""

    key: str


class OofProgress(Note):
    """`oof/progress.json`."""

    folds: dict[int, FoldState] = Field(default_factory=dict)
    crc32: dict[int, list[str]] = Field(default_factory=dict)
    """By fold, at each temperature: of its frames that are done; left out before."""


class SubmissionProgress(Note):
    """`SUBMISSION_NOTE`: how many frames are predicted."""

    done: int = 0
    elapsed_s: float = 0.0
    crc32: str = ""
    """Of each mask that is done; left out before."""


class Manifest(Record):
    """`oof/manifest.json`: what a finished store holds, and what it was made from."""

    key: str
    temperature: float
    shape: tuple[int, int, int, int]
    dtype: str
    classes: tuple[str, ...]
    stems: tuple[str, ...]
    folds: tuple[int, ...]
    """the fold that each sample validates"""
    predicted: dict[int, FoldState]


@dataclass(frozen=True)
class StoreLayout:
    """What a store is about."""

    shape: tuple[int, int, int, int]
    """(N, C, h, w)"""
    stems: tuple[str, ...]
    fold_of: NDArray[np.int64]
    """(N,) the fold whose network may predict each sample"""
    classes: tuple[str, ...]
    temperatures: tuple[float, ...]
    """T, of which `ProbStoreWriter.finish` keeps one"""
    key: str
    """hash of data, folds and settings; what another key began is begun again"""


class ProbStore(NamedTuple):
    """A finished store; its array is mapped, read only."""

    prob_NChw: NDArray[np.float16]
    manifest: Manifest
