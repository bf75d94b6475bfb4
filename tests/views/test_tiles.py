"""Frames in tiles: the tiles cover them, fit together, and say what the whole says."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.seams import mask, seams
from engine.config import DataConfig, InferenceConfig
from engine.data.arrays import array_frame, frame_batch
from engine.data.batch import FrameBatch
from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader
from engine.frames.reading import AS_STORED
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views.masks import Rows
from engine.views.mixture import Mixture
from engine.views.predictor import FoldNetwork, Predictor
from engine.views.tile_pass import Tile, starts, weights
from engine.views.tiles import BAND, Tiled, resized

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
DATA = DataConfig(classes=("a", "b", "c"), small_classes=())
SPEC = InputSpec(3, Normalisation((127.5,) * 3, (127.5,) * 3))
REACH = 32
"""Pixels around one that the network of these tests sees, more than tiles of 128 blend within."""


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
    network = FoldNetwork(0, forward, SPEC, eager=forward)
    return Predictor([network], views, DATA, POLICY, reader)


def tiled(system: Predictor | Mixture, tile: tuple[int, int], overlap: float = 0.375) -> Tiled:
    return Tiled(system, Tile(tile, overlap))


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
    ("length", "tile", "overlap"), [(640, 128, 0.25), (352, 64, 0.5), (64, 64, 0)]
)
def test_tiles_cover_a_side_and_overlap_as_asked(length: int, tile: int, overlap: float) -> None:
    found = starts(length, tile, overlap)
    assert (found[0], found[-1]) == (0, length - tile)
    assert all(start % 32 == 0 for start in found)
    steps = np.diff(found)
    assert (steps > 0).all()
    assert (steps <= tile * (1 - overlap)).all()


@pytest.mark.parametrize("overlap", [0, 0.25, 0.375, 0.5, 0.75])
def test_weights_of_overlapping_tiles_sum_to_1_and_never_jump(overlap: float) -> None:
    tile, length = 256, 992
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


def by_colour(image: Tensor) -> Prediction:
    logits = F.avg_pool2d(3 * image, 4)
    return Prediction(logits, logits[:, 0])


def by_all(image: Tensor) -> Prediction:
    """What each kind of layer that looks at all cells makes of the mean colour of each."""
    cells = F.avg_pool2d(image, 8)
    normed = F.group_norm(cells, 1, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, 1.0]))
    attention = cells * F.adaptive_avg_pool2d(cells, 1) - cells.mean((2, 3), keepdim=True)
    root = cells.norm(p=2, dim=(2, 3), keepdim=True)
    by_root = cells * root / root.mean(dim=1, keepdim=True)
    fine = F.interpolate(
        normed + 4 * attention + by_root, scale_factor=2.0, mode="bilinear", align_corners=True
    )
    return Prediction(fine, fine[:, 0])


@pytest.mark.parametrize("forward", [by_colour, by_all])
def test_a_network_that_sees_no_surroundings_says_the_same_in_tiles_as_in_whole(
    forward: Callable[[Tensor], Prediction],
) -> None:
    frames, predictor = frame_of((192, 352)), predictor_of(forward, scales=(0.5, 1.0, 1.5))
    (expected,) = predictor.rows(frames)
    found = whole(tiled(predictor, (64, 96)).rows(frames))
    torch.testing.assert_close(found, expected.at_size()[0], rtol=0, atol=2e-4)


def test_layers_that_cannot_be_told_apart_see_a_tile_alone_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frames, predictor = frame_of((192, 352)), predictor_of(by_all)
    (expected,) = predictor.rows(frames)
    network = replace(predictor.networks[0], eager=None)
    found = whole(tiled(replace(predictor, networks=[network]), (64, 96)).rows(frames))
    assert (found - expected.at_size()[0]).abs().max() > 0.05
    assert "take their own statistics, not the whole frame's" in caplog.text


def test_runs_that_look_together_do_so_in_tiles() -> None:
    frames, weight_MC = frame_of((300, 352)), np.array([[0.25] * 3, [0.75] * 3])
    mixture = Mixture([predictor_of(by_colour), predictor_of(by_all)], weight_MC)
    (expected,) = mixture.rows(frames)
    found = whole(tiled(mixture, (64, 96)).rows(frames))
    torch.testing.assert_close(found, expected.at_size()[0], rtol=0, atol=2e-4)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_tiles_disagree_with_the_whole_in_few_pixels_and_no_more_at_seams(
    scales: tuple[float, ...],
) -> None:
    """The small form of `python -m benchmarks.tiles`."""
    hw, tile = (448, 640), Tile((192, 192), 0.375)
    frames, predictor = frame_of(hw, cells=24), predictor_of(scales=scales)
    expected_HW = mask(predictor, frames)
    wrong_HW = mask(Tiled(predictor, tile), frames) != expected_HW
    seam_HW = seams(tile, hw, hw, scales)
    assert 0.2 < seam_HW.mean() < 0.9
    assert wrong_HW.mean() <= 0.005
    assert wrong_HW[seam_HW].mean() <= wrong_HW[~seam_HW].mean() + 0.002
    # Side by side, without an overlap, they are wrong there.
    abrupt_HW = mask(Tiled(predictor, Tile(tile.hw, 0)), frames) != expected_HW
    assert abrupt_HW.mean() > 4 * wrong_HW.mean()
    assert abrupt_HW.mean() > 0.01


@pytest.mark.parametrize("base", [(224, 320), (448, 512)])
def test_a_frame_is_brought_to_the_base_size_and_back_as_without_tiles(
    base: tuple[int, int],
) -> None:
    frames, predictor = frame_of((300, 401)), predictor_of(by_all, base=base)
    found = whole(tiled(predictor, (128, 160)).rows(frames))
    (expected,) = predictor.rows(frames)
    torch.testing.assert_close(found, expected.at_size()[0], rtol=0, atol=2e-4)


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


def test_no_pass_takes_more_than_a_tile_and_no_band_more_rows_than_one() -> None:
    pixels = []

    def forward(image: Tensor) -> Prediction:
        pixels.append(image.shape[2] * image.shape[3])
        return by_surroundings(image)

    system = tiled(predictor_of(forward, scales=(0.25, 1.0, 2.0)), (96, 128))
    held = [part.prob_BChw.shape[2] for part in system.rows(frame_of((640, 96)))]
    assert sum(held) == 640
    assert max(held) <= BAND
    assert max(pixels) <= 96 * 128
    # The view of scale 0.25, of 160 x 32, is one that a tile holds: it and its mirror pass once.
    assert pixels.count(160 * 32) == 2
