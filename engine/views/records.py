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


class CalibrationCounts(Record):
    """What was counted of the sampled pixels (`engine.views.sampled`) at each temperature."""

    pixels: int
    """those that have a label"""
    loss: list[float]
    """(T,) sum of -log p of their labels"""
    count: list[list[int]]
    """(T, bins) pixels by confidence, the probability of the class of the largest"""
    right: list[list[int]]
    """(T, bins) those whose label's class has no smaller one"""
    confidence: list[list[float]]
    """(T, bins) sum of their confidences"""


class FoldState(Record):
    """How many of a fold's frames the weights of a hash predicted, and what was counted."""

    weights: str
    """of `best.safetensors`, in INT8 `Int8.network`; of each of a fold's networks, by commas"""
    done: int
    elapsed_s: float
    confusion: list[list[list[int]]]
    """(T, C, C) at the labels' own resolution"""
    calibration: CalibrationCounts | None = None
    """of the same frames; left out before, and where some of them were predicted before"""


class Note(Record):
    """How far arrays are good that are made for what `key` stands for."""

    key: str


class OofProgress(Note):
    """`oof/progress.json`."""

    folds: dict[int, FoldState] = Field(default_factory=dict)
    crc32: dict[int, list[str]] = Field(default_factory=dict)
    """By fold, at each temperature: of its frames that are done, by an older release."""
    noted: dict[int, list[int]] = Field(default_factory=dict)
    """By fold, at each temperature: of the checksums of these, see `ResumableArray.noted`."""


class SubmissionProgress(Note):
    """`SUBMISSION_NOTE`: how many frames are predicted."""

    done: int = 0
    elapsed_s: float = 0.0
    crc32: str = ""
    """Of each mask that is done, by an older release."""
    noted: int | None = None
    """Of the checksums of these; see `ResumableArray.noted`."""


class Int8(Record):
    """`fold0/int8.json`: what a fold's network in INT8 was made of, and what it loses."""

    weights: str
    """SHA-256 of `best.safetensors`"""
    network: str
    """SHA-256 of `int8.xml` and `int8.bin`, one after the other"""
    openvino: str
    nncf: str
    """versions"""
    calibrated: tuple[str, ...]
    """training frames that the scales were chosen on"""
    scored: int
    """validation frames that both mIoUs are of, by one view"""
    miou: float
    miou_float32: float
    """of the same network by OpenVINO in float32"""

    @property
    def loss(self) -> float:
        """What INT8 costs of mIoU; negative where it gains."""
        return self.miou_float32 - self.miou


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
