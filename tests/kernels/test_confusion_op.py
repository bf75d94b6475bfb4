"""Counting as operations of PyTorch: registration, compilation, repeatable bytes, memory."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.confusion import cpu, cpu_blend

CLASSES, LABEL_HW = 3, (6, 10)


@pytest.fixture
def op(fused: str, operation: Callable[[str, str], ModuleType]) -> ModuleType:
    return operation("confusion", fused)


@pytest.fixture
def inputs(
    fused: str, device_of: Callable[[str], torch.device]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predictions, labels, probabilities, weights of two candidates."""
    generator, device = torch.Generator().manual_seed(0), device_of(fused)
    prediction = torch.randint(0, CLASSES, (1, *LABEL_HW), generator=generator).byte()
    label = torch.randint(0, CLASSES, (1, *LABEL_HW), generator=generator).byte()
    prob = torch.rand(1, CLASSES, 3, 5, generator=generator)
    weight = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    return prediction.to(device), label.to(device), prob.to(device), weight.to(device)


def test_they_are_registered_as_torch_wants_it(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    prediction, label, prob, weight = inputs
    operations = torch.ops.roomsmith
    for operation, arguments in (
        (operations.confusion.default, (prediction, label, CLASSES)),
        (operations.resized_argmax.default, (prob, list(LABEL_HW))),
        (operations.probability_confusion.default, (prob, label)),
        (operations.blend_confusion.default, ([prob, 1 - prob], weight, label)),
    ):
        done = torch.library.opcheck(operation, arguments)
        assert set(done.values()) == {"SUCCESS"}, operation


def test_compiled_without_a_break_they_count_the_same(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    def everything(
        prediction: Tensor, label: Tensor, prob: Tensor, weight: Tensor
    ) -> tuple[Tensor, ...]:
        return (
            op.confusion(prediction, label, CLASSES) + 1,
            op.resized_argmax(2 * prob, LABEL_HW),
            op.probability_confusion(2 * prob, label),
            op.blend_confusion([prob, 1 - prob], weight, label),
        )

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*inputs), everything(*inputs), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_probabilities_that_need_a_gradient_may_be_counted(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    _, label, prob, weight = inputs
    expected = op.probability_confusion(prob, label), op.blend_confusion([prob] * 2, weight, label)
    prob, weight = prob.clone().requires_grad_(), weight.clone().requires_grad_()
    assert torch.equal(op.probability_confusion(prob, label), expected[0])
    assert torch.equal(op.blend_confusion([prob] * 2, weight, label), expected[1])
    assert not op.resized_argmax(prob, LABEL_HW).requires_grad


def test_every_count_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, CLASSES, (1, 40, 10), generator=generator).byte()
    prob = torch.rand(2, 1, CLASSES, 20, 5, generator=generator)
    weight = torch.tensor([[0.7, 0.3], [0.2, 0.8]])

    def everything() -> list[Tensor]:
        winner = torch.full_like(label, 77)
        cpu.argmax(prob[0], winner)
        return [
            winner,
            cpu.count(label.flatten()[200:], label.flatten()[:200], CLASSES),
            cpu.count_argmax(prob[0], label),
            cpu_blend.count_blends(list(prob), weight, label),
            cpu_blend.count_blends(list(prob), -weight, label),
        ]

    expected = everything()  # and compiled, before NumPy is changed
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, 77))
    for found, clean in zip(everything(), expected, strict=True):
        assert torch.equal(found, clean)
        assert (found != 77).any()
