"""Crops to a batch: light, what lies outside of the frame, and channels derived from both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.data.batch import Draws
from engine.data.file_source import FileSource
from engine.data.inputs import InputSpec, Normalisation
from engine.frames.decode import Sample

NORMALISATION = Normalisation((100.0, 120.0, 140.0), (50.0, 60.0, 70.0))
RGB, RGBD = (InputSpec(channels, NORMALISATION) for channels in (3, 4))
SAMPLES = [Sample("frame", Path("a.png"), None, None, (4, 6), None)]


def draws_of(box: list[float], *, flip: bool = False, gain: float = 1, shift: float = 0) -> Draws:
    light_B2 = np.array([[gain, shift]], np.float32)
    return Draws(np.array([0]), np.array([box]), np.array([flip]), light_B2)


def plain_source(side: int, spec: InputSpec) -> FileSource:
    return FileSource(SAMPLES, (side, side), spec, torch.device("cpu"), workers=1)


def finished(
    draws: Draws, image: float = 50.0, spec: InputSpec = RGBD
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Constant crops of 4 x 4 pixels from a frame of 4 x 6."""
    batch = plain_source(4, spec).finish(
        draws,
        {
            "image": torch.full((1, 3, 4, 4), image),
            "depth": torch.full((1, 4, 4), 2000, dtype=torch.uint16),
            "label": torch.full((1, 4, 4), 5, dtype=torch.uint8),
        },
    )
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    return batch.image_BCHW[0], batch.depth_BHW[0], batch.label_BHW[0]


@pytest.mark.parametrize("flip", [False, True])
def test_outside_the_frame_the_input_is_0_depth_missing_and_the_label_ignored(flip: bool) -> None:
    # The crop starts a row above the frame and ends two columns right of it.
    image, depth, label = finished(draws_of([-1, 4, 4, 4], flip=flip))
    outside = torch.zeros(4, 4, dtype=torch.bool)
    outside[0] = True
    outside[:, :2] |= flip
    outside[:, 2:] |= not flip
    assert torch.equal((image == 0).all(dim=0), outside)
    assert torch.equal((image != 0).all(dim=0), ~outside)
    assert torch.equal(depth, torch.where(outside, 0.0, 2.0))
    assert torch.equal(label == 255, outside)
    assert torch.equal(label == 5, ~outside)


def test_light_is_applied_in_0_to_255_and_clipped_there() -> None:
    for gain, shift, expected in ((1.2, 0.1, 85.5), (0.8, -0.2, 0.0), (1.2, 0.8, 255.0)):
        image, *_ = finished(draws_of([0, 0, 4, 4], gain=gain, shift=shift), 50.0, RGB)
        torch.testing.assert_close(image[0, 0, 0], torch.tensor((expected - 100) / 50))


def test_without_depth_and_labels_all_is_missing_and_ignored() -> None:
    image = torch.zeros(1, 3, 2, 2)
    batch = plain_source(2, RGB).finish(draws_of([0, 0, 2, 2]), {"image": image})
    assert (batch.depth_BHW == 0).all()
    assert (batch.label_BHW == 255).all()
    assert (batch.depth_BHW.dtype, batch.label_BHW.dtype) == (torch.float32, torch.uint8)


def test_four_channels_of_a_frame_without_depth_are_refused() -> None:
    source, image = plain_source(2, RGBD), torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="4 input channels need depth, got none; give depth maps"):
        source.finish(draws_of([0, 0, 2, 2]), {"image": image})


def test_a_derived_channel_is_that_of_the_resident_source_outside_the_frame_too(
    png: list[Sample], source_of: Callable[..., Any]
) -> None:
    # A channel that is not 0 where there is nothing: which pixels have no depth.
    spec = replace(RGBD, derived=(lambda _, depth_BHW: (depth_BHW == 0).float(),))
    draws = draws_of([-10.25, -20.25, 64, 128])
    a, b = (
        next(replace(source_of(kind, png), spec=spec).batches([draws]))
        for kind in ("torch", "resident")
    )
    assert a.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(a.image_BCHW[:, 4], b.image_BCHW[:, 4])
    outside_BHW = (a.image_BCHW[:, :4] == 0).all(dim=1)
    assert outside_BHW.any()
    assert (a.image_BCHW[:, 4][outside_BHW] == 1).all()
