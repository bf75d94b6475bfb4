"""The reference source: PyTorch samples whole frames; written to be read.

B: rows of a batch. C: channels. H W: pixels of the frame. h w: pixels of the crop.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine import nyuv2
from engine.data.augment import Draws, sample_positions
from engine.data.batch import Batch, finish
from engine.data.normalisation import Normalisation
from engine.frames.decode import read_frame
from engine.frames.index import Sample

_BATCHES_AHEAD = 2
"""Batches in preparation while one is used: two even out frames of unequal cost."""


class _Crop(NamedTuple):
    image_Chw: Tensor
    depth_hw: Tensor | None
    label_hw: Tensor | None


@dataclass(frozen=True, eq=False)
class TorchSource:
    """See `engine.data.sources.Source`; arguments as of `make_source`."""

    samples: Sequence[Sample]
    crop_hw: tuple[int, int]
    normalisation: Normalisation
    in_channels: int
    device: torch.device
    workers: int

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        ahead: deque[tuple[Draws, list[Future[_Crop]]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            for rows in draws:
                ahead.append((rows, self._submit(pool, rows)))
                if len(ahead) > _BATCHES_AHEAD:
                    yield self._assemble(*ahead.popleft())
            while ahead:
                yield self._assemble(*ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, rows: Draws) -> list[Future[_Crop]]:
        positions = sample_positions(rows, self.crop_hw)
        return [
            pool.submit(self._crop, self.samples[sample], row_positions, column_positions, flip)
            for sample, row_positions, column_positions, flip in zip(
                rows.index, *positions, rows.flip, strict=True
            )
        ]

    def _crop(
        self,
        sample: Sample,
        rows: NDArray[np.float64],
        columns: NDArray[np.float64],
        flip: np.bool_,
    ) -> _Crop:
        try:
            frame = read_frame(sample, label=True)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f"sample {sample.stem} cannot be read: {error}") from error
        if flip:
            columns = columns[::-1]
        depth_hw, label_hw = (
            None if map_HW is None else _nearest(map_HW, rows, columns)
            for map_HW in (frame.depth_HW, frame.label_HW)
        )
        if depth_hw is not None:
            depth_hw = depth_hw.to(torch.float32) / nyuv2.MILLIMETRES_PER_METRE
        return _Crop(_bilinear(frame.image_HW3.permute(2, 0, 1), rows, columns), depth_hw, label_hw)

    def _assemble(self, rows: Draws, futures: list[Future[_Crop]]) -> Batch:
        crops = [future.result() for future in futures]
        image_BChw = self._stack([crop.image_Chw for crop in crops])
        assert image_BChw is not None
        return finish(
            image_BChw,
            self._stack([crop.depth_hw for crop in crops]),
            self._stack([crop.label_hw for crop in crops]),
            draws=rows,
            samples=self.samples,
            normalisation=self.normalisation,
            in_channels=self.in_channels,
        )

    def _stack(self, crops: Sequence[Tensor | None]) -> Tensor | None:
        present = [crop for crop in crops if crop is not None]
        if not present:
            return None
        batch = torch.stack(present)
        if self.device.type == "cuda":  # from pinned memory the copy does not stop the host
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)


def _bilinear(image_CHW: Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Tensor:
    """(C, h, w) float32; taps beyond the border repeat it."""
    height, width = image_CHW.shape[1:]
    # grid_sample's -1..1 spans the frame from edge to edge (align_corners=False).
    y_h = torch.from_numpy(2 * rows / height - 1).float()
    x_w = torch.from_numpy(2 * columns / width - 1).float()
    grid_hw2 = torch.stack(torch.meshgrid(y_h, x_w, indexing="ij")[::-1], dim=-1)
    return F.grid_sample(
        image_CHW[None].float(),
        grid_hw2[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0]


def _nearest(map_HW: Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Tensor:
    """(h, w), the pixel that each position lies in, exactly; beyond the border it is repeated."""
    row_index, column_index = (
        torch.from_numpy(np.floor(positions).astype(np.int64).clip(0, side - 1))
        for positions, side in zip((rows, columns), map_HW.shape, strict=True)
    )
    return map_HW[row_index[:, None], column_index]
