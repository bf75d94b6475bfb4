"""The DALI source: NVIDIA DALI decodes, crops, resizes and mirrors, driven by the same draws.

The pipeline holds no randomness: file bytes and the geometry of each row come in through
`external_source`, so it is a pure function of the draws. CPU and GPU pipelines differ by one device
string. Note that the `mixed` decoder decodes JPEG on the GPU but PNG (every depth map and label) on
the CPU.

B: rows of a batch. C: channels. h w: pixels of the crop.
"""

import io
import itertools
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from engine import nyuv2
from engine.data.augment import Draws, sample_positions
from engine.data.batch import Batch, finish
from engine.data.normalisation import Normalisation
from engine.frames.decode import read_frame
from engine.frames.index import Sample

_PREFETCH = 2
"""Batches that DALI prepares ahead of use."""

# Every PNG file starts with a header that has these at fixed places.
_PNG_WIDTH_HEIGHT, _PNG_FORMAT = slice(16, 24), slice(24, 26)
_PNG_GREY_8 = bytes([8, 0])  # bit depth and colour type


_Feed = Iterator[tuple[NDArray[Any] | list[NDArray[np.uint8]], ...]]
"""For each batch: the files of every kind, B each, then what `_windows` returns."""


@dataclass(frozen=True, eq=False)
class DaliSource:
    """See `engine.data.sources.Source`; arguments as of `make_source`."""

    samples: Sequence[Sample]
    crop_hw: tuple[int, int]
    normalisation: Normalisation
    in_channels: int
    device: torch.device
    workers: int

    @property
    def _has_depth(self) -> bool:
        return bool(self.samples) and self.samples[0].depth is not None

    @property
    def _has_label(self) -> bool:
        return bool(self.samples) and self.samples[0].label is not None

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        iterator = iter(draws)
        first = next(iterator, None)
        if first is None:
            return
        fed: deque[Draws] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="read") as pool:
            feed = self._feed(itertools.chain([first], iterator), len(first), pool, fed)
            pipeline = self._pipeline(feed, len(first))
            while True:
                try:
                    outputs = pipeline.run()
                except StopIteration:
                    return
                except (OSError, RuntimeError) as error:
                    raise self._blame(fed, error) from error
                yield self._finish(outputs, fed.popleft())

    def _feed(
        self, draws: Iterable[Draws], rows_max: int, pool: ThreadPoolExecutor, fed: deque[Draws]
    ) -> _Feed:
        """What each run of the pipeline takes; batches are noted in `fed` before they are read."""
        for rows in draws:
            if len(rows) > rows_max:
                raise ValueError(
                    f"a batch of {len(rows)} rows follows a first one of {rows_max}; "
                    "DALI allocates for the first, so none may be larger"
                )
            fed.append(rows)
            samples = [self.samples[sample] for sample in rows.index]
            files = [list(pool.map(_read_image, samples))]
            if self._has_depth:
                files.append(list(pool.map(_read_depth, samples)))
            if self._has_label:
                files.append(list(pool.map(_read_label, samples)))
            yield (*files, *_windows(rows, samples, self.crop_hw))

    def _pipeline(self, feed: _Feed, rows_max: int) -> Any:
        on_gpu = self.device.type == "cuda"
        # A CPU pipeline gets no device at all, or DALI would look for a driver. A tensor knows the
        # number of a device that is named "cuda" only.
        device_id = torch.empty(0, device=self.device).get_device() if on_gpu else None
        definition = pipeline_def(
            batch_size=rows_max,
            num_threads=self.workers,
            device_id=device_id,
            prefetch_queue_depth=_PREFETCH,
        )(_crop_files)
        pipeline = definition(
            feed, "mixed" if on_gpu else "cpu", self.crop_hw, self._has_depth, self._has_label
        )
        pipeline.build()
        return pipeline

    def _finish(self, outputs: Sequence[Any], rows: Draws) -> Batch:
        tensors = iter([from_dlpack(output.as_tensor()) for output in outputs])
        image_BChw = next(tensors).permute(0, 3, 1, 2)
        depth_Bhw = _metres(next(tensors)[..., 0]) if self._has_depth else None
        label_Bhw = next(tensors)[..., 0] if self._has_label else None
        return finish(
            image_BChw,
            depth_Bhw,
            label_Bhw,
            draws=rows,
            samples=self.samples,
            normalisation=self.normalisation,
            in_channels=self.in_channels,
        )

    def _blame(self, fed: Iterable[Draws], error: Exception) -> RuntimeError:
        """Find the sample at fault: the messages of DALI do not name it."""
        indices = dict.fromkeys(sample for rows in fed for sample in rows.index.tolist())
        samples = [self.samples[index] for index in indices]
        for sample in samples:
            try:
                read_frame(sample, label=True)
            except (OSError, RuntimeError) as fault:
                return RuntimeError(f"sample {sample.stem} cannot be read: {fault}")
        stems = ", ".join(sample.stem for sample in samples)
        return RuntimeError(f"DALI failed on one of the samples {stems}: {error}")


def _crop_files(
    feed: _Feed,
    decoder: str,
    crop_hw: tuple[int, int],
    has_depth: bool,
    has_label: bool,
) -> tuple[Any, ...]:
    """The pipeline: encoded files and windows in, crops (h, w, C) out."""
    inputs = list(fn.external_source(feed, num_outputs=5 + has_depth + has_label, batch=True))
    *files, start, end, size, offset = inputs
    kinds = [(types.RGB, types.UINT8, types.INTERP_LINEAR, types.FLOAT)]
    if has_depth:
        kinds.append((types.ANY_DATA, types.UINT16, types.INTERP_NN, types.UINT16))
    if has_label:
        kinds.append((types.ANY_DATA, types.UINT8, types.INTERP_NN, types.UINT8))
    crops = []
    for file, (colour, decoded, interpolation, resized) in zip(files, kinds, strict=True):
        frame = fn.decoders.image(
            file, device=decoder, output_type=colour, dtype=decoded, adjust_orientation=False
        )
        window = fn.resize(
            frame,
            size=size,
            roi_start=start,
            roi_end=end,  # left of the start: mirrored
            interp_type=interpolation,
            antialias=False,
            dtype=resized,
        )
        crops.append(
            fn.slice(
                window,
                start=offset,
                shape=crop_hw,
                axes=(0, 1),
                out_of_bounds_policy="pad",
                fill_values=0,
            )
        )
    return tuple(crops)


def _windows(
    draws: Draws, samples: Sequence[Sample], crop_hw: tuple[int, int]
) -> tuple[NDArray[Any], ...]:
    """The part of each crop whose sample positions lie inside the frame.

    DALI must not see a region that leaves the frame: its nearest-neighbour resampling on the CPU
    reads past the end of a row there (DALI 2.4: pixels of the next row, or a crash).

    Returns:
        Four arrays (B, 2), vertical first: where the region starts and ends in the frame (float32
        pixels; mirrored if the end comes first), size of the window (float32), and where the crop
        starts relative to the window (int32, <= 0).

    Raises:
        ValueError: a box does not touch its frame.
    """
    hw_B2 = np.array([sample.hw for sample in samples])
    positions = sample_positions(draws, crop_hw)
    inside = [(positions[axis] >= 0) & (positions[axis] < hw_B2[:, [axis]]) for axis in (0, 1)]
    first_B2 = np.stack([inside[axis].argmax(axis=1) for axis in (0, 1)], axis=1)
    size_B2 = np.stack([inside[axis].sum(axis=1) for axis in (0, 1)], axis=1)
    if not size_B2.all():
        row = int(np.flatnonzero(~size_B2.all(axis=1))[0])
        raise ValueError(f"box {draws.box[row]} does not touch sample {samples[row].stem}")
    step_B2 = draws.box[:, 2:] / crop_hw
    start_B2 = draws.box[:, :2] + first_B2 * step_B2
    end_B2 = start_B2 + size_B2 * step_B2
    flip = draws.flip
    start_B2[flip, 1], end_B2[flip, 1] = end_B2[flip, 1], start_B2[flip, 1]
    first_B2[flip, 1] = crop_hw[1] - size_B2[flip, 1] - first_B2[flip, 1]
    return (
        start_B2.astype(np.float32),
        end_B2.astype(np.float32),
        size_B2.astype(np.float32),
        -first_B2.astype(np.int32),
    )


def _read_image(sample: Sample) -> NDArray[np.uint8]:
    return np.fromfile(sample.image, dtype=np.uint8)


def _read_depth(sample: Sample) -> NDArray[np.uint8]:
    assert sample.depth is not None
    return _read_map(sample.depth, sample.hw)


def _read_label(sample: Sample) -> NDArray[np.uint8]:
    """A label's file as DALI reads it right: 8-bit grey, where it may be indexed colour on disk.

    DALI turns a palette into the colours it stands for and so loses the classes.
    """
    assert sample.label is not None
    encoded = _read_map(sample.label, sample.hw)
    if encoded[_PNG_FORMAT].tobytes() == _PNG_GREY_8:
        return encoded
    label_HW = read_frame(sample, label=True).label_HW
    assert label_HW is not None
    stream = io.BytesIO()
    Image.fromarray(label_HW.numpy()).save(stream, "png", compress_level=1)
    return np.frombuffer(stream.getvalue(), dtype=np.uint8)


def _read_map(path: Path, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """A PNG's bytes, of the size that the window was made for (see `_windows` why that matters)."""
    encoded = np.fromfile(path, dtype=np.uint8)
    if encoded[_PNG_WIDTH_HEIGHT].tobytes() != struct.pack(">II", hw[1], hw[0]):
        raise RuntimeError(f"{path}: expected a PNG of {hw[0]} x {hw[1]} pixels; restore the file")
    return encoded


def _metres(depth_mm: Tensor) -> Tensor:
    # CUDA multiplies by the reciprocal of a Python number, which may be one bit off; by a tensor
    # it divides, as the reference does.
    units = torch.full((), nyuv2.MILLIMETRES_PER_METRE, device=depth_mm.device)
    return depth_mm.float() / units
