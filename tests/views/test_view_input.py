"""Frames as views: their sizes, and what the network is fed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader, ResidentFrames
from engine.frames.cache import GIB, open_frames
from engine.frames.decode import Sample
from engine.views.predictor import view_input
from engine.views.zoom import view_hw
from kernels.crop_resize import crop_resize

CPU = torch.device("cpu")
IDENTITY = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def reader_of(*, depth: bool) -> FrameReader:
    return FrameReader(CPU, 2, depth, workers=1)


@pytest.mark.parametrize(
    ("base", "scale", "size"),
    [
        ((480, 640), 1.0, (480, 640)),
        ((480, 640), 0.5, (224, 320)),
        ((480, 640), 0.75, (352, 480)),
        ((480, 640), 1.25, (576, 800)),
        ((480, 640), 1.5, (704, 960)),
        ((576, 768), 0.75, (416, 576)),
        ((427, 561), 1.0, (416, 544)),
        ((20, 1000), 1.0, (32, 992)),
        # 0.7 x 320 is 223.99999999999997 in floating point, and 224 to whoever wrote 0.7.
        ((320, 320), 0.7, (224, 224)),
    ],
)
def test_a_view_is_the_scaled_base_rounded_down_to_multiples_of_32(
    base: tuple[int, int], scale: float, size: tuple[int, int]
) -> None:
    assert view_hw(base, scale) == size


def test_the_image_is_resized_bilinearly_and_the_depth_to_the_nearest_pixel(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    hw = (8, 12)
    image = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
    depth_mm = rng.integers(800, 9000, hw, dtype=np.uint16)
    depth_mm[0] = 0
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(depth_mm).save(tmp_path / "depth.png")
    sample = Sample("one", tmp_path / "image.png", tmp_path / "depth.png", None, hw, None)
    (batch,) = reader_of(depth=True).batches([sample])

    view = view_input(batch, (32, 32), InputSpec(4, IDENTITY), crop_resize)
    assert view.shape == (1, 4, 32, 32)
    assert view.is_contiguous(memory_format=torch.channels_last)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (32, 32), mode="bilinear"
    )
    torch.testing.assert_close(view[:, :3], expected)

    # Inverse depth of the pixel that the middle of each view pixel falls into.
    rows, columns = ((2 * np.arange(32) + 1) * side // 64 for side in hw)
    metres = depth_mm[np.ix_(rows, columns)] / 1000.0
    clipped = metres.clip(0.71, 10.0)
    inverse = np.where(metres > 0, (1 / clipped - 0.1) / (1 / 0.71 - 0.1), 0.0)
    np.testing.assert_allclose(view[0, 3].numpy(), inverse, rtol=1e-5, atol=1e-6)


def test_three_channels_need_no_depth_and_are_normalised(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 12, 3), 1, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.full((8, 12), 1000, np.uint16)).save(tmp_path / "depth.png")
    sample = Sample("one", tmp_path / "image.png", tmp_path / "depth.png", None, (8, 12), None)
    spec = InputSpec(3, Normalisation((1.0,) * 3, (0.5,) * 3))
    for depth in (True, False):
        (batch,) = reader_of(depth=depth).batches([sample])
        assert (batch.frames.depth_P is not None) == depth
        view = view_input(batch, (32, 64), spec, crop_resize)
        assert torch.equal(view, torch.zeros(1, 3, 32, 64))


@pytest.mark.parametrize("channels", [3, 4])
def test_held_frames_make_the_views_of_their_files(
    png: list[Sample], tmp_path: Path, channels: int
) -> None:
    # The frames in question are some of those that are held, in another order.
    some = [png[number] for number in (4, 0, 2, 5)]
    reader = reader_of(depth=channels == 4)
    frames = open_frames(png, tmp_path / "cache", 1, GIB)
    holding = replace(reader, resident=ResidentFrames.on(CPU, frames, png))
    for decoded, held in zip(reader.batches(some), holding.batches(some), strict=True):
        spec = InputSpec(channels, IDENTITY)
        views = [view_input(frames, (32, 64), spec, crop_resize) for frames in (decoded, held)]
        assert torch.equal(*views)
