"""What predictions of new frames are written as: masks, pictures, probabilities, confidence.

    OUT/NAME.png                  masks: 8-bit grey, pixel = class index
    OUT/colours/NAME.png          colour: the same indices with the classes' colours as palette
    OUT/overlay/NAME.png          overlay: the image under these colours
    OUT/probabilities/NAME.npy    probabilities: (C, H, W) float16
    OUT/confidence/NAME.png       confidence: 8-bit grey, 255 = the likeliest class is certain

Axes: B batch, C class, H W pixels of a frame, n rows of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.frames.decode import Sample
from engine.views.behind import fetch
from engine.views.masks import System
from engine.views.pictures import class_colours, write_coloured, write_mask
from engine.whole import whole_file

ALPHA = 0.5
"""Share of the classes' colours in an overlay: both they and the image can be told."""

_ROWS = 256  # of an overlay that are mixed at a time


@dataclass(frozen=True)
class Outputs:
    """Where the files of frames go, and which of them are wanted."""

    out: Path
    kinds: frozenset[str] = field(default=frozenset({"masks"}))
    """Of `engine.predict.KINDS`."""

    def write(self, system: System, samples: Sequence[Sample]) -> Iterator[int]:
        """Predict the samples and write their files; yields the number of frames of each batch.

        A file appears whole or not at all.
        """
        start, pending = 0, list[FrameBatch]()
        for tensors, _ in fetch(system.policy.device, self._found(system, samples, pending)):
            frames, (mask_BHW, *more) = pending.pop(0), (part.numpy() for part in tensors)
            for place, mask_HW in enumerate(mask_BHW):
                image_HW3 = _image(frames, place) if "overlay" in self.kinds else None
                self._write(
                    samples[start + place].stem, mask_HW, image_HW3, [p[place] for p in more]
                )
            start += len(mask_BHW)
            yield len(mask_BHW)

    def _found(
        self, system: System, samples: Sequence[Sample], pending: list[FrameBatch]
    ) -> Iterator[tuple[Tensor, ...]]:
        """Masks and, if wanted, confidences of each batch, which is added to those `pending`."""
        argmax = system.policy.operations.resized_argmax
        for frames in system.reader.batches(samples):
            own = samples[frames.first : frames.first + len(frames.index)]
            masks, confidences = [], []
            with self._probabilities(own) as files:
                for rows in system.rows(frames):
                    masks.append(argmax(*rows))
                    if not self.kinds.isdisjoint(("probabilities", "confidence")):
                        prob_BCnW = rows.at_size()
                        confidences.append(_bytes(prob_BCnW))
                        for file, prob_CnW in zip(files, prob_BCnW, strict=False):
                            file.write(prob_CnW)
            found = [torch.cat(masks, dim=1)]
            found += [torch.cat(confidences, dim=1)] if "confidence" in self.kinds else []
            pending.append(frames)
            yield tuple(found)

    def _write(
        self,
        stem: str,
        mask_HW: NDArray[np.uint8],
        image_HW3: NDArray[np.uint8] | None,
        confidence: Sequence[NDArray[np.uint8]],
    ) -> None:
        if "masks" in self.kinds:
            write_mask(self._path(stem), mask_HW)
        if "colour" in self.kinds:
            write_coloured(self._path(stem, "colours"), mask_HW)
        if image_HW3 is not None:
            with whole_file(self._path(stem, "overlay")) as temporary:
                Image.fromarray(overlay(image_HW3, mask_HW)).save(temporary, "PNG")
        for confidence_HW in confidence:
            write_mask(self._path(stem, "confidence"), confidence_HW)

    @contextmanager
    def _probabilities(self, samples: Sequence[Sample]) -> Iterator[list["_ProbabilityFile"]]:
        with ExitStack() as stack:
            files = []
            for sample in samples if "probabilities" in self.kinds else ():
                path = self._path(sample.stem, "probabilities", ".npy")
                stream = stack.enter_context(stack.enter_context(whole_file(path)).open("wb"))
                files.append(_ProbabilityFile(stream, sample.hw))
            yield files

    def _path(self, stem: str, folder: str = "", ending: str = ".png") -> Path:
        # A stem may hold folders, where images of several share theirs.
        return self.out / folder / f"{stem}{ending}"


def overlay(image_HW3: NDArray[np.uint8], mask_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) the image under the colours of its classes."""
    share = round(256 * ALPHA)
    colours_C3, mixed_HW3 = class_colours().astype(np.uint16) * share, np.empty_like(image_HW3)
    # Some rows at a time: a photograph has no room for several copies of 16 bits.
    for top in range(0, len(mask_HW), _ROWS):
        some = slice(top, top + _ROWS)
        mixed = image_HW3[some].astype(np.uint16) * np.uint16(256 - share)
        mixed += colours_C3[mask_HW[some]]
        mixed_HW3[some] = mixed >> 8
    return mixed_HW3


@dataclass
class _ProbabilityFile:
    """A (C, H, W) float16 array on disk, written strip by strip: not mapped, it takes no memory."""

    stream: IO[bytes]
    hw: tuple[int, int]
    done: int = 0
    """Rows that are written."""
    start: int = 0
    """Bytes of the header."""

    def write(self, prob_CnW: Tensor) -> None:
        """Add rows below those that are there."""
        part = prob_CnW.half().cpu().numpy()
        if not self.start:
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(part), *self.hw)}
            np.lib.format.write_array_header_1_0(self.stream, header)
            self.start = self.stream.tell()
        for number, rows_nW in enumerate(part):
            row = number * self.hw[0] + self.done
            self.stream.seek(self.start + row * self.hw[1] * part.itemsize)
            self.stream.write(np.ascontiguousarray(rows_nW).data)
        self.done += part.shape[1]


def _bytes(prob_BCnW: Tensor) -> Tensor:
    """(B, n, W) uint8 of the highest probability."""
    return (prob_BCnW.amax(dim=1) * 255).round().clamp(0, 255).to(torch.uint8)


def _image(frames: FrameBatch, place: int) -> NDArray[np.uint8]:
    """(H, W, 3) of a frame of the batch."""
    held, number = frames.frames, int(frames.index[place])
    first, (height, width) = int(held.offset_N[number]), frames.hw
    image_P3 = held.image_P3[first : first + height * width]
    return image_P3.cpu().numpy().reshape(height, width, 3)
