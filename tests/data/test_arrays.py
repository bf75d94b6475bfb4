"""Frames from NumPy arrays: what is taken, what is refused, and that they are a file's frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.data.arrays import array_frame, frame_batch
from engine.data.sources import FrameReader
from engine.frames.decode import Sample, read_depth, read_image
from engine.frames.reading import AS_STORED, Reading

CPU = torch.device("cpu")
IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
DEPTH = np.array([[0, 1, 2], [700, 65535, 65534]], np.uint16)


def units(depth_HW: NDArray[Any], reading: Reading = AS_STORED) -> list[list[int]]:
    found = array_frame(IMAGE, depth_HW, reading, need_depth=True).depth_HW
    assert found is not None
    assert found.dtype == np.uint16
    units: list[list[int]] = found.tolist()
    return units


def test_arrays_make_the_batch_that_files_make(tiny_root: Path) -> None:
    folder = tiny_root / "test"
    samples = [
        Sample(
            stem, folder / f"image/{stem}.png", folder / f"depth/{stem}.png", None, (48, 64), None
        )
        for stem in ("000", "001")
    ]
    (expected,) = FrameReader(CPU, 2, True, 1).batches(samples)
    pairs = [(read_image(sample), read_depth(sample)) for sample in samples]
    found = frame_batch([array_frame(*p, AS_STORED, need_depth=True) for p in pairs], CPU)
    assert (found.first, found.hw, found.index.tolist()) == (0, (48, 64), [0, 1])
    for one, other in zip(found.frames, expected.frames, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


def test_depth_in_units_is_taken_as_it_is_and_what_the_run_calls_missing_is_0() -> None:
    assert units(DEPTH) == DEPTH.tolist()
    invalid = Reading(depth_invalid=(0, 65535))
    assert units(DEPTH, invalid) == [[0, 1, 2], [700, 0, 65534]]


def test_metres_become_the_runs_units_and_what_is_no_distance_is_missing() -> None:
    metres = np.array([[np.nan, 0.0001, np.inf], [1.7004, -1.0, 100.0]], np.float32)
    # 0.1 mm is near, not missing; 100 m is beyond 10 m, all that a network tells apart.
    assert units(metres) == [[0, 1, 0], [1700, 0, 65535]]
    assert units(metres / 10, Reading(depth_scale=0.0002)) == [[0, 1, 0], [850, 0, 50000]]


def test_metres_that_the_runs_unit_cannot_say_are_refused() -> None:
    reading = Reading(depth_scale=0.0001)
    with pytest.raises(ValueError, match=r"depth reaches 7 m; needed: at most 6.55 m.*in metres\?"):
        units(np.full((2, 3), 7.0), reading)


def test_a_network_that_sees_colours_only_is_given_no_depth() -> None:
    assert array_frame(IMAGE, DEPTH, AS_STORED, need_depth=False).depth_HW is None
    batch = frame_batch([array_frame(IMAGE, None, AS_STORED, need_depth=False)], CPU)
    assert batch.frames.depth_P is None


def test_the_array_is_not_changed_and_views_of_any_strides_are_taken() -> None:
    image, read_only = IMAGE[:, ::-1], IMAGE.copy()
    read_only.flags.writeable = False
    for given in (image, read_only):
        before = given.copy()
        batch = frame_batch([array_frame(given, None, AS_STORED, need_depth=False)], CPU)
        assert np.array_equal(batch.frames.image_P3.numpy(), before.reshape(-1, 3))
        assert np.array_equal(given, before)


@pytest.mark.parametrize(
    ("image", "depth", "message"),
    [
        (IMAGE[..., 0], DEPTH, r"image is \(2, 3\) uint8; needed: \(H, W, 3\) uint8 RGB"),
        (IMAGE.transpose(2, 0, 1), DEPTH, r"image is \(3, 2, 3\)|depth is \(2, 3\)"),
        (np.zeros((2, 3, 4), np.uint8), DEPTH, r"image is \(2, 3, 4\) uint8"),
        (IMAGE / 255, DEPTH, r"image is \(2, 3, 3\) float64; needed: .* uint8"),
        (IMAGE[:0], DEPTH, r"image is \(0, 3, 3\) uint8; .* H, W >= 1"),
        (IMAGE, None, "networks see depth, and there is none; give a map of the image's size"),
        (IMAGE, DEPTH[:1], r"depth is \(1, 3\) uint16; needed: \(2, 3\) as the image"),
        (
            IMAGE,
            DEPTH.astype(np.int32),
            r"depth is \(2, 3\) int32; .* uint16 .* or metres as floats",
        ),
    ],
)
def test_what_is_no_frame_is_refused_with_what_is_needed(
    image: NDArray[Any], depth: NDArray[Any] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        array_frame(image, depth, AS_STORED, need_depth=True)
