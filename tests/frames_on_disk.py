"""Frames on disk, their draws and their sources, for all tests of `engine.data`'s sources."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import DataConfig, RuntimeConfig
from engine.data.batch import Draws, Source
from engine.data.inputs import InputSpec, Normalisation, draw, epoch_order
from engine.data.sources import make_source
from engine.frames.decode import Sample
from engine.runtime.device import DevicePolicy, choose_operations

Kind = Literal["dali", "resident", "torch"]

has_dali = pytest.mark.skipif(
    not (sys.platform == "linux" and os.uname().machine == "x86_64"),
    reason="DALI exists for Linux x86-64 only",
)

CROP_HW = (32, 64)
"""The shape that sources of `source_of` crop."""

# Images in 0..255 stay in 0..255, so that tests may count in those units.
IDENTITY = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Odd sides, a frame smaller than the crop, one as large, and one much larger.
SIZES = [(47, 61), (20, 30), (32, 64), (120, 161), (33, 200), (75, 50), (64, 128)]


def _write_frames(root: Path, suffix: str) -> list[Sample]:
    """Noisy frames; each third label is indexed colour; depth and label have missing pixels."""
    rng = np.random.default_rng(0)
    samples = []
    for number, hw in enumerate(SIZES):
        image, depth, label = (
            root / f"{number}-{name}" for name in (f"image.{suffix}", "depth.png", "label.png")
        )
        coarse = rng.integers(0, 256, (hw[0] // 6 + 2, hw[1] // 6 + 2, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x112] = 1 + number  # rotations and mirrorings, which nobody may apply
        smooth = Image.fromarray(coarse).resize(hw[::-1], Image.Resampling.BICUBIC)
        smooth.save(image, quality=85, exif=exif)
        millimetres = rng.integers(0, 65536, hw, dtype=np.uint16)
        millimetres[rng.random(hw) < 0.2] = 0
        Image.fromarray(millimetres).save(depth)
        classes = rng.integers(0, 13, hw, dtype=np.uint8)
        if number % 3 == 0:
            indexed = Image.fromarray(classes)
            indexed.putpalette([int(v) for v in rng.integers(0, 256, 768)])
            indexed.save(label)
        else:
            classes[rng.random(hw) < 0.2] = 255
            Image.fromarray(classes).save(label)
        samples.append(Sample(f"{number}", image, depth, label, hw, None))
    return samples


@pytest.fixture(scope="session")
def png(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return _write_frames(tmp_path_factory.mktemp("png"), "png")


@pytest.fixture(scope="session")
def jpg(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return _write_frames(tmp_path_factory.mktemp("jpg"), "jpg")


def _source_of(
    kind: str,
    samples: list[Sample],
    channels: int = 4,
    device: str = "cpu",
    *,
    cache: Path,
    workers: int = 2,
) -> Source:
    spec, on = InputSpec(channels, IDENTITY), torch.device(device)
    policy = DevicePolicy(on, None, compile=False, operations=choose_operations("fused", on))
    fields = {"source": kind, "cache": str(cache), "workers": workers}
    return make_source(samples, CROP_HW, spec, policy, RuntimeConfig.model_validate(fields))


def _epoch(
    samples: list[Sample], number: int = 0, batch: int = 3, start: int = 0
) -> Iterator[Draws]:
    """An epoch's draws from batch `start` on; scales to 1 +- 0.6, so many crops leave the frame."""
    config = DataConfig(input_hw=(32, 64), crop_hw=CROP_HW, scale_limit=0.6, scale_p=0.9)
    order = epoch_order(5, number, np.arange(len(samples)))
    for first in range(start * batch, len(order), batch):
        yield draw(
            config,
            seed=5,
            epoch=number,
            index=order[first : first + batch],
            hw=np.array([sample.hw for sample in samples]),
            small_pixels=[np.array([[0, 0], [19, 29]], np.int32)] * len(samples),
        )


@pytest.fixture(scope="session")
def write_frames() -> Callable[[Path, str], list[Sample]]:
    return _write_frames


@pytest.fixture(scope="session")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Source]:
    return partial(_source_of, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def epoch() -> Callable[..., Iterator[Draws]]:
    return _epoch
