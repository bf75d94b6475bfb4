"""The class of largest probability after resizing, written or counted; all implementations."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.confusion import probability_confusion, resized_argmax

IGNORE = 255
CLASSES = 5  # more than Triton's loop takes at a time

# Size of the probabilities and of the labels: the same; twice as many; in two strips of rows;
# fewer, with sides that do not divide; a row; one pixel to many and many to one.
SIZES = [
    ((9, 13), (9, 13)),
    ((7, 9), (14, 18)),
    ((20, 2), (18, 3)),
    ((9, 11), (4, 10)),
    ((1, 7), (1, 20)),
    ((1, 1), (5, 6)),
    ((6, 5), (1, 1)),
]

# Where the two largest probabilities are closer than this, float32 may take either.
NEAR_TIE = 1e-5


@pytest.fixture
def module(
    backend: str, operation: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """Each implementation; Triton's runs are so short that a row needs several."""
    module = operation("confusion", backend)
    if backend != "reference":
        monkeypatch.setattr(module.launch, "RUN", 8)
    return module


@pytest.fixture
def device(backend: str, device_of: Callable[[str], torch.device]) -> torch.device:
    return device_of(backend)


def make(
    prob_hw: tuple[int, int], label_hw: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Probabilities with the classes of a pixel side by side, and labels, a fifth of them none."""
    generator = torch.Generator().manual_seed(prob_hw[0] * 100 + label_hw[0])
    prob = torch.rand(2, CLASSES, *prob_hw, generator=generator).to(dtype)
    label = torch.randint(0, CLASSES, (2, *label_hw), generator=generator).byte()
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    return prob.contiguous(memory_format=torch.channels_last), label


def truth_of(prob: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Winners in float64, and whether float32 must see them too."""
    resized = F.interpolate(prob.double(), size=size_hw, mode="bilinear", align_corners=False)
    first, second = resized.topk(2, dim=1).values.unbind(1)
    return resized.argmax(1), first - second > NEAR_TIE


def by_loop(prediction: Tensor, label: Tensor) -> list[list[int]]:
    count = [[0] * CLASSES for _ in range(CLASSES)]
    for truth, guess in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != IGNORE:
            count[truth][guess] += 1
    return count


def assert_winners_of_float64(
    module: ModuleType,
    device: torch.device,
    prob_hw: tuple[int, int],
    label_hw: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    prob, label = make(prob_hw, label_hw, dtype)
    winner, clear = truth_of(prob, label_hw)
    found = module.resized_argmax(prob.to(device), label_hw).cpu()
    assert found.dtype == torch.uint8
    assert found.shape == label.shape
    assert torch.equal(found[clear], winner[clear].byte())
    label[~clear] = IGNORE
    count = module.probability_confusion(prob.to(device), label.to(device))
    assert count.dtype == torch.int64
    assert count.tolist() == by_loop(winner, label)
    assert count.sum() > 0


@pytest.mark.parametrize(("prob_hw", "label_hw"), SIZES)
def test_the_winner_is_that_of_float64(
    module: ModuleType, device: torch.device, prob_hw: tuple[int, int], label_hw: tuple[int, int]
) -> None:
    assert_winners_of_float64(module, device, prob_hw, label_hw, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_it_is_so_in_any_precision(
    module: ModuleType, device: torch.device, dtype: torch.dtype
) -> None:
    assert_winners_of_float64(module, device, *SIZES[3], dtype)


def test_float64_is_not_rounded_to_float32(module: ModuleType, device: torch.device) -> None:
    prob = torch.full((1, CLASSES, 4, 4), 0.5, dtype=torch.float64)
    prob[:, 3] += 1e-12
    assert (module.resized_argmax(prob.to(device), (8, 8)) == 3).all()
    label = torch.full((1, 8, 8), 3, dtype=torch.uint8, device=device)
    assert module.probability_confusion(prob.to(device), label)[3, 3] == 64


@pytest.mark.parametrize(("prob_hw", "label_hw"), SIZES[:2])
def test_of_equal_classes_the_first_wins(
    module: ModuleType, device: torch.device, prob_hw: tuple[int, int], label_hw: tuple[int, int]
) -> None:
    # Quarters of eighths are exact in float32, so a tie is one for everybody; with so few values
    # one pixel in ten and more has one.
    generator = torch.Generator().manual_seed(1)
    prob = torch.randint(0, 4, (2, CLASSES, *prob_hw), generator=generator) / 8
    resized = F.interpolate(prob.double(), size=label_hw, mode="bilinear", align_corners=False)
    tied = (resized == resized.amax(1, keepdim=True)).sum(1) > 1
    assert tied.float().mean() > 0.1
    found = module.resized_argmax(prob.to(device), label_hw).cpu()
    assert torch.equal(found, resized.argmax(1).byte())


@pytest.mark.parametrize("value", [-3.0, 0.0, 1e30])
def test_values_need_not_be_probabilities(
    module: ModuleType, device: torch.device, value: float
) -> None:
    prob = torch.full((1, CLASSES, 4, 4), value)
    prob[:, 3] += 1 + abs(value)
    assert (module.resized_argmax(prob.to(device), (6, 6)) == 3).all()


def test_scaling_probabilities_changes_no_count(module: ModuleType, device: torch.device) -> None:
    prob, label = (x.to(device) for x in make((8, 8), (16, 16)))
    # A power of two: exact, so that no near tie can turn.
    expected = module.probability_confusion(prob, label)
    assert torch.equal(module.probability_confusion(8 * prob, label), expected)


def test_layout_and_label_type_change_no_count(module: ModuleType, device: torch.device) -> None:
    prob, label = (x.to(device) for x in make((3, 4), (5, 9)))
    expected = module.probability_confusion(prob, label)
    strided = torch.stack([prob, 1 - prob], -1)[..., 0]
    for other in (prob.contiguous(), prob.transpose(2, 3).contiguous().transpose(2, 3), strided):
        assert torch.equal(module.probability_confusion(other, label), expected)
        assert torch.equal(
            module.resized_argmax(other, (5, 9)), module.resized_argmax(prob, (5, 9))
        )
    assert torch.equal(module.probability_confusion(prob, label.long()), expected)
    one_for_both = prob[:1].expand(2, -1, -1, -1)
    first = label[:1].expand(2, -1, -1)
    count = module.probability_confusion(one_for_both, first)
    assert torch.equal(count, 2 * module.probability_confusion(prob[:1], label[:1]))


@pytest.mark.parametrize("classes", [1, 8, 70])
def test_any_number_of_classes_works(
    module: ModuleType, device: torch.device, classes: int
) -> None:
    prob = torch.rand(1, classes, 4, 5, generator=torch.Generator().manual_seed(classes))
    winner, clear = prob.argmax(1), torch.ones(1, 4, 5, dtype=torch.bool)
    found = module.resized_argmax(prob.to(device), (4, 5)).cpu()
    assert torch.equal(found[clear], winner.byte()[clear])
    count = module.probability_confusion(prob.to(device), winner.to(device)).cpu()
    assert torch.equal(count, torch.bincount(winner.flatten(), minlength=classes).diag())


def test_no_image_and_no_pixel_are_no_work(module: ModuleType, device: torch.device) -> None:
    prob, label = (x.to(device) for x in make((4, 4), (6, 6)))
    assert module.resized_argmax(prob[:0], (6, 6)).shape == (0, 6, 6)
    assert module.resized_argmax(prob, (0, 6)).shape == (2, 0, 6)
    assert module.probability_confusion(prob[:0], label[:0]).sum() == 0
    assert module.probability_confusion(prob, label[:, :, :0]).tolist() == [[0] * CLASSES] * CLASSES
    label.fill_(IGNORE)
    assert module.probability_confusion(prob, label).sum() == 0


def test_nothing_is_written_into_the_inputs(module: ModuleType, device: torch.device) -> None:
    prob, label = (x.to(device) for x in make((7, 9), (14, 18)))
    before = prob.clone(), label.clone()
    module.probability_confusion(prob, label)
    assert torch.equal(prob, before[0])
    assert torch.equal(label, before[1])


def test_arguments_that_do_not_fit_are_refused(module: ModuleType) -> None:
    prob, label = make((4, 4), (6, 6))
    with pytest.raises(ValueError, match=r"\(B, C, h, w\) .* got torch.float32 \(5, 4, 4\)"):
        module.resized_argmax(prob[0], (6, 6))
    with pytest.raises(ValueError, match=r"\(B, C, h, w\) .* got torch.uint8"):
        module.resized_argmax(prob.byte(), (6, 6))
    with pytest.raises(ValueError, match="with a class and a pixel to read"):
        module.resized_argmax(prob[:, :, :0], (6, 6))
    with pytest.raises(ValueError, match=r"a size is \(height, width\), got \(6,\)"):
        module.probability_confusion(prob, label[0])
    with pytest.raises(ValueError, match=r"label \(1, 6, 6\) must be of equally many images"):
        module.probability_confusion(prob, label[:1])
    with pytest.raises(ValueError, match="1 to 255 classes, got 256"):
        module.resized_argmax(torch.zeros(1, 256, 2, 2), (2, 2))


def test_the_number_of_threads_changes_no_count() -> None:
    prob, label = make((40, 30), (80, 60))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append((probability_confusion(prob, label), resized_argmax(prob, (80, 60))))
    for other in found[1:]:
        assert torch.equal(found[0][0], other[0])
        assert torch.equal(found[0][1], other[1])
