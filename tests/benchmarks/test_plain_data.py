"""The rival's crops: the engine's normalisation, sizes and fill, other random draws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.subset import Subset, with_section
from engine.config import RuntimeConfig
from engine.data.inputs import InputSpec, whole_frame_draws
from engine.data.sources import make_source
from engine.model.network import input_normalisation
from engine.runtime.device import set_up_device

pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks.plain.data import CropDataset, read_frames, read_label

pytestmark = pytest.mark.bench

_HW = (48, 64)
# Every frame as it is: nothing is scaled, moved, mirrored or lit.
_STILL: dict[str, Any] = {"scale_p": 0, "class_aware_p": 0, "flip_p": 0, "jitter_p": 0}


@pytest.mark.parametrize("kind", ["rgb", "rgbd"])
def test_a_crop_without_augmentation_is_what_the_engine_makes(
    tiny_subset: Subset, kind: str
) -> None:
    square = {"input_hw": (64, 64), "crop_hw": (64, 64), "fit": "stretch"}
    config = with_section(tiny_subset.config, "data", **_STILL, **square)
    config = with_section(config, "model", input=kind)
    samples = tiny_subset.dataset.train.samples[:1]
    # The engine makes it by one resampling; without a change of width, OpenCV's rows are equal.
    runtime = RuntimeConfig(source="torch", workers=1, device="cpu")
    spec = InputSpec(config.model.in_channels, input_normalisation(config.model))
    source = make_source(samples, (64, 64), spec, set_up_device(runtime), runtime)
    (batch,) = source.batches([whole_frame_draws(np.array([0]), np.array([samples[0].hw]))])
    image, depth_m, label = CropDataset(samples, config, seed=0)[0]
    std = torch.tensor(input_normalisation(config.model).std)[:, None, None]
    gap = (image[:3] - batch.image_BCHW[0, :3]).abs() * std
    # OpenCV rounds to bytes.
    assert float(gap.max()) < 0.6
    # A row between two of the frame: either is the nearest.
    assert float((label == batch.label_BHW[0]).float().mean()) > 0.6
    torch.testing.assert_close(label[0], batch.label_BHW[0, 0])
    torch.testing.assert_close(depth_m[0], batch.depth_BHW[0, 0])
    if kind == "rgbd":
        torch.testing.assert_close(image[3, 0], batch.image_BCHW[0, 3, 0])


def test_a_frame_smaller_than_the_crop_is_filled_with_what_counts_for_nothing(
    tiny_subset: Subset,
) -> None:
    config = with_section(
        tiny_subset.config, "data", **{**_STILL, "scale_p": 1.0, "scale_limit": 0.9}
    )
    config = with_section(config, "data", crop_hw=(32, 64))
    samples = tiny_subset.dataset.train.samples
    filled = 0
    for seed in range(4):
        for image, depth_m, label in (CropDataset(samples, config, seed)[i] for i in range(4)):
            assert image.shape == (3, 32, 64)
            assert depth_m.shape == label.shape == (32, 64)
            outside = (label == 255).all(dim=0)
            filled += int(outside.sum())
            assert (depth_m[:, outside] == 0).all()
            assert image[:, :, outside].abs().max() < 0.02 if outside.any() else True
    assert filled


def test_frames_meet_the_input_as_the_engines_do(tiny_subset: Subset, tmp_path: Path) -> None:
    Image.new("RGB", (96, 128)).save(tmp_path / "upright.png")
    Image.new("L", (96, 128)).save(tmp_path / "label.png")
    sample = replace(
        tiny_subset.dataset.train.samples[0],
        image=tmp_path / "upright.png",
        depth=None,
        label=tmp_path / "label.png",
        hw=(128, 96),
    )
    for fit, columns in (("keep", 96), ("stretch", 128)):
        input_hw = {"input_hw": (96, 128), "crop_hw": (96, 128), "fit": fit}
        config = with_section(tiny_subset.config, "data", **_STILL, **input_hw)
        _, _, label = CropDataset([sample], config, seed=0)[0]
        assert int((label != 255).any(dim=0).sum()) == columns


def test_class_aware_crops_hold_a_pixel_of_a_small_class(tiny_subset: Subset) -> None:
    config = with_section(
        tiny_subset.config, "data", **{**_STILL, "class_aware_p": 1.0}, crop_hw=(32, 32)
    )
    small = [config.data.classes.index(name) for name in config.data.small_classes]
    for sample in tiny_subset.dataset.train.samples:
        if not np.isin(read_label(sample), small).any():
            continue
        _, _, label = CropDataset([sample], config, seed=1)[0]
        assert np.isin(label.numpy(), small).any(), sample.stem


def test_a_seed_gives_the_same_crops_again(tiny_subset: Subset) -> None:
    samples, config = tiny_subset.dataset.train.samples, tiny_subset.config
    first, again, other = (CropDataset(samples, config, seed) for seed in (7, 7, 8))
    crops = [[data[i][0] for i in range(6)] for data in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(crops[0], crops[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(crops[0], crops[2], strict=True))


def test_whole_frames_are_the_files(tiny_subset: Subset) -> None:
    sample = tiny_subset.dataset.train.samples[3]
    assert sample.depth is not None
    assert sample.label is not None
    (parts,) = read_frames([sample], depth=True)
    for part, file in zip(parts, (sample.image, sample.depth, sample.label), strict=True):
        with Image.open(file) as image:
            np.testing.assert_array_equal(part, np.array(image))


def test_a_label_with_a_palette_is_refused(tiny_subset: Subset, tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8))
    palette.putpalette(list(range(39)))
    palette.save(tmp_path / "label.png")
    sample = replace(tiny_subset.dataset.train.samples[0], label=tmp_path / "label.png")
    with pytest.raises(RuntimeError, match="indexed colours"):
        read_label(sample)
