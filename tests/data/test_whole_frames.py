"""Whole frames: order, grouping, and that held frames are those of the files."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.data.sources import (
    FrameReader,
    ResidentFrames,
    equal_size_groups,
)
from engine.frames.cache import GIB, open_frames
from engine.frames.decode import Sample

CPU = torch.device("cpu")
SMALL, LARGE = (8, 12), (16, 12)


def write(folder: Path, number: int, hw: tuple[int, int], *, depth: bool = True) -> Sample:
    """A frame whose every pixel tells its number."""
    paths = [folder / f"{number}-{kind}.png" for kind in ("image", "depth", "label")]
    Image.fromarray(np.full((*hw, 3), number, np.uint8)).save(paths[0])
    Image.fromarray(np.full(hw, 1000 * number, np.uint16)).save(paths[1])
    Image.fromarray(np.full(hw, number, np.uint8)).save(paths[2])
    return Sample(str(number), paths[0], paths[1] if depth else None, paths[2], hw, None)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    sizes = [SMALL, SMALL, SMALL, LARGE, LARGE, SMALL]
    return [write(tmp_path, number, hw) for number, hw in enumerate(sizes, start=1)]


def reader_of(
    batch_size: int,
    *,
    depth: bool = True,
    workers: int = 1,
    resident: ResidentFrames | None = None,
) -> FrameReader:
    return FrameReader(CPU, batch_size, depth, workers, resident)


def held_frames(samples: list[Sample], folder: Path) -> ResidentFrames:
    return ResidentFrames.on(CPU, open_frames(samples, folder / "cache", 1, GIB), samples)


def values(tensor: Tensor) -> list[float]:
    return sorted(set(tensor.flatten().tolist()))


def pixels(batch: FrameBatch, offset: int) -> list[Tensor]:
    """Image and, if it was taken, depth of one frame of a batch, as they lie in its buffers."""
    sample = batch.index[offset]
    first, count = int(batch.frames.offset_N[sample]), batch.hw[0] * batch.hw[1]
    assert batch.frames.hw_N2[sample].tolist() == list(batch.hw)
    buffers = (batch.frames.image_P3, batch.frames.depth_P)
    return [buffer[first : first + count] for buffer in buffers if buffer is not None]


def test_frames_come_in_order_in_batches_of_one_size(samples: list[Sample]) -> None:
    batches = list(reader_of(2, workers=2).batches(samples, label=True))
    assert [(batch.first, len(batch.index), batch.hw) for batch in batches] == [
        *((0, 2, SMALL), (2, 1, SMALL), (3, 2, LARGE), (5, 1, SMALL))
    ]
    for batch in batches:
        assert batch.label_BHW is not None
        for offset in range(len(batch.index)):
            number = batch.first + offset + 1
            assert [values(part) for part in pixels(batch, offset)] == [[number], [1000 * number]]
            assert values(batch.label_BHW[offset]) == [number]


@pytest.mark.parametrize("first", [2, 3, 5])
def test_a_call_that_starts_where_a_batch_ended_makes_the_same_batches(
    samples: list[Sample], first: int
) -> None:
    whole = equal_size_groups(samples, 2)
    rest = [group for group in whole if group[0] >= first]
    assert equal_size_groups(samples, 2, first) == rest
    batches = reader_of(2).batches(samples, first)
    assert [(batch.first, batch.first + len(batch.index)) for batch in batches] == rest


@pytest.mark.parametrize("held", [False, True])
def test_no_frames_make_no_batch(samples: list[Sample], tmp_path: Path, held: bool) -> None:
    resident = held_frames(samples, tmp_path) if held else None
    assert list(reader_of(4, resident=resident).batches([])) == []
    assert list(reader_of(4, resident=resident).batches(samples, 6)) == []


def test_labels_are_read_only_on_request_and_depth_only_where_all_have_it(tmp_path: Path) -> None:
    samples = [write(tmp_path, 1, SMALL), write(tmp_path, 2, SMALL, depth=False)]
    (batch,) = reader_of(2).batches(samples)
    assert batch.label_BHW is None
    assert batch.frames.depth_P is None


@pytest.mark.parametrize("depth", [False, True])
def test_held_frames_are_those_of_their_files(
    samples: list[Sample], tmp_path: Path, depth: bool
) -> None:
    # The frames in question are some of those that are held, in another order.
    resident = held_frames(samples, tmp_path)
    some = [samples[number] for number in (4, 0, 2, 5)]
    decoded, held = (
        list(reader_of(2, depth=depth, resident=kept).batches(some, label=True))
        for kept in (None, resident)
    )
    for a, b in zip(decoded, held, strict=True):
        assert (a.first, a.hw, len(a.index)) == (b.first, b.hw, len(b.index))
        assert a.label_BHW is not None
        assert b.label_BHW is not None
        assert torch.equal(a.label_BHW, b.label_BHW)
        for offset in range(len(a.index)):
            ours, theirs = pixels(a, offset), pixels(b, offset)
            assert len(ours) == len(theirs) == 1 + depth
            assert all(map(torch.equal, ours, theirs))
    without = reader_of(2, depth=depth, resident=resident).batches(some)
    assert all(batch.label_BHW is None for batch in without)


def test_a_frame_that_is_not_held_is_an_error(samples: list[Sample], tmp_path: Path) -> None:
    resident = held_frames(samples[1:], tmp_path)
    with pytest.raises(KeyError):
        list(reader_of(1, resident=resident).batches(samples[:1], label=True))


def test_an_iterator_closed_early_leaves_no_thread_behind(samples: list[Sample]) -> None:
    before = threading.active_count()
    batches = reader_of(1, workers=2).batches(samples)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_file_that_cannot_be_read_is_named(samples: list[Sample]) -> None:
    samples[3].image.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"4-image\.png"):
        list(reader_of(2).batches(samples))
