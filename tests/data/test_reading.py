"""Every source reads labels by their table and depth in its unit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import RuntimeConfig
from engine.data.batch import Batch, Draws
from engine.data.inputs import InputSpec
from engine.data.sources import FrameReader, make_source
from engine.frames.decode import Sample, read_depth
from engine.frames.reading import Reading
from engine.runtime.device import DevicePolicy, choose_operations
from tests.frames_on_disk import CROP_HW, IDENTITY, has_dali

HW = (47, 61)
TABLE = ((0, 255), (1, 3), (2, 0), (7, 1), (255, 255))
BOXES = np.array([[-3.125, 5.125, 32.0, 64.0], [10.125, -9.125, 64.0, 32.0]])

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Sample]:
    """A frame whose values mean something else than they say, and the same frame put right."""
    root, rng = tmp_path_factory.mktemp("reading"), np.random.default_rng(0)
    values = rng.choice([value for value, _ in TABLE], HW).astype(np.uint16)
    lookup = dict(TABLE)
    depth_mm = rng.integers(1, 8000, HW)
    missing = rng.random(HW) < 0.2
    parts = {
        "image": rng.integers(0, 256, (*HW, 3), np.uint8),
        "raw-label": values,
        "label": np.vectorize(lookup.__getitem__)(values).astype(np.uint8),
        # Eighths of a millimetre: exact in binary, so that not a bit may differ.
        "raw-depth": np.where(missing, 65535, 8 * depth_mm).astype(np.uint16),
        "depth": np.where(missing, 0, depth_mm).astype(np.uint16),
    }
    path = {name: root / f"{name}.png" for name in parts}
    for name, pixels in parts.items():
        Image.fromarray(pixels).save(path[name])
    reading = Reading(TABLE, depth_scale=0.000125, depth_invalid=(0, 65535))
    raw = Sample("x", path["image"], path["raw-depth"], path["raw-label"], HW, None, "", reading)
    return raw, Sample("x", path["image"], path["depth"], path["label"], HW, None)


def spec_of(sample: Sample) -> InputSpec:
    return InputSpec(4, IDENTITY, depth_scale=sample.reading.depth_scale)


def batch_of(kind: str, sample: Sample, cache: Path) -> Batch:
    runtime = RuntimeConfig.model_validate({"source": kind, "cache": str(cache), "workers": 1})
    source = make_source([sample], CROP_HW, spec_of(sample), POLICY, runtime)
    light_B2 = np.tile(np.array([1, 0], np.float32), (2, 1))
    draws = Draws(np.array([0, 0]), BOXES, np.array([False, True]), light_B2)
    (batch,) = source.batches([draws])
    return batch


@pytest.mark.parametrize("kind", [pytest.param("dali", marks=has_dali), "resident", "torch"])
def test_a_batch_is_that_of_the_frame_put_right(
    kind: str, samples: tuple[Sample, Sample], tmp_path: Path
) -> None:
    ours, theirs = (batch_of(kind, sample, tmp_path) for sample in samples)
    assert torch.equal(ours.label_BHW, theirs.label_BHW)
    assert torch.equal(ours.depth_BHW, theirs.depth_BHW)
    assert torch.equal(ours.image_BCHW[:, :3], theirs.image_BCHW[:, :3])
    torch.testing.assert_close(ours.image_BCHW, theirs.image_BCHW, rtol=0, atol=1e-6)
    assert 0 < ours.depth_BHW.max() < 8
    assert np.unique(ours.label_BHW.numpy()).tolist() == [0, 1, 3, 255]


def test_another_unit_gives_other_metres_and_the_same_source_otherwise(
    samples: tuple[Sample, Sample], tmp_path: Path
) -> None:
    _, plain = samples
    far = replace(plain, reading=Reading(depth_scale=0.0003))
    for kind in ("resident", "torch"):
        ours, theirs = (batch_of(kind, sample, tmp_path) for sample in (far, plain))
        torch.testing.assert_close(ours.depth_BHW, 0.3 * theirs.depth_BHW)
        known = ours.depth_BHW > 0
        clipped = ours.depth_BHW.clamp(0.71, 10)
        inverse = torch.where(known, (1 / clipped - 0.1) / (1 / 0.71 - 0.1), 0.0)
        torch.testing.assert_close(ours.image_BCHW[:, 3], inverse, rtol=0, atol=1e-6)


def test_whole_frames_are_read_alike(samples: tuple[Sample, Sample]) -> None:
    reader = FrameReader(CPU, 1, depth=True, workers=1)
    (ours,), (theirs,) = (list(reader.batches([sample], label=True)) for sample in samples)
    assert ours.label_BHW is not None
    assert theirs.label_BHW is not None
    assert torch.equal(ours.label_BHW, theirs.label_BHW)
    depth, expected = read_depth(samples[0]), read_depth(samples[1])
    assert depth is not None
    assert expected is not None
    np.testing.assert_array_equal(depth, expected * 8)
