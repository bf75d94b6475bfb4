"""Pictures that are drawn: independent ones of several kinds, and videos, with names of any order.

Clips are lists of images (H, W, 3) uint8; a set of several clips is one list after the other.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = list[NDArray[np.uint8]]
HW = (96, 128)
_COLOURS = np.random.default_rng(99).integers(30, 225, (256, 3))


def clouds(rng: np.random.Generator, hw: tuple[int, int] = HW) -> NDArray[np.uint8]:
    """Structure at every scale, as photographs have it: amplitude falls with frequency."""
    y, x = np.fft.fftfreq(hw[0])[:, None], np.fft.rfftfreq(hw[1])[None]
    amplitude = 1 / np.maximum(np.hypot(y, x), 1 / max(hw)) ** 1.2
    waves = rng.normal(size=(4, *amplitude.shape)) + 1j * rng.normal(size=(4, *amplitude.shape))
    parts = np.fft.irfft2(amplitude * waves, hw, axes=(1, 2))
    parts /= parts.std(axis=(1, 2), keepdims=True)
    image = rng.uniform(80, 170, 3) + 40 * (
        parts[0, :, :, None] + 0.5 * np.moveaxis(parts[1:], 0, 2)
    )
    return _grained(image, rng, 3)


def rectangles(
    rng: np.random.Generator, hw: tuple[int, int] = HW, colours: int = 4
) -> NDArray[np.uint8]:
    """One rectangle over another, in few colours."""
    label = np.full(hw, rng.integers(colours))
    for _ in range(10 * hw[0] * hw[1] // (HW[0] * HW[1])):
        colour, y, x = rng.integers(colours), rng.integers(hw[0] - 8), rng.integers(hw[1] - 8)
        label[y : y + rng.integers(8, 48), x : x + rng.integers(8, 64)] = colour
    return _grained(_COLOURS[label], rng, 10)


def landscape(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Two flat colours and up to five discs: there is hardly anything to tell them apart by."""
    y, x = np.mgrid[: HW[0], : HW[1]] / HW[0]
    above = (y < rng.uniform(0.2, 0.8))[..., None]
    image = np.where(above, rng.uniform(30, 240, 3), rng.uniform(10, 160, 3))
    for _ in range(rng.integers(6)):
        there, radius = rng.uniform(0, (1, 1.3)), rng.uniform(0.03, 0.3)
        image[(y - there[0]) ** 2 + (x - there[1]) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return _grained(image, rng, 4)


def independent(draw: Callable[[np.random.Generator], NDArray[np.uint8]], count: int) -> Images:
    """`count` pictures that have nothing to do with each other."""
    return [draw(np.random.default_rng((count, frame))) for frame in range(count)]


def panning(rng: np.random.Generator, frames: int, step: int) -> Images:
    """A camera that turns over clouds by `step` pixels a frame, with a trembling hand."""
    wide = clouds(rng, (HW[0] + 16, HW[1] + step * frames + 16))
    clip = []
    for frame in range(frames):
        y, x = rng.integers(0, 4), frame * step + rng.integers(0, 4)
        clip.append(_grained(wide[y : y + HW[0], x : x + HW[1]] * rng.uniform(0.95, 1.05), rng, 5))
    return clip


def walking(rng: np.random.Generator, frames: int) -> Images:
    """A camera that is carried about before rectangles, in light that changes."""
    wide, at, speed = rectangles(rng, (240, 320), 20), np.array([70.0, 90.0]), np.zeros(2)
    clip = []
    for _ in range(frames):
        speed = 0.7 * speed + rng.normal(0, (3, 6))
        at = np.clip(at + speed, 0, (240 - HW[0], 320 - HW[1]))
        y, x = at.astype(int)
        clip.append(_grained(wide[y : y + HW[0], x : x + HW[1]] * rng.uniform(0.8, 1.2), rng, 5))
    return clip


def standing(rng: np.random.Generator, frames: int) -> Images:
    """A camera that stands still, before which a small thing moves."""
    scene, clip = clouds(rng).astype(np.float64), []
    for _ in range(frames):
        image, y, x = scene.copy(), rng.integers(HW[0] - 12), rng.integers(HW[1] - 16)
        image[y : y + 12, x : x + 16] = rng.uniform(0, 255, 3)
        clip.append(_grained(image, rng, 5))
    return clip


def random_names(count: int) -> list[str]:
    """Names without an order, all different."""
    numbers = np.random.default_rng(count).integers(16**12, size=count)
    return [f"{number:012x}-{frame % 7}x" for frame, number in enumerate(numbers)]


def _grained(image: NDArray[np.number], rng: np.random.Generator, noise: int) -> NDArray[np.uint8]:
    grained: NDArray[np.uint8] = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(
        np.uint8
    )
    return grained
