"""Counting pairs against a loop; all three implementations."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import confusion as package
from kernels.confusion import launch

IGNORE = 255
Count = Callable[..., Tensor]


@pytest.fixture
def module(backend: str, operation: Callable[[str, str], ModuleType]) -> ModuleType:
    return operation("confusion", backend)


@pytest.fixture
def count(
    backend: str, module: ModuleType, device_of: Callable[[str], torch.device]
) -> Callable[..., Tensor]:
    """`confusion`; the counts on the CPU."""

    def count(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
        device = device_of(backend)
        found: Tensor = module.confusion(prediction.to(device), label.to(device), classes)
        assert found.dtype == torch.int64
        return found.cpu()

    return count


def by_loop(prediction: Tensor, label: Tensor, classes: int) -> list[list[int]]:
    count = [[0] * classes for _ in range(classes)]
    for truth, guess in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != IGNORE:
            count[truth][guess] += 1
    return count


def make(pixels: int, classes: int, ignored: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random predictions and labels, int64."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, (pixels,), generator=generator)
    label = torch.randint(0, classes, (pixels,), generator=generator)
    label[torch.rand(pixels, generator=generator) < ignored] = IGNORE
    return prediction, label


# The implementation is the same in every example.
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(1, 20),
    pixels=st.integers(0, 200),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    dtypes=st.sampled_from(
        [(torch.uint8, torch.uint8), (torch.int64, torch.int64), (torch.int32, torch.uint8)]
    ),
)
def test_it_counts_what_a_loop_counts(
    count: Count,
    seed: int,
    classes: int,
    pixels: int,
    ignored: float,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    prediction, label = make(pixels, classes, ignored, seed)
    found = count(prediction.to(dtypes[0]), label.to(dtypes[1]), classes)
    assert found.tolist() == by_loop(prediction, label, classes)


# A tile of Triton holds 16384 pixels, a block of the CPU 4096, four of which it counts at a time.
@pytest.mark.parametrize("pixels", [4095, 4097, 16_384, 16_385, 33_001])
# 16 classes are the last that the CPU counts in words, 63 the last that have a table in Triton, 254
# the most that leave a number between the last class and the ignored, 255 the most.
@pytest.mark.parametrize("classes", [13, 16, 17, 63, 64, 254, 255])
def test_blocks_and_tables_of_any_size_count_alike(count: Count, pixels: int, classes: int) -> None:
    prediction, label = make(pixels, classes, 0.2)
    valid = label != IGNORE
    pair = (label[valid] * classes + prediction[valid]).numpy()
    expected = np.bincount(pair, minlength=classes * classes).reshape(classes, classes)
    assert count(prediction.byte(), label.byte(), classes).tolist() == expected.tolist()


def test_long_runs_of_one_pair_are_counted(count: Count) -> None:
    label = torch.full((100, 100), 3, dtype=torch.uint8)
    assert count(label, label, 4)[3, 3] == 10_000


def test_rows_are_the_truth_and_columns_the_prediction(count: Count) -> None:
    found = count(torch.tensor([[2, 2]]), torch.tensor([[0, IGNORE]]), 3)
    assert found.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("truth", [0, 12])
@pytest.mark.parametrize("guess", [0, 12])
def test_the_first_and_the_last_class_are_classes_like_others(
    count: Count, truth: int, guess: int
) -> None:
    found = count(torch.full((7,), guess), torch.full((7,), truth), 13)
    assert found[truth, guess] == found.sum() == 7


@pytest.mark.parametrize("times", [1, 70])  # 70: whole words of 64 pixels, too
@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8])
def test_what_is_no_class_does_not_count(count: Count, dtype: torch.dtype, times: int) -> None:
    # 17 and 34 have the lowest bits of a class.
    odd = [4, 17, 34, 254, 255]
    odd = odd if dtype == torch.uint8 else [*odd, 256, 259, 1027, -1, -256, -253]
    label = torch.tensor([3, *odd, 2, 2], dtype=dtype)
    prediction = torch.tensor([1, *[0] * len(odd), *odd[:1], 0], dtype=dtype)
    expected = [[0] * 4, [0] * 4, [times, 0, 0, 0], [0, times, 0, 0]]
    prediction, label = prediction.repeat(times), label.repeat(times)
    assert count(prediction, label, 4).tolist() == expected
    assert count(label, prediction, 4).T.tolist() == expected


def test_all_ignored_and_no_pixels_count_0(count: Count) -> None:
    ignored = torch.full((3, 4), IGNORE, dtype=torch.uint8)
    assert count(torch.zeros_like(ignored), ignored, 5).tolist() == [[0] * 5] * 5
    assert count(torch.zeros(0, 4), torch.zeros(0, 4), 2).tolist() == [[0, 0]] * 2


def test_counts_add_up_over_batches(count: Count) -> None:
    prediction, label = (x.reshape(4, 50) for x in make(200, 5, 0.1))
    parts = [count(prediction[i], label[i], 5) for i in range(4)]
    assert torch.equal(torch.stack(parts).sum(0), count(prediction, label, 5))


def test_memory_need_not_be_in_order(count: Count) -> None:
    prediction, label = (x.byte().reshape(40, 50) for x in make(2000, 6, 0.2))
    expected = count(prediction, label, 6)
    assert torch.equal(count(prediction.T, label.T, 6), expected)
    assert torch.equal(count(prediction.flip(0), label.flip(0), 6), expected)
    assert torch.equal(
        count(prediction[:, ::2], label[:, ::2], 6) + count(prediction[:, 1::2], label[:, 1::2], 6),
        expected,
    )


def test_nothing_is_written_into_the_inputs(count: Count) -> None:
    prediction, label = (x.byte() for x in make(500, 6, 0.2))
    before = prediction.clone(), label.clone()
    count(prediction, label, 6)
    assert torch.equal(prediction, before[0])
    assert torch.equal(label, before[1])


def test_shapes_that_differ_and_numbers_of_classes_are_refused(module: ModuleType) -> None:
    zeros = torch.zeros(3, 2).long()
    with pytest.raises(ValueError, match=r"prediction \(2, 3\) and label \(3, 2\) must agree"):
        module.confusion(zeros.reshape(2, 3), zeros, 4)
    for classes in (0, 256):
        with pytest.raises(ValueError, match=f"1 to 255 classes, got {classes}"):
            module.confusion(zeros, zeros, classes)


def test_the_number_of_threads_changes_no_count() -> None:
    prediction, label = (x.byte() for x in make(100_000, 13, 0.1))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(package.confusion(prediction, label, 13))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_table_has_a_side_for_every_class_and_for_what_is_none() -> None:
    for classes in range(1, 256):
        side = launch.count_constants(classes)["SIDE"]
        assert side == 0 or classes < side <= launch.LARGEST_SIDE
    assert launch.count_constants(63)["SIDE"] == launch.LARGEST_SIDE
    assert launch.count_constants(64)["SIDE"] == 0
