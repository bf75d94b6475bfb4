"""The samples of very many frames, made one by one of what a check found.

N: frames. K: small-class pixels of a frame.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from engine.frames.dataset import Split
from engine.frames.decode import Sample
from engine.frames.files import FrameList
from engine.frames.findings import Findings
from engine.frames.kinds import KINDS
from engine.frames.reading import Reading


@dataclass(frozen=True, eq=False)
class Samples(Sequence[Sample]):
    """N checked frames; equal to a list of the same. A slice of them is such a sequence, too."""

    findings: Findings
    """Without a fault."""
    scenes: Mapping[str, str]
    """By stem."""
    reading: Reading
    chosen: range
    """Which of the frames."""

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> "Samples": ...

    def __getitem__(self, number: int | slice) -> "Sample | Samples":
        if isinstance(number, slice):
            return Samples(self.findings, self.scenes, self.reading, self.chosen[number])
        frame = self.chosen[number]
        files, found = self.findings.frames[frame], self.findings
        content = hashlib.sha256(found.content(frame) + self.reading.stores)
        sample = object.__new__(Sample)
        # As its constructor would, in a third of the time: frozen fields are set one by one there.
        sample.__dict__.update(
            vars(files),
            hw=found.hw(frame),
            scene=self.scenes.get(files.stem),
            digest=content.hexdigest(),
            reading=self.reading,
            origin=found.origin(frame),
        )
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented
        return all(one == two for one, two in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True)
class SmallPixels(Sequence[NDArray[np.int32]]):
    """N arrays (K, 2): row and column of pixels of the small classes."""

    findings: Findings

    def __len__(self) -> int:
        return len(self.findings)

    @overload
    def __getitem__(self, frame: int) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, frame: slice) -> list[NDArray[np.int32]]: ...

    def __getitem__(self, frame: int | slice) -> NDArray[np.int32] | list[NDArray[np.int32]]:
        numbers = range(len(self))[frame]
        if isinstance(numbers, range):
            return [self.findings.small_pixels(number) for number in numbers]
        return self.findings.small_pixels(numbers)


def hw_of(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """(N, 2) height and width of each sample, pixels."""
    if isinstance(samples, Samples) and not samples.findings.odd:
        return samples.findings.rows["hw"][_slice(samples.chosen)].astype(np.int64)
    return np.array([sample.hw for sample in samples], np.int64).reshape(-1, 2)


def count_files(samples: Sequence[Sample], kind: str) -> int:
    """Samples that have a file of a kind."""
    if isinstance(samples, Samples) and not samples.findings.odd:
        bits_N = samples.findings.rows["digests"][_slice(samples.chosen)]
        return int((bits_N >> tuple(KINDS).index(kind) & 1).sum())
    return sum(getattr(sample, kind) is not None for sample in samples)


def stems_of(samples: Sequence[Sample]) -> list[str]:
    """The stem of each sample."""
    if isinstance(samples, Samples) and isinstance(samples.findings.frames, FrameList):
        stems = samples.findings.frames.stems
        return [stems[frame] for frame in samples.chosen]
    return [sample.stem for sample in samples]


def of_each_size(*splits: Split) -> list[Sample]:
    """A sample of each size that frames have."""
    found: dict[tuple[int, int], Sample] = {}
    for split in splits:
        sizes, firsts = np.unique(hw_of(split.samples), axis=0, return_index=True)
        for (height, width), first in zip(sizes.tolist(), firsts.tolist(), strict=True):
            found.setdefault((height, width), split.samples[first])
    return list(found.values())


def _slice(chosen: range) -> slice:
    stop = chosen.stop if chosen.stop >= 0 else None
    return slice(chosen.start, stop, chosen.step)
