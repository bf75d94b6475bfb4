"""Colours and hidden depth of crops: as the definition has them, and the same of every source."""

import colorsys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import Config
from engine.data.after_crop import mixing, recolour
from engine.data.batch import Draws
from engine.data.inputs import InputSpec, Normalisation, crop_frames, plain_draws
from engine.frames.decode import Sample
from kernels.crop_resize import Frames, crop_resize
from tests.frames_on_disk import has_dali

RGB = Normalisation((127.0, 110.0, 90.0), (60.0, 50.0, 40.0))


def normalised(rgb: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(part)[:, None, None] for part in (RGB.mean, RGB.std))
    return (rgb - mean) / std


def drawn(turn: float, gain: float, box: list[float], *, flip: bool = False) -> Draws:
    draws = plain_draws(np.array([0]), np.array([box]))
    return replace(draws, flip=np.array([flip]), colour=np.array([[turn, gain]]))


def test_greys_stay_and_hues_turn_as_far_as_is_said() -> None:
    for turn, gain in ((0.3, 1), (-0.2, 0.4), (0.5, 1.7)):
        np.testing.assert_allclose(mixing(turn, gain) @ np.ones(3), np.ones(3), atol=2e-3)
    np.testing.assert_allclose(mixing(0, 1), np.eye(3), atol=1e-12)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma @ mixing(0.15, 0.6), luma, atol=1e-12)
    np.testing.assert_allclose(mixing(0.1, 1) @ mixing(-0.1, 1), np.eye(3), atol=1e-12)
    # A third of the circle leads from red to green, in the directions of colorsys.
    hue = colorsys.rgb_to_hsv(*(mixing(1 / 3, 1) @ (0.6, 0.4, 0.4)))[0]
    back = colorsys.rgb_to_hsv(*(mixing(-1 / 3, 1) @ (0.6, 0.4, 0.4)))[0]
    assert {round(3 * hue), round(3 * back)} == {1, 2}
    half = mixing(0, 0.5) @ (0.8, 0.2, 0.2)
    assert half.max() - half.min() == pytest.approx(0.3)


@pytest.mark.parametrize("flip", [False, True])
def test_colours_are_mixed_and_clipped_in_0_to_255_and_what_is_outside_stays(flip: bool) -> None:
    rgb = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(1)) * 255
    image = torch.cat([normalised(rgb), torch.rand(1, 1, 4, 6)], 1)
    image = image.contiguous(memory_format=torch.channels_last)
    # The frame of 3 x 4 begins one row below the crop's top, and two columns right of its left.
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[1:, (0 if flip else 2) : (4 if flip else 6)] = True
    image[:, :3] *= inside
    before = image.clone()
    draws = drawn(0.2, 1.6, [-1.0, -2.0, 4.0, 6.0], flip=flip)
    recolour(image, draws, np.array([[3, 4]]), RGB)
    mixed = torch.from_numpy(np.einsum("ij,bjhw->bihw", mixing(0.2, 1.6), rgb.double().numpy()))
    assert (mixed[..., inside] > 255).any()
    assert (mixed[..., inside] < 0).any()
    expected = normalised(mixed.clamp(0, 255).float()) * inside
    torch.testing.assert_close(image[:, :3], expected, rtol=0, atol=2e-5)
    assert torch.equal(image[:, 3], before[:, 3])
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_rows_that_are_not_turned_keep_their_bytes() -> None:
    image = torch.rand(1, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    before = image.clone()
    recolour(image, drawn(0, 1, [0.0, 0.0, 4.0, 6.0]), np.array([[4, 6]]), RGB)
    recolour(image, drawn(0.2, 1, [9.0, 9.0, 4.0, 6.0]), np.array([[4, 6]]), RGB)
    assert torch.equal(image, before)


def test_images_of_bfloat16_are_rounded_once() -> None:
    pixels = torch.randint(0, 256, (24, 3), dtype=torch.uint8)
    frames = Frames(pixels, None, None, torch.tensor([0]), torch.tensor([[4, 6]]))
    draws = drawn(0.1, 0.5, [0.0, 0.0, 4.0, 6.0])
    spec = InputSpec(3, RGB)
    exact, rounded = (
        crop_frames(frames, draws, (4, 6), spec, crop_resize, dtype).image_BChw
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded, exact.bfloat16())


def nearness(_: Any, depth_BHW: torch.Tensor) -> torch.Tensor:
    return (depth_BHW > 0).float()


@pytest.mark.parametrize("source", [pytest.param("dali", marks=has_dali), "torch"])
def test_every_source_turns_and_hides_the_same(
    source: str, png: list[Sample], source_of: Callable[..., Any], epoch: Callable[..., Any]
) -> None:
    spec = replace(InputSpec(4, RGB), derived=(nearness,))
    ours, theirs = (replace(source_of(name, png), spec=spec) for name in (source, "resident"))

    def looks() -> Any:
        for number, rows in enumerate(epoch(png)):
            turns = [[0.3, 1.5], [0.0, 1.0], [-0.1, 0.2]][: len(rows.index)]
            hidden = np.arange(len(rows.index)) == number % 2
            yield replace(rows, colour=np.array(turns), hidden=hidden)

    turned = 0
    sources = ours.batches(looks()), theirs.batches(looks()), theirs.batches(epoch(png))
    for number, (a, b, plain) in enumerate(zip(*sources, strict=True)):
        assert (a.image_BCHW - b.image_BCHW)[:, :3].abs().max() < 4 / 40
        torch.testing.assert_close(a.image_BCHW[:, 3:], b.image_BCHW[:, 3:], rtol=0, atol=1e-6)
        assert torch.equal(b.depth_BHW, plain.depth_BHW)
        for row in range(len(b.index)):
            if row == number % 2:
                assert not b.image_BCHW[row, 3:].any()
            else:
                torch.testing.assert_close(b.image_BCHW[row, 3], plain.image_BCHW[row, 3])
            same = torch.equal(b.image_BCHW[row, :3], plain.image_BCHW[row, :3])
            turned += not same
            assert same or row != 1
    assert turned


def test_hiding_depth_that_nobody_sees_is_refused() -> None:
    with pytest.raises(ValueError, match="type data.depth_dropout=0, or rgbd in model.input"):
        Config.model_validate({"data": {"depth_dropout": 0.1}})
