"""Frames from files by OpenCV, augmented by albumentations, in the workers of a DataLoader.

Axes: H W pixels of a frame, h w of a crop, 2 row and column.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# On import it asks the package index for a newer release, and waits where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from benchmarks.plain.recipe import Recipe
from engine.config import Config
from engine.data.inputs import training_hw
from engine.frames.decode import Sample
from engine.model.network import input_normalisation
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M, IGNORE_INDEX

_compose = partial(A.Compose, additional_targets={"depth": "mask"})

Array = NDArray[Any]
Samples = Sequence[Sample]


class CropDataset(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Augmented training crops: image (C, h, w) float32, depth (h, w) metres, label (h, w)."""

    def __init__(self, samples: Samples, config: Config, seed: int) -> None:
        data, normalisation = config.data, input_normalisation(config.model)
        self.samples, self.data, self.rgbd = samples, data, config.model.in_channels == 4
        small = [data.classes.index(name) for name in data.small_classes]
        self.is_small = np.isin(np.arange(256), small)
        self.mean = tuple(round(value) for value in normalisation.mean)
        mean, std = (np.divide(x, 255).tolist() for x in (normalisation.mean, normalisation.std))
        jitter = A.RandomBrightnessContrast(data.brightness, data.contrast, p=data.jitter_p)
        self.light = _compose([A.HorizontalFlip(p=data.flip_p), jitter, A.Normalize(mean, std)])
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start all random draws afresh."""
        self.seed, self.random = seed, np.random.default_rng(seed)
        self.resizes: dict[tuple[int, int], A.Compose] = {}
        self.light.set_random_seed(seed + 1)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sample = self.samples[index]
        parts = {"image": read_image(sample), "mask": read_label(sample)}
        resized = self._resize(sample.hw)(**parts, depth=read_depth(sample))
        parts = self.light(**self._crop(**resized))
        image_hwC = add_depth(parts["image"], parts["depth"]) if self.rgbd else parts["image"]
        return (
            torch.from_numpy(np.ascontiguousarray(image_hwC.transpose(2, 0, 1))),
            torch.from_numpy(parts["depth"].astype(np.float32) / 1000),
            torch.from_numpy(np.ascontiguousarray(parts["mask"])),
        )

    def _resize(self, hw: tuple[int, int]) -> A.Compose:
        """What brings frames of one size to the size of training, times a random scale."""
        if hw not in self.resizes:
            height, width = np.round(training_hw(self.data, np.array([hw]))[0]).astype(int).tolist()
            rescale = A.RandomScale(self.data.scale_limit, p=self.data.scale_p)
            self.resizes[hw] = _compose([A.Resize(height, width), rescale])
            self.resizes[hw].set_random_seed(self.seed)
        return self.resizes[hw]

    def _crop(self, image: Array, mask: Array, depth: Array) -> dict[str, Array]:
        """Crop at random or around a pixel of a small class; pad where the frame is too small."""
        height, width = self.data.crop_hw
        last_2 = np.subtract(mask.shape, (height, width))
        if last_2.min() < 0:
            missing_2 = np.maximum(0, -last_2)
            top, left = (int(self.random.integers(0, gap + 1)) for gap in missing_2)
            border = (top, missing_2[0] - top, left, missing_2[1] - left)
            image = cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=self.mean)
            mask = cv2.copyMakeBorder(mask, *border, cv2.BORDER_CONSTANT, value=IGNORE_INDEX)
            depth = cv2.copyMakeBorder(depth, *border, cv2.BORDER_CONSTANT, value=0)
            last_2 = np.maximum(0, last_2)
        aware = self.random.random() < self.data.class_aware_p
        small_N = np.flatnonzero(self.is_small[mask]) if aware else ()
        if len(small_N):
            middle_2 = np.unravel_index(self.random.choice(small_N), mask.shape)
            top, left = np.clip(np.subtract(middle_2, (height // 2, width // 2)), 0, last_2)
        else:
            top, left = (int(self.random.integers(0, last + 1)) for last in last_2)
        window = np.s_[top : top + height, left : left + width]
        return {"image": image[window], "mask": mask[window], "depth": depth[window]}


def crop_loader(samples: Samples, config: Config, recipe: Recipe, seed: int) -> DataLoader[Any]:
    """Shuffled whole batches of crops; the workers live as long as the loader."""
    return DataLoader(
        CropDataset(samples, config, seed),
        batch_size=min(config.training.batch_size, len(samples)),
        shuffle=True,
        drop_last=True,
        num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0,
        pin_memory=recipe.device != "cpu",
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),
    )


def frame_loader(samples: Samples, config: Config, recipe: Recipe) -> DataLoader[Any]:
    """Whole frames in order, in lists of what `read_frames` gives; alone if their sizes differ."""
    one_size = len({sample.hw for sample in samples}) == 1
    return DataLoader(
        samples,  # type: ignore[arg-type] # any sequence will do; the workers decode
        batch_size=config.inference.batch_size if one_size else 1,
        num_workers=recipe.workers,
        collate_fn=partial(read_frames, depth=config.model.input == "rgbd"),
        worker_init_fn=_start_worker,
    )


def read_frames(samples: Samples, *, depth: bool) -> list[tuple[Array, Array, Array]]:
    """Image (H, W, 3) uint8, depth (H, W) uint16, label (H, W) uint8 of each; or no depth."""
    nothing = np.zeros((0, 0), np.uint16)
    return [(read_image(s), read_depth(s) if depth else nothing, read_label(s)) for s in samples]


def read_image(sample: Sample) -> Array:
    """(H, W, 3) uint8 RGB."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image_HW3: Array = cv2.cvtColor(_read(sample.image, flags), cv2.COLOR_BGR2RGB)
    return image_HW3


def read_depth(sample: Sample) -> Array:
    """(H, W) uint16 millimetres, 0 = missing."""
    if sample.depth is None:
        return np.zeros(sample.hw, np.uint16)
    return _read(sample.depth, cv2.IMREAD_UNCHANGED)


def read_label(sample: Sample) -> Array:
    """(H, W) uint8, 255 = ignore; (0, 0) without a label file."""
    if sample.label is None:
        return np.zeros((0, 0), np.uint8)
    label_HW = _read(sample.label, cv2.IMREAD_UNCHANGED)
    if label_HW.ndim != 2:
        raise RuntimeError(
            f"{sample.label}: OpenCV turns indexed colours into RGB; save labels as greyscale PNG"
        )
    return label_HW


def add_depth(image_hw3: Array, depth_mm_hw: Array) -> Array:
    """The normalised image and inverse depth in 0..1 as a fourth channel, 0 where missing."""
    depth_m_hw = np.clip(depth_mm_hw.astype(np.float32) / 1000, DEPTH_MIN_M, DEPTH_MAX_M)
    near, far = 1 / DEPTH_MIN_M, 1 / DEPTH_MAX_M
    inverse_hw = np.where(depth_mm_hw > 0, (1 / depth_m_hw - far) / (near - far), 0)
    stacked: Array = np.dstack([image_hw3, inverse_hw.astype(np.float32)])
    return stacked


def _read(path: Path, flags: int) -> Array:
    pixels: Array | None = cv2.imread(str(path), flags)
    if pixels is None:
        raise RuntimeError(f"{path}: OpenCV cannot read it")
    return pixels


def _start_worker(_: int) -> None:
    """One thread a worker, and draws of its own."""
    cv2.setNumThreads(0)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, CropDataset):
        info.dataset.reseed(info.seed % 2**31)
