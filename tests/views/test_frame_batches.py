"""Frames as views: sizes, order, grouping and what the network is fed."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.data.normalisation import Normalisation
from engine.data.resident_source import open_resident
from engine.frames.index import Sample
from engine.views.frame_batches import (
    FrameBatch,
    equal_size_groups,
    frame_batches,
    view_hw,
    view_input,
)

CPU = torch.device("cpu")
IDENTITY = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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


def write(folder: Path, number: int, hw: tuple[int, int], *, depth: bool = True) -> Sample:
    """A frame whose every pixel tells its number."""
    paths = [folder / f"{number}-{kind}.png" for kind in ("image", "depth", "label")]
    Image.fromarray(np.full((*hw, 3), number, np.uint8)).save(paths[0])
    Image.fromarray(np.full(hw, 1000 * number, np.uint16)).save(paths[1])
    Image.fromarray(np.full(hw, number, np.uint8)).save(paths[2])
    return Sample(str(number), paths[0], paths[1] if depth else None, paths[2], hw, None)


def values(tensor: Tensor) -> list[float]:
    return sorted(set(tensor.flatten().tolist()))


def pixels(batch: FrameBatch, offset: int) -> tuple[Tensor, Tensor]:
    """Image and depth of one frame of a batch, as they lie in its buffers."""
    sample = batch.index[offset]
    first, count = int(batch.frames.offset_N[sample]), batch.hw[0] * batch.hw[1]
    assert batch.frames.hw_N2[sample].tolist() == list(batch.hw)
    assert batch.frames.depth_P is not None
    own = slice(first, first + count)
    return batch.frames.image_P3[own], batch.frames.depth_P[own]


SMALL, LARGE = (8, 12), (16, 12)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    sizes = [SMALL, SMALL, SMALL, LARGE, LARGE, SMALL]
    return [write(tmp_path, number, hw) for number, hw in enumerate(sizes, start=1)]


def test_frames_come_in_order_in_batches_of_one_size(samples: list[Sample]) -> None:
    batches = list(frame_batches(samples, 2, CPU, depth=True, label=True, workers=2))
    assert [(batch.first, len(batch), batch.hw) for batch in batches] == [
        *((0, 2, SMALL), (2, 1, SMALL), (3, 2, LARGE), (5, 1, SMALL))
    ]
    for batch in batches:
        assert batch.label_BHW is not None
        for offset in range(len(batch)):
            number = batch.first + offset + 1
            assert [values(part) for part in pixels(batch, offset)] == [[number], [1000 * number]]
            assert values(batch.label_BHW[offset]) == [number]


@pytest.mark.parametrize("first", [2, 3, 5])
def test_a_call_that_starts_where_a_batch_ended_makes_the_same_batches(
    samples: list[Sample], first: int
) -> None:
    whole = equal_size_groups(samples, 2)
    assert equal_size_groups(samples, 2, first) == [group for group in whole if group[0] >= first]


def test_no_frames_make_no_batch(samples: list[Sample]) -> None:
    assert list(frame_batches([], 4, CPU, depth=True, label=False, workers=1)) == []
    assert list(frame_batches(samples, 4, CPU, depth=True, label=False, workers=1, start=6)) == []


def test_labels_are_read_only_on_request_and_depth_only_where_all_have_it(tmp_path: Path) -> None:
    samples = [write(tmp_path, 1, SMALL), write(tmp_path, 2, SMALL, depth=False)]
    (batch,) = frame_batches(samples, 2, CPU, depth=True, label=False, workers=1)
    assert batch.label_BHW is None
    assert batch.frames.depth_P is None


@pytest.mark.parametrize("depth", [False, True])
def test_resident_frames_make_the_views_of_their_files(
    samples: list[Sample], tmp_path: Path, depth: bool
) -> None:
    # The frames in question are some of those that are held, in another order.
    resident = open_resident(samples, CPU, tmp_path / "cache", 1)
    some = [samples[number] for number in (4, 0, 2, 5)]
    decoded, held = (
        list(frame_batches(some, 2, CPU, depth=depth, label=True, workers=1, resident=kept))
        for kept in (None, resident)
    )
    for a, b in zip(decoded, held, strict=True):
        assert (a.first, a.hw, len(a)) == (b.first, b.hw, len(b))
        assert a.label_BHW is not None
        assert b.label_BHW is not None
        assert torch.equal(a.label_BHW, b.label_BHW)
        channels = 4 if depth else 3
        assert torch.equal(*(view_input(of, (32, 64), IDENTITY, channels) for of in (a, b)))
    with pytest.raises(KeyError):
        list(
            frame_batches(
                samples[:1],
                1,
                CPU,
                depth=True,
                label=True,
                workers=1,
                resident=open_resident(some[:1], CPU, tmp_path / "cache", 1),
            )
        )


def test_an_iterator_closed_early_leaves_no_thread_behind(samples: list[Sample]) -> None:
    before = threading.active_count()
    batches = frame_batches(samples, 1, CPU, depth=True, label=False, workers=2)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_file_that_cannot_be_read_is_named(samples: list[Sample]) -> None:
    samples[3].image.write_bytes(b"no picture")
    batches = frame_batches(samples, 2, CPU, depth=True, label=False, workers=1)
    with pytest.raises(RuntimeError, match=r"4-image\.png"):
        list(batches)


def test_the_image_is_resized_bilinearly_and_the_depth_to_the_nearest_pixel(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    sample = write(tmp_path, 1, SMALL)
    image = rng.integers(0, 256, (*SMALL, 3), dtype=np.uint8)
    depth_mm = rng.integers(800, 9000, SMALL, dtype=np.uint16)
    depth_mm[0] = 0
    assert sample.depth is not None
    Image.fromarray(image).save(sample.image)
    Image.fromarray(depth_mm).save(sample.depth)
    (batch,) = frame_batches([sample], 1, CPU, depth=True, label=False, workers=1)

    view = view_input(batch, (32, 32), IDENTITY, 4)
    assert view.shape == (1, 4, 32, 32)
    assert view.is_contiguous(memory_format=torch.channels_last)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (32, 32), mode="bilinear"
    )
    torch.testing.assert_close(view[:, :3], expected)

    # Inverse depth of the pixel that the middle of each view pixel falls into.
    rows, columns = ((2 * np.arange(32) + 1) * side // 64 for side in SMALL)
    metres = depth_mm[np.ix_(rows, columns)] / 1000.0
    clipped = metres.clip(0.71, 10.0)
    inverse = np.where(metres > 0, (1 / clipped - 0.1) / (1 / 0.71 - 0.1), 0.0)
    np.testing.assert_allclose(view[0, 3].numpy(), inverse, rtol=1e-5, atol=1e-6)


def test_three_channels_need_no_depth_and_are_normalised(samples: list[Sample]) -> None:
    for depth in (True, False):
        (batch,) = frame_batches(samples[:1], 1, CPU, depth=depth, label=False, workers=1)
        assert (batch.frames.depth_P is not None) == depth
        view = view_input(batch, (32, 64), Normalisation((1.0,) * 3, (0.5,) * 3), 3)
        assert view.shape == (1, 3, 32, 64)
        assert values(view) == [0.0]
