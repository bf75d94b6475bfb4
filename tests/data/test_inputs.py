"""What a network sees of pixels and depth."""

import numpy as np
import pytest
import torch

from engine.data.file_source import network_input
from engine.data.inputs import InputSpec, Normalisation, crop_frames, whole_frame_draws
from kernels.crop_resize import Frames

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


@pytest.mark.parametrize("sample", [-1, 2])
def test_draws_of_a_frame_that_is_not_there_never_reach_the_crop_operation(sample: int) -> None:
    # On a GPU that operation does not look at them: the host would wait.
    hw_N2, pixels = torch.full((2, 2), 4), torch.zeros(32, 3, dtype=torch.uint8)
    frames = Frames(pixels, None, None, torch.tensor([0, 16]), hw_N2)
    draws = whole_frame_draws(np.array([0, sample]), np.full((3, 2), 4))
    with pytest.raises(ValueError, match=rf"samples must be in \[0, 2\), got .*{sample}"):
        crop_frames(frames, draws, (4, 4), RGB, lambda *_: pytest.fail("it was called"))
