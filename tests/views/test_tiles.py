"""Frames in tiles: the tiles cover them, fit together, and say what the whole says."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.config import DataConfig, InferenceConfig
from engine.data.arrays import array_frame, frame_batch
from engine.data.batch import FrameBatch
from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader
from engine.frames.reading import AS_STORED
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views.masks import Rows
from engine.views.predictor import FoldNetwork, Predictor
from engine.views.tiles import Tiled, resized, starts, weights
from engine.views.zoom import base_hw

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
DATA = DataConfig(classes=("a", "b", "c"), small_classes=())
SPEC = InputSpec(3, Normalisation((127.5,) * 3, (127.5,) * 3))
REACH = 24
"""Pixels around one that the network of these tests sees: most of a border between tiles of 128."""


def by_surroundings(image: Tensor) -> Prediction:
    """The mean colour around each cell of stride 4, with zeros outside, as convolutions have it."""
    cells = F.avg_pool2d(image, 4)
    kernel = torch.ones(3, 1, 2 * REACH // 4 + 1, 2 * REACH // 4 + 1)
    around = F.conv2d(cells, kernel / kernel[0].numel(), padding=REACH // 4, groups=3)
    return Prediction(20 * around, around[:, 0])


def predictor_of(
    forward: Callable[[Tensor], Prediction] = by_surroundings,
    base: str | tuple[int, int] = "own",
    scales: tuple[float, ...] = (1.0,),
) -> Predictor:
    fields = {"scales": scales, "flip": True, "temperatures": (1.0,), "base_hw": base}
    views = InferenceConfig.model_validate(fields)
    reader = FrameReader(CPU, 2, depth=False, workers=1)
    return Predictor([FoldNetwork(0, forward, SPEC)], views, DATA, POLICY, reader)


def tiled(predictor: Predictor, tile: tuple[int, int], overlap: float = 0.25) -> Tiled:
    inner = replace(predictor, inference=predictor.inference.model_copy(update={"base_hw": "own"}))
    return Tiled(inner, lambda hw: base_hw(DATA, predictor.inference, hw), tile, overlap)


def frame_of(hw: tuple[int, int], cells: int = 6) -> FrameBatch:
    """Coloured blotches."""
    coarse = 255 * torch.rand(1, 3, cells, cells, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, hw, mode="bicubic").clamp(0, 255).to(torch.uint8)
    frame = array_frame(image[0].permute(1, 2, 0).numpy(), None, AS_STORED, need_depth=False)
    return frame_batch([frame], CPU)


def whole(rows: Iterator[Rows]) -> Tensor:
    """(C, H, W) of all rows of a frame."""
    return torch.cat([part.at_size().clone() for part in rows], dim=2)[0]


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(640, 128, 0.25), (331, 64, 0.5), (64, 64, 0)]
)
def test_tiles_cover_a_side_and_overlap_as_asked(length: int, tile: int, overlap: float) -> None:
    found = starts(length, tile, overlap)
    assert (found[0], found[-1]) == (0, length - tile)
    assert all(start % 32 == 0 for start in found[:-1])
    steps = np.diff(found)
    assert (steps > 0).all()
    assert (steps <= tile * (1 - overlap)).all()


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
def test_weights_of_overlapping_tiles_sum_to_1_and_never_jump(overlap: float) -> None:
    tile, length = 128, 500
    first = starts(length, tile, overlap)
    total = np.zeros(length)
    window = weights(first, tile, length, overlap)
    for start, weight in zip(first, window, strict=True):
        assert (weight > 0).all()
        total[start : start + tile] += weight
        if overlap:
            inner = weight if 0 < start < length - tile else weight[:0]
            assert (np.abs(np.diff(np.concatenate([[0], inner, [0]]))) < 0.12).all()
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_a_network_that_sees_no_surroundings_says_the_same_in_tiles_as_in_whole() -> None:
    def by_colour(image: Tensor) -> Prediction:
        logits = F.avg_pool2d(3 * image, 4)
        return Prediction(logits, logits[:, 0])

    # Views are floored to multiples of 32; at these sizes nothing is.
    frames, predictor = frame_of((192, 352)), predictor_of(by_colour)
    (expected,) = predictor.rows(frames)
    difference = (whole(tiled(predictor, (64, 96)).rows(frames)) - expected.at_size()[0]).abs()
    # Cells of stride 4 reach from corner to corner of what is seen: up to 1.5 pixels aside.
    assert difference.max() < 0.15
    assert difference.mean() < 1e-2


def disagreement(mask: Tensor, other: Tensor) -> NDArray[np.bool_]:
    wrong: NDArray[np.bool_] = (mask != other).numpy()
    return wrong


def at_seams(hw: tuple[int, int], tile: tuple[int, int], overlap: float) -> NDArray[np.bool_]:
    """Pixels where tiles overlap."""
    sides = []
    for length, side in zip(hw, tile, strict=True):
        count = np.zeros(length, int)
        for start in starts(length, side, overlap):
            count[start : start + side] += 1
        sides.append(count > 1)
    return sides[0][:, None] | sides[1][None]


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_tiles_disagree_with_the_whole_in_few_pixels_and_no_more_at_seams(
    scales: tuple[float, ...],
) -> None:
    hw, tile = (384, 512), (128, 128)
    frames, predictor = frame_of(hw), predictor_of(scales=scales)
    (expected,) = predictor.rows(frames)
    expected_HW = expected.at_size()[0].argmax(dim=0)
    wrong = disagreement(whole(tiled(predictor, tile).rows(frames)).argmax(dim=0), expected_HW)
    seam = at_seams(hw, tile, 0.25)
    assert 0.3 < seam.mean() < 0.7
    assert wrong.mean() <= 0.02
    assert wrong[seam].mean() <= wrong[~seam].mean() + 0.005
    # Side by side, without a window, they are wrong there.
    abrupt = disagreement(whole(tiled(predictor, tile, 0).rows(frames)).argmax(dim=0), expected_HW)
    assert abrupt.mean() > 2 * wrong.mean()


@pytest.mark.parametrize("base", [(224, 320), (448, 512)])
def test_a_frame_is_brought_to_the_base_size_and_back_as_without_tiles(
    base: tuple[int, int],
) -> None:
    frames, predictor = frame_of((300, 401)), predictor_of(base=base)
    found = whole(tiled(predictor, (128, 160)).rows(frames))
    assert found.shape == (3, 300, 401)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(300, 401))
    (expected,) = predictor.rows(frames)
    assert (found.argmax(0) != expected.at_size()[0].argmax(0)).float().mean() < 0.02


@pytest.mark.parametrize(
    ("base", "hw"), [((50, 40), (75, 61)), ((50, 40), (20, 33)), ((7, 9), (7, 9))]
)
def test_strips_are_resized_as_the_whole_is(base: tuple[int, int], hw: tuple[int, int]) -> None:
    prob_CHW = torch.rand(3, *base, generator=torch.Generator().manual_seed(1))
    strips = iter(torch.split(prob_CHW, [1, 3, base[0] - 4], dim=1))
    found = torch.cat(list(resized(strips, base, hw)), dim=1)
    expected = F.interpolate(prob_CHW[None], hw, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, expected)


def test_a_frame_that_a_tile_holds_is_looked_at_whole() -> None:
    frames, predictor = frame_of((96, 128)), predictor_of()
    (expected,) = predictor.rows(frames)
    (found,) = tiled(predictor, (96, 160)).rows(frames)
    assert torch.equal(found.prob_BChw, expected.prob_BChw)
    assert found.hw == expected.hw


def test_only_a_row_of_tiles_is_held_at_a_time() -> None:
    held = [
        part.prob_BChw.shape[2]
        for part in tiled(predictor_of(), (64, 64)).rows(frame_of((640, 96)))
    ]
    assert sum(held) == 640
    assert max(held) <= 64


def test_no_more_tiles_pass_together_than_a_batch_holds() -> None:
    batches = []

    def forward(image: Tensor) -> Prediction:
        batches.append(len(image))
        return by_surroundings(image)

    list(tiled(predictor_of(forward), (64, 64)).rows(frame_of((64, 288))))
    assert max(batches) == 2
    assert sum(batches) == 2 * len(starts(288, 64, 0.25))  # each mirrored, too
