"""What a network sees of pixels and depth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.data.file_source import network_input
from engine.data.inputs import InputSpec, Normalisation, crop_frames, whole_frame_draws
from engine.data.sources import ResidentFrames, ResidentSource
from kernels.crop_resize import Frames, crop_resize

NORMALISATION = Normalisation((100.0, 120.0, 140.0), (50.0, 60.0, 70.0))
RGB, RGBD = (InputSpec(channels, NORMALISATION) for channels in (3, 4))


def test_rgb_is_normalised_by_channel_and_channels_last() -> None:
    image = torch.rand(2, 3, 5, 7) * 255
    result = network_input(image, torch.zeros(2, 5, 7), RGB)
    mean, std = (
        torch.tensor(values).double()[:, None, None]
        for values in (NORMALISATION.mean, NORMALISATION.std)
    )
    torch.testing.assert_close(result.double(), (image.double() - mean) / std, rtol=0, atol=1e-6)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_fourth_channel_is_clipped_inverse_depth_and_0_where_depth_is_missing() -> None:
    depth = torch.tensor([[[0.0, 0.3, 0.71, 1.0, 10.0, 65.0]]])
    result = network_input(torch.zeros(1, 3, 1, 6), depth, RGBD)
    one_metre = (1 - 0.1) / (1 / 0.71 - 0.1)
    torch.testing.assert_close(
        result[0, 3, 0], torch.tensor([0, 1, 1, one_metre, 0, 0]), rtol=0, atol=1e-6
    )
    assert result[0, 3, 0, 0] == 0
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_other_counts_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 .* or 4 .* got 5"):
        InputSpec(5, NORMALISATION)
    assert (RGB.has_depth, RGBD.has_depth) == (False, True)


@pytest.fixture(name="frames")
def two_frames() -> Frames:
    pixels = torch.arange(96, dtype=torch.uint8).view(32, 3)
    return Frames(pixels, None, None, torch.tensor([0, 16]), torch.full((2, 2), 4))


@pytest.mark.parametrize("sample", [-1, 2])
def test_draws_of_a_frame_that_is_not_there_are_refused(sample: int, frames: Frames) -> None:
    draws = whole_frame_draws(np.array([0, sample]), np.full((3, 2), 4))
    with pytest.raises(ValueError, match=rf"samples must be in \[0, 2\), got .*{sample}"):
        crop_frames(frames, draws, (4, 4), RGB, crop_resize)


def test_crops_are_of_the_dtype_asked_for_unless_channels_are_derived_from_them(
    frames: Frames,
) -> None:
    draws = whole_frame_draws(np.array([0, 1]), np.full((3, 2), 4))
    exact, rounded = (
        crop_frames(frames, draws, (3, 5), RGB, crop_resize, dtype).image_BChw
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded, exact.to(torch.bfloat16))
    derived = replace(RGB, derived=(lambda image_BCHW, _: image_BCHW[:, 0],))
    image = crop_frames(frames, draws, (3, 5), derived, crop_resize, torch.bfloat16).image_BChw
    assert torch.equal(image, torch.cat([exact, exact[:, :1]], 1))


def test_the_resident_source_makes_images_of_its_dtype(frames: Frames) -> None:
    resident = ResidentFrames(frames, frames.offset_N.numpy(), {})
    source = ResidentSource(resident, (3, 5), RGB, crop_resize, torch.bfloat16)
    (batch,) = source.batches([whole_frame_draws(np.array([1]), np.full((2, 2), 4))])
    assert batch.image_BCHW.dtype == torch.bfloat16
