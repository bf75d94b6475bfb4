"""The DALI source: NVIDIA DALI decodes, crops, resizes and mirrors, driven by the same draws.

The pipeline holds no randomness: files, maps and the geometry of each row come in through
`external_source`, so it is a pure function of the draws. On a GPU the `mixed` decoder decodes JPEGs
there. Depth maps and labels are PNGs, which it would decode on the CPU: `kernels.png` does that in
less time, and each map is moved once, whole; crop, resize and flip are the GPU's. On a CPU the same
pipeline runs there.

B: rows of a batch. C: channels. H W: pixels of the crop.
"""

import io
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torch.utils.dlpack import from_dlpack

from engine.data.batch import Batch, Draws
from engine.data.file_source import FileSource
from engine.frames.build import read_whole
from engine.frames.decode import Sample, read_depth, read_image, read_label

_PREFETCH = 2
"""Batches that DALI prepares ahead of use: frames of so many are in memory, however many there are.
"""

_Fed = tuple[NDArray[Any] | list[NDArray[Any]], ...]
"""Of a batch: B encoded images, B decoded maps (H, W, 1) of every other kind, then what
`DaliSource._windows` returns."""


_Rows = tuple[Draws, list[Future[torch.Tensor]]]
"""A batch's draws, and the cells of its frames, which are none where no surfaces are seen."""


@dataclass(eq=False)
class _Feed:
    """What a pipeline calls for its next batch, epoch after epoch."""

    batches: Iterator[_Fed] = field(default_factory=lambda: iter(()))
    """Of the epoch that runs."""

    def __call__(self) -> _Fed:
        return next(self.batches)


@dataclass(frozen=True, eq=False)
class DaliSource(FileSource):
    """See `engine.data.batch.Source`; built once, its pipeline serves epoch after epoch."""

    _idle: list[tuple[Any, _Feed]] = field(default_factory=list, init=False, repr=False)
    """Pipelines whose last epoch was taken to its end, to be fed again."""

    @property
    def _kinds(self) -> tuple[str, ...]:
        """The files that samples have: all the same."""
        return tuple(self.samples[0].present)

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        iterator = iter(draws)
        first = next(iterator, None)
        if first is None:
            return
        fed: deque[_Rows] = deque()
        pipeline, feed = self._take_pipeline(len(first.index))
        with ThreadPoolExecutor(self.workers, thread_name_prefix="read") as pool:
            rows = itertools.chain([first], iterator)
            feed.batches = self._read(rows, len(first.index), pool, fed)
            while True:
                try:
                    # Bound to the stream that reads them, outputs are ready when it gets there, and
                    # their memory, once they are dropped, is DALI's again behind what was asked of
                    # that stream. Bound to the host, as by default, it would be DALI's at once:
                    # maybe before the kernels that `finish` has started have read it.
                    outputs = pipeline.run(self._stream())
                except StopIteration:
                    pipeline.reset()
                    # Only now: one with batches under way, or at fault, is not used again.
                    self._idle.append((pipeline, feed))
                    return
                except (OSError, RuntimeError) as error:
                    raise self._blame([rows for rows, _ in fed], error) from error
                tensors = (from_dlpack(output.as_tensor()) for output in outputs)
                crops = dict(zip(self._kinds, tensors, strict=True))
                image_BCHW = crops.pop("image").permute(0, 3, 1, 2)
                maps = {kind: map_BHW1[..., 0] for kind, map_BHW1 in crops.items()}
                done, cells = fed.popleft()
                whole = [each.result() for each in cells]
                yield self.finish(done, {"image": image_BCHW, **maps}, whole)

    def _read(
        self, draws: Iterable[Draws], rows_max: int, pool: ThreadPoolExecutor, fed: deque[_Rows]
    ) -> Iterator[_Fed]:
        """What each run of the pipeline takes; batches are noted in `fed` before they are read."""
        for rows in draws:
            if len(rows.index) > rows_max:
                raise ValueError(
                    f"a batch of {len(rows.index)} rows follows a first one of {rows_max}; "
                    "DALI allocates for the first, so none may be larger"
                )
            cells: list[Future[torch.Tensor]] = []
            fed.append((rows, cells))
            samples = [self.samples[sample] for sample in rows.index]
            asked = [pool.map(_READ[kind], samples) for kind in self._kinds]
            files = [*map(list, asked)]
            if self.spec.surface is not None:
                maps, of = files[self._kinds.index("depth")], self.spec.surface.cells
                made = [partial(of, depth_HW1[..., 0]) for depth_HW1 in maps]
                cells.extend(pool.submit(_as_tensor, make) for make in made)
            yield (*files, *self._windows(rows))

    def _windows(self, draws: Draws) -> tuple[NDArray[Any], ...]:
        """The part of each crop whose sample positions lie inside the frame.

        DALI must not see a region that leaves the frame: its nearest-neighbour resampling on the
        CPU reads past the end of a row there (DALI 2.4: pixels of the next row, or a crash).

        Returns:
            Four arrays (B, 2), vertical first: where the region starts and ends in the frame
            (float32 pixels; mirrored if the end comes first), size of the window (float32), and
            where the crop starts relative to the window (int32, <= 0).

        Raises:
            ValueError: a box does not touch its frame.
        """
        inside, crop_hw = self.inside(draws), self.crop_hw
        first_B2 = np.stack([axis.argmax(axis=1) for axis in inside], axis=1)
        size_B2 = np.stack([axis.sum(axis=1) for axis in inside], axis=1)
        if not size_B2.all():
            row = int(np.flatnonzero(~size_B2.all(axis=1))[0])
            stem = self.samples[draws.index[row]].stem
            raise ValueError(f"box {draws.box[row]} does not touch sample {stem}")
        step_B2 = draws.box[:, 2:] / crop_hw
        start_B2 = draws.box[:, :2] + first_B2 * step_B2
        end_B2 = start_B2 + size_B2 * step_B2
        flip = draws.flip
        start_B2[flip, 1], end_B2[flip, 1] = end_B2[flip, 1], start_B2[flip, 1]
        first_B2[flip, 1] = crop_hw[1] - size_B2[flip, 1] - first_B2[flip, 1]
        window = (part.astype(np.float32) for part in (start_B2, end_B2, size_B2))
        return (*window, -first_B2.astype(np.int32))

    def _stream(self) -> torch.cuda.Stream | None:
        """The stream that reads a batch; None for the host, which reads those of a CPU."""
        return torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None

    def _take_pipeline(self, rows_max: int) -> tuple[Any, _Feed]:
        """A pipeline that nobody else uses, for batches of at most so many rows, and its feed."""
        while self._idle:
            pipeline, feed = self._idle.pop()
            if pipeline.max_batch_size >= rows_max:
                return pipeline, feed
        on_gpu, feed = self.device.type == "cuda", _Feed()
        # A CPU pipeline gets no device at all, or DALI would look for a driver. A tensor knows the
        # number of a device that is named "cuda" only.
        device_id = torch.empty(0, device=self.device).get_device() if on_gpu else None
        pipeline = pipeline_def(_crop_files)(
            feed,
            "mixed" if on_gpu else "cpu",
            self.crop_hw,
            self._kinds,
            batch_size=rows_max,
            num_threads=self.workers,
            device_id=device_id,
            prefetch_queue_depth=_PREFETCH,
            exec_dynamic=True,  # no other way of running binds outputs to a stream
        )
        pipeline.build()
        return pipeline, feed

    def _blame(self, fed: Iterable[Draws], error: Exception) -> RuntimeError:
        """Find the sample at fault: the messages of DALI do not name it."""
        indices = dict.fromkeys(sample for rows in fed for sample in rows.index.tolist())
        samples = [self.samples[index] for index in indices]
        for sample in samples:
            try:
                read_whole(sample)
            except RuntimeError as fault:
                return fault
        stems = ", ".join(sample.stem for sample in samples)
        return RuntimeError(f"DALI failed on one of the samples {stems}: {error}")


def _crop_files(
    feed: _Feed, decoder: str, crop_hw: tuple[int, int], kinds: Sequence[str]
) -> tuple[Any, ...]:
    """The pipeline: encoded images, decoded maps and windows in, crops (H, W, C) out."""
    layout = [""] + ["HWC"] * (len(kinds) - 1)
    fed = fn.external_source(feed, num_outputs=len(kinds) + 4, batch=True, layout=layout)
    *frames, start, end, size, offset = fed
    formats = {
        "image": (types.INTERP_LINEAR, types.FLOAT),
        "depth": (types.INTERP_NN, types.UINT16),
        "label": (types.INTERP_NN, types.UINT8),
    }
    crops = []
    for fed_frame, kind in zip(frames, kinds, strict=True):
        frame = fed_frame
        if kind == "image":
            frame = fn.decoders.image(
                frame,
                device=decoder,
                output_type=types.RGB,
                dtype=types.UINT8,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,  # chroma between its samples: the CPU's way on a GPU
            )
        elif decoder == "mixed":
            frame = frame.gpu()
        interpolation, resized = formats[kind]
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
            fn.slice(window, start=offset, shape=crop_hw, axes=(0, 1), out_of_bounds_policy="pad")
        )
    return tuple(crops)


def _as_tensor(make: Callable[[], NDArray[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(make())


def _image(sample: Sample) -> NDArray[np.uint8]:
    """A sample's image as a file that DALI reads right.

    One that is more than plain RGB is decoded here, as by every source, and handed over as BMP.
    """
    if sample.origin.is_plain:
        return np.frombuffer(sample.image.read_bytes(), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(read_image(sample)).save(stream, "bmp")
    return np.frombuffer(stream.getvalue(), dtype=np.uint8)


def _depth(sample: Sample) -> NDArray[np.uint16]:
    depth_HW = read_depth(sample)
    assert depth_HW is not None, "the caller has its file"
    return depth_HW[..., None]


def _label(sample: Sample) -> NDArray[np.uint8]:
    return read_label(sample)[..., None]


_READ: dict[str, Callable[[Sample], NDArray[Any]]] = {
    "image": _image,
    "depth": _depth,
    "label": _label,
}
"""What makes of a sample what the pipeline takes, by kind: maps in `Sample.hw`, or a RuntimeError;
see `DaliSource._windows` why their size matters."""
