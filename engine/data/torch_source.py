"""The reference source: PyTorch samples whole frames; written to be read.

B: rows of a batch. C: channels. H W: pixels of the crop. Y X: pixels of the frame.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import Batch, Draws
from engine.data.file_source import FileSource, sample_positions
from engine.data.inputs import upload
from engine.frames.build import read_whole
from engine.frames.decode import Sample

if TYPE_CHECKING:
    # Not for networks that see none.
    from engine.data.surface import Surface

_BATCHES_AHEAD = 2
"""Batches in preparation while one is used: two even out frames of unequal cost."""


@dataclass(frozen=True, eq=False)
class TorchSource(FileSource):
    """See `engine.data.batch.Source`."""

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        ahead: deque[tuple[Draws, list[Future[dict[str, Tensor]]]]] = deque()
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

    def _submit(self, pool: ThreadPoolExecutor, rows: Draws) -> list[Future[dict[str, Tensor]]]:
        samples = [self.samples[sample] for sample in rows.index]
        rows_BH, columns_BW = sample_positions(rows, self.crop_hw)
        columns_BW = np.where(rows.flip[:, None], columns_BW[:, ::-1], columns_BW)
        positions = zip(samples, rows_BH, columns_BW, strict=True)
        return [pool.submit(_crop, *each, self.spec.surface) for each in positions]

    def _assemble(self, rows: Draws, futures: list[Future[dict[str, Tensor]]]) -> Batch:
        crops = [future.result() for future in futures]
        # Of the whole frames, which need not be of one size.
        cells = [crop.pop("cells") for crop in crops if "cells" in crop]
        stacks = {kind: torch.stack([crop[kind] for crop in crops]) for kind in crops[0]}
        moved = {kind: upload(stack, self.device) for kind, stack in stacks.items()}
        return self.finish(rows, moved, cells)


def _crop(
    sample: Sample,
    rows_H: NDArray[np.float64],
    columns_W: NDArray[np.float64],
    surface: "Surface | None",
) -> dict[str, Tensor]:
    """By kind: (3, H, W) image, (H, W) depth in its units and label, of one row.

    Where a `surface` is wanted, "cells" (h, w) of the whole frame, too.
    """
    frame = read_whole(sample)
    image_CYX = torch.from_numpy(frame.image_HW3).permute(2, 0, 1)
    crops = {"image": _bilinear(image_CYX, rows_H, columns_W)}
    for kind, map_YX in (("depth", frame.depth_HW), ("label", frame.label_HW)):
        if map_YX is not None:
            crops[kind] = _nearest(torch.from_numpy(map_YX), rows_H, columns_W)
    if surface is not None and frame.depth_HW is not None:
        crops["cells"] = torch.from_numpy(surface.cells(frame.depth_HW))
    return crops


def _bilinear(image_CYX: Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Tensor:
    """(C, H, W) float32; taps beyond the border repeat it."""
    height, width = image_CYX.shape[1:]
    # grid_sample's -1..1 spans the frame from edge to edge (align_corners=False).
    y_H = torch.from_numpy(2 * rows / height - 1).float()
    x_W = torch.from_numpy(2 * columns / width - 1).float()
    grid_HW2 = torch.stack(torch.meshgrid(y_H, x_W, indexing="ij")[::-1], dim=-1)
    crop_1CHW = F.grid_sample(
        image_CYX[None].float(), grid_HW2[None], padding_mode="border", align_corners=False
    )
    return crop_1CHW[0]


def _nearest(map_YX: Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Tensor:
    """(H, W), the pixel that each position lies in, exactly; beyond the border it is repeated."""
    row_index, column_index = (
        torch.from_numpy(np.floor(positions).astype(np.int64).clip(0, side - 1))
        for positions, side in zip((rows, columns), map_YX.shape, strict=True)
    )
    return map_YX[row_index[:, None], column_index]
