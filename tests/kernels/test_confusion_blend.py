"""Counting many blends in one reading of the probabilities; all three implementations."""

from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.confusion import blend_confusion, reference

IGNORE = 255
CLASSES = 5
NEAR_TIE = 1e-5

Blend = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]


@pytest.fixture
def blend(
    backend: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
    monkeypatch: pytest.MonkeyPatch,
) -> Blend:
    """`blend_confusion`; with Triton a row needs several runs, the candidates several turns."""
    module, device = operation("confusion", backend), device_of(backend)
    if backend != "reference":
        for name, value in (("RUN", 16), ("WALK_RUN", 16), ("AT_ONCE", 2)):
            monkeypatch.setattr(module.launch, name, value)

    def blend(probs: Sequence[Tensor], weight: Tensor, label: Tensor) -> Tensor:
        moved = [prob.to(device) for prob in probs]
        found: Tensor = module.blend_confusion(moved, weight.to(device), label.to(device))
        assert found.dtype == torch.int64
        return found.cpu()

    return blend


def make(
    sizes_hw: Sequence[tuple[int, int]],
    label_hw: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
) -> tuple[list[Tensor], Tensor]:
    """Models that agree on two pixels in three, and labels, a fifth of them none."""
    generator = torch.Generator().manual_seed(label_hw[0])
    common = torch.randn(batch, CLASSES, *label_hw, generator=generator)
    probs = []
    for size_hw in sizes_hw:
        own = torch.randn(batch, CLASSES, *size_hw, generator=generator)
        shared = F.interpolate(common, size=size_hw, mode="bilinear", align_corners=False)
        probs.append((2 * shared + own).softmax(1).to(dtype))
    label = torch.randint(0, CLASSES, (batch, *label_hw), generator=generator).byte()
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    return probs, label


def truth_of(probs: Sequence[Tensor], weight: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Counts in float64, and the labels without the pixels where float32 may take another class."""
    size = tuple(label.shape[1:])
    resized = torch.stack(
        [F.interpolate(p.double(), size=size, mode="bilinear", align_corners=False) for p in probs]
    )
    blends = torch.einsum("km,mbchw->kbchw", weight.double(), resized)
    first, second = blends.topk(2, dim=2).values.unbind(2)
    clear = (first - second > NEAR_TIE).all(0)
    label = torch.where(clear, label, IGNORE)
    counts = [reference.confusion(winner, label, CLASSES) for winner in blends.argmax(2)]
    return torch.stack(counts), label


# Candidates in no order, some twice, the models alone among them; not all of sum 1.
PAIR = [[0.5, 0.5], [1.0, 0.0], [0.1, 0.9], [0.0, 1.0], [0.9, 0.3], [0.5, 0.5], [2.0, 7.0]]
TRIPLE = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.6, 0.6, 0.1], [0.0, 0.5, 0.5]]
SIGNED = [[1.0, -0.5], [-1.0, 0.25], [0.5, 0.5]]
TWICE = [(4, 9), (4, 9)]


@pytest.mark.parametrize(
    ("sizes_hw", "label_hw", "weights"),
    [
        pytest.param(TWICE, (8, 18), PAIR, id="two models"),
        pytest.param(TWICE, (8, 18), PAIR[:1], id="one candidate", marks=pytest.mark.full),
        pytest.param(TWICE, (4, 9), PAIR, id="of the labels' size"),
        pytest.param([(4, 9), (3, 12)], (8, 18), PAIR, id="of different sizes"),
        pytest.param([(20, 2), (20, 2)], (34, 3), PAIR[:3], id="two strips of rows"),
        pytest.param(TWICE, (8, 18), SIGNED, id="signed weights"),
        pytest.param([(4, 9)] * 3, (8, 18), TRIPLE, id="three models"),
        pytest.param(
            [(4, 9)] * 3,
            (8, 18),
            TRIPLE[:2],
            id="fewer candidates than models",
            marks=pytest.mark.full,
        ),
        pytest.param([(4, 9)], (8, 18), [[1.0], [0.3]], id="one model", marks=pytest.mark.full),
        pytest.param([(4, 9)], (8, 18), [[1.0], [-0.3]], id="one model turned over"),
    ],
)
def test_it_counts_the_winners_of_float64(
    blend: Blend,
    sizes_hw: list[tuple[int, int]],
    label_hw: tuple[int, int],
    weights: list[list[float]],
) -> None:
    probs, label = make(sizes_hw, label_hw)
    weight = torch.tensor(weights)
    expected, label = truth_of(probs, weight, label)
    assert expected[0].sum() > 0.6 * label.numel()
    assert torch.equal(blend(probs, weight, label), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_is_so_in_half_precision(blend: Blend, dtype: torch.dtype) -> None:
    probs, label = make(TWICE, (8, 18), dtype)
    expected, label = truth_of(probs, torch.tensor(PAIR), label)
    assert torch.equal(blend(probs, torch.tensor(PAIR), label), expected)


# Numba takes a quarter of a minute for float64; in test_cpu_bounds.py the same runs as Python.
@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("cpu", marks=pytest.mark.full), "triton"]
)
@pytest.mark.parametrize(
    "weights", [PAIR[:3], pytest.param([[1.0, -0.5], [-0.25, 0.5]], marks=pytest.mark.full)]
)
def test_float64_is_not_rounded_to_float32(blend: Blend, weights: list[list[float]]) -> None:
    probs = [torch.full((1, CLASSES, 4, 4), 0.5, dtype=torch.float64) for _ in range(2)]
    for prob in probs:
        prob[:, 3] += 1e-12
    weight = torch.tensor(weights, dtype=torch.float64)
    count = blend(probs, weight, torch.full((1, 8, 8), 3).byte())
    assert count[:, 3, 3].tolist() == [64] * len(weights)


def test_many_candidates_are_counted_as_each_alone(blend: Blend) -> None:
    probs, label = make([(6, 8), (6, 8)], (12, 16))
    share = torch.linspace(0, 1, 21)
    weight = torch.stack([1 - share, share], 1)[torch.randperm(21)]
    expected, label = truth_of(probs, weight, label)
    together = blend(probs, weight, label)
    assert torch.equal(together, expected)
    for k in (0, 20):
        assert torch.equal(blend(probs, weight[k : k + 1], label), together[k : k + 1])


def test_the_images_of_a_batch_add_up(blend: Blend) -> None:
    probs, label = make([(3, 4), (2, 5)], (6, 9), batch=3)
    weight = torch.tensor(PAIR)
    alone = [blend([p[b : b + 1] for p in probs], weight, label[b : b + 1]) for b in range(3)]
    assert torch.equal(blend(probs, weight, label), torch.stack(alone).sum(0))
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("label_hw", [(2, 9), (4, 18)])
def test_of_equal_classes_the_first_wins(blend: Blend, label_hw: tuple[int, int]) -> None:
    # Everything is a sum of few powers of two, so a tie is one for everybody, and there are many:
    # of two classes or more, at a candidate between the models and at the models themselves.
    generator = torch.Generator().manual_seed(2)
    probs = [
        torch.randint(0, 4, (1, CLASSES, 2, 9), generator=generator).float() / 8 for _ in range(2)
    ]
    label = torch.randint(0, CLASSES, (1, *label_hw), generator=generator).byte()
    share = torch.arange(5) / 4
    weight = torch.stack([1 - share, share], 1)
    doubles = [prob.double() for prob in probs]
    expected = reference.blend_confusion(doubles, weight.double(), label)
    assert torch.equal(blend(probs, weight, label), expected)
    assert torch.equal(blend([*probs, probs[0]], F.pad(weight, (0, 1)), label), expected)


def test_where_all_weights_are_0_class_0_wins(blend: Blend) -> None:
    probs, label = make(TWICE, (8, 18))
    count = blend(probs, torch.tensor([[0.0, 0.0], [1.0, 0.0]]), label)
    assert count[0, :, 1:].sum() == 0
    assert count[0].sum() == (label != IGNORE).sum()
    assert torch.equal(count[1:], blend(probs, torch.tensor([[1.0, 0.0]]), label))


def test_models_that_agree_everywhere_count_alike_at_all_weights(blend: Blend) -> None:
    probs, label = make([(4, 9)], (8, 18))
    count = blend(probs * 2, torch.tensor(PAIR), label)
    assert (count == count[0]).all()
    assert torch.equal(count[:1], blend(probs, torch.ones(1, 1), label))


def test_layout_and_label_type_change_no_count(blend: Blend) -> None:
    probs, label = make([(3, 4), (3, 4)], (6, 9), batch=2)
    weight = torch.tensor(PAIR)
    expected = blend(probs, weight, label)
    side_by_side = [prob.contiguous(memory_format=torch.channels_last) for prob in probs]
    assert torch.equal(blend(side_by_side, weight, label), expected)
    assert torch.equal(blend(probs, weight.double(), label), expected)
    assert torch.equal(blend(probs, weight.T.contiguous().T, label.long()), expected)


@pytest.mark.parametrize("classes", [1, 70])
def test_any_number_of_classes_works(blend: Blend, classes: int) -> None:
    # At a pixel the models have its class and the one before, so that a blend has one of the two.
    # Few pixels: with 70 classes Triton's interpreter needs a second for four of them.
    own = torch.arange(0, classes, 23)
    probs = [torch.eye(classes)[winner].T[None, :, None] for winner in (own, own - 1)]
    count = blend(probs, torch.tensor([[0.7, 0.3], [0.3, 0.7]]), own.byte()[None, None])
    for found, winner in zip(count, (own, own - 1), strict=True):
        assert found.sum() == len(own)
        assert (found[own, winner] == 1).all()


def test_no_image_and_no_candidate_are_no_work(blend: Blend) -> None:
    probs, label = make(TWICE, (8, 18))
    weight = torch.tensor(PAIR)
    assert blend([prob[:0] for prob in probs], weight, label[:0]).sum() == 0
    assert blend(probs, weight[:0], label).shape == (0, CLASSES, CLASSES)
    assert blend(probs, weight, torch.full_like(label, IGNORE)).sum() == 0


def test_nothing_is_written_into_the_inputs(blend: Blend) -> None:
    probs, label = make(TWICE, (8, 18))
    weight = torch.tensor(PAIR)
    before = [x.clone() for x in (*probs, weight, label)]
    blend(probs, weight, label)
    assert all(torch.equal(a, b) for a, b in zip((*probs, weight, label), before, strict=True))


def test_arguments_that_do_not_fit_are_refused(blend: Blend) -> None:
    probs, label = make(TWICE, (8, 18))
    weight = torch.tensor(PAIR)
    with pytest.raises(ValueError, match=r"weights must be \(K, M=2\), got \(2, 7\)"):
        blend(probs, weight.T, label)
    with pytest.raises(ValueError, match="models must agree in dtype and classes"):
        blend([probs[0], probs[1].half()], weight, label)
    with pytest.raises(ValueError, match="models must agree in dtype and classes"):
        blend([probs[0], probs[1][:, :4]], weight, label)
    with pytest.raises(ValueError, match="models must agree in dtype and classes"):
        blend([], weight[:, :0], label)
    with pytest.raises(ValueError, match="must be of equally many images"):
        blend(probs, weight, label[:0])


def test_the_number_of_threads_changes_no_count() -> None:
    probs, label = make([(40, 30), (40, 30)], (80, 60))
    for weight in (torch.tensor(PAIR), torch.tensor(SIGNED)):
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(blend_confusion(probs, weight, label))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
