"""The `torch` source is held to the mathematics, the others to the `torch` source."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.batch import Batch, Draws, Source
from engine.frames.decode import Sample
from engine.frames.images import decode_image
from tests.frames_on_disk import CROP_HW, Kind, has_dali

FUSED = [pytest.param("dali", marks=has_dali), "resident"]
ALL = [*FUSED, "torch"]

# DALI counts in whole 255ths; the positions of grid_sample are off by 1e-5 of a frame's side.
TOLERANCE = {"dali": 2.0, "resident": 0.02}


def plain(index: list[int], box: list[list[float]], flip: list[bool]) -> Draws:
    light_B2 = np.tile(np.array([1, 0], np.float32), (len(index), 1))
    return Draws(np.array(index), np.array(box), np.array(flip), light_B2)


def assert_same(a: Batch, b: Batch, tolerance: float) -> None:
    np.testing.assert_array_equal(a.index, b.index)
    assert torch.equal(a.label_BHW, b.label_BHW)
    assert torch.equal(a.depth_BHW, b.depth_BHW)
    assert a.image_BCHW.shape == b.image_BCHW.shape
    assert a.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert b.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    difference = (a.image_BCHW - b.image_BCHW)[:, :3].abs().max().item()
    assert difference <= tolerance
    assert torch.allclose(a.image_BCHW[:, 3:], b.image_BCHW[:, 3:], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def odd(png: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Frames of every size whose images are converted, turned upright or of other formats."""
    root, samples = tmp_path_factory.mktemp("odd"), []
    kinds = ["TIFF", "WEBP", "BMP", "PNG", "JPEG", "PNG", "TIFF"]
    modes = ["RGB", "RGB", "RGB", "L", "CMYK", "RGBA", "RGB"]
    for number, (sample, kind, mode) in enumerate(zip(png, kinds, modes, strict=True)):
        assert sample.depth is not None
        with Image.open(sample.image) as opened:
            shown = opened.convert("RGB")
        exif, image = Image.Exif(), root / f"{number}.{kind.lower()}"
        exif[0x112] = (1, 6, 1, 8, 3, 7, 5)[number]
        # As a camera stores what is to be shown.
        turns = {6: 2, 8: 4, 3: 3, 7: 6, 5: 5}
        if turn := turns.get(exif[0x112]):
            shown = shown.transpose(Image.Transpose(turn))
        with_exif = {} if kind == "BMP" else {"exif": exif}
        shown.convert(mode).save(image, kind, **with_exif)
        origin = decode_image(image.read_bytes(), turn=True)[1]
        assert not origin.is_plain
        depth = root / f"{number}.depth.tif"
        with Image.open(sample.depth) as opened:
            opened.save(depth)
        samples.append(replace(sample, image=image, depth=depth, origin=origin))
    return samples


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("images", ["png", "jpg", "odd"])
def test_the_batches_are_those_of_the_reference(
    kind: Kind,
    images: str,
    request: pytest.FixtureRequest,
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    samples = request.getfixturevalue(images)
    outside, flips, sizes = 0, 0, set()
    for number in range(6):
        ours = source_of(kind, samples).batches(epoch(samples, number))
        reference = source_of("torch", samples).batches(epoch(samples, number))
        for rows, a, b in zip(epoch(samples, number), ours, reference, strict=True):
            assert_same(a, b, TOLERANCE[kind])
            outside += int((b.image_BCHW == 0).all(dim=1).any())
            flips += int(rows.flip.sum())
            sizes.add(len(rows.index))
    # The draws above did reach the cases that matter.
    assert outside > 5
    assert flips > 5
    assert sizes == {1, 3}


@pytest.mark.parametrize("kind", FUSED)
def test_crops_stay_within_the_frame_at_each_of_its_corners(
    kind: Kind, png: list[Sample], source_of: Callable[..., Source]
) -> None:
    # DALI's own nearest-neighbour resampling reads past the frame for regions like these.
    u = 1 / 4096
    box = [
        [-20 + u, -30 + u, 32, 64],
        [-20 + u, 131 + u, 64, 128],
        [88 + u, -30 + u, 64, 64],
        [88 + u, 131 + u, 32, 64],
        [-16 + u, -30 + u, 160, 256],
        [119 + u, 160 + u, 16, 32],
    ]
    for flip in (False, True):
        rows = plain([3] * len(box), box, [flip] * len(box))
        (a,) = source_of(kind, png).batches([rows])
        (b,) = source_of("torch", png).batches([rows])
        assert_same(a, b, TOLERANCE[kind])
        assert ((b.image_BCHW == 0).all(dim=1).sum(dim=(1, 2)) > 0).all()


@has_dali
def test_a_box_off_the_frame_is_refused_by_dali(
    png: list[Sample], source_of: Callable[..., Source]
) -> None:
    rows = plain([1], [[40.0, 0.0, 32.0, 64.0]], [False])
    with pytest.raises(ValueError, match="does not touch sample 1"):
        next(source_of("dali", png).batches([rows]))


@pytest.mark.parametrize("kind", FUSED)
def test_the_batches_are_those_of_the_reference_on_real_frames(
    kind: Kind,
    nyuv2_root: Path,
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    folder = nyuv2_root / "train"
    images = sorted((folder / "image").iterdir())[:400:40]
    samples = [
        Sample(
            image.stem,
            image,
            folder / "depth" / f"{image.stem}.png",
            folder / "label" / f"{image.stem}.png",
            (480, 640),
            None,
        )
        for image in images
    ]
    ours, reference = (source_of(each, samples).batches(epoch(samples)) for each in (kind, "torch"))
    for a, b in zip(ours, reference, strict=True):
        assert_same(a, b, TOLERANCE[kind])
        assert (b.label_BHW != 255).any()
        assert (b.depth_BHW > 0).any()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ALL)
def test_on_a_gpu_the_batches_are_those_of_the_cpu(
    kind: Kind,
    jpg: list[Sample],
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    on_gpu = source_of(kind, jpg, device="cuda").batches(epoch(jpg))
    on_cpu = source_of("torch", jpg).batches(epoch(jpg))
    for a, b in zip(on_gpu, on_cpu, strict=True):
        assert a.image_BCHW.is_cuda
        assert torch.equal(a.label_BHW.cpu(), b.label_BHW)
        assert torch.equal(a.depth_BHW.cpu(), b.depth_BHW)
        # The GPU's JPEG decoder rounds in its own way.
        assert (a.image_BCHW.cpu() - b.image_BCHW)[:, :3].abs().max() <= 2.0
        assert (a.image_BCHW.cpu() - b.image_BCHW)[:, 3:].abs().max() <= 1e-6


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_shows_what_its_box_says(
    kind: Kind, flip: bool, tmp_path: Path, source_of: Callable[..., Source]
) -> None:
    # On a ramp, bilinear sampling at x gives the ramp's value at x: geometry in closed form.
    height, width = 80, 120
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    classes = ((7 * y + x) % 250).astype(np.uint8)
    for name, pixels in (
        ("image", ramp),
        ("depth", (1000 * y + x).astype(np.uint16)),
        ("label", classes),
    ):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    image, depth, label = (tmp_path / f"{name}.png" for name in ("image", "depth", "label"))
    samples = [Sample("ramp", image, depth, label, (height, width), None)]
    top, left, step = 10 + 1 / 4096, 20 + 3 / 4096, 1.375
    box = [top, left, CROP_HW[0] * step, CROP_HW[1] * step]
    (batch,) = source_of(kind, samples).batches([plain([0], [box], [flip])])
    rows = top + (np.arange(CROP_HW[0]) + 0.5) * step
    columns = left + (np.arange(CROP_HW[1]) + 0.5) * step
    if flip:
        columns = columns[::-1]
    yy, xx = np.meshgrid(rows, columns, indexing="ij")
    expected = np.stack([2 * (xx - 0.5), 3 * (yy - 0.5), xx + yy - 1])
    np.testing.assert_allclose(batch.image_BCHW[0, :3].numpy(), expected, atol=0.01)
    row, column = np.floor(yy).astype(int), np.floor(xx).astype(int)
    np.testing.assert_array_equal(batch.label_BHW[0].numpy(), classes[row, column])
    np.testing.assert_array_equal(
        batch.depth_BHW[0].numpy(), (1000 * row + column).astype(np.float32) / 1000
    )


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_depends_on_its_draws_only(
    kind: Kind,
    jpg: list[Sample],
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    # Resuming in mid-epoch: the same bytes as if the epoch had been run from its start.
    whole = list(source_of(kind, jpg).batches(epoch(jpg)))
    resumed = list(source_of(kind, jpg).batches(epoch(jpg, start=1)))
    assert len(whole) == 3
    for a, b in zip(whole[1:], resumed, strict=True):
        assert torch.equal(a.image_BCHW, b.image_BCHW)
        assert_same(a, b, tolerance=0)


@pytest.mark.parametrize("kind", ALL)
def test_rgb_frames_without_depth_or_labels_give_batches(
    kind: Kind,
    png: list[Sample],
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    bare = [replace(sample, depth=None, label=None) for sample in png]
    with_all = source_of(kind, png).batches(epoch(png))
    for a, b in zip(source_of(kind, bare, 3).batches(epoch(bare)), with_all, strict=True):
        assert torch.equal(a.image_BCHW, b.image_BCHW[:, :3])
        assert (a.depth_BHW == 0).all()
        assert (a.label_BHW == 255).all()
