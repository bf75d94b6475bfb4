"""boundary_ce against torch's cross-entropy and its own definition, by each implementation."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.boundary_ce.reference import EPSILON, pixel_weights

IGNORE = 255
LossOf = Callable[..., Tensor]

# Stride and cells: a decoder's three strides, odd and even sides, one cell alone, a stride that is
# odd, and one that resizes nothing. Few rows: Triton's interpreter needs 10 ms for each row of
# pixels and each pixel between two cells, however many cells there are in the row.
SHAPES = [
    pytest.param(4, (3, 8), id="stride 4"),
    pytest.param(8, (2, 5), id="stride 8"),
    pytest.param(16, (1, 2), id="stride 16"),
    pytest.param(4, (1, 1), id="one cell"),
    pytest.param(4, (1, 6), id="one row"),
    pytest.param(3, (4, 1), id="stride 3, one column"),
    pytest.param(1, (6, 5), id="stride 1"),
]
# The commonest stride with either corners, others in turn; all with both in the full form.
CORNERS = [
    pytest.param(
        *shape.values,
        corners,
        id=f"{shape.id}-{corners}",
        marks=[] if number == 0 or corners == bool(number % 2) else [pytest.mark.full],
    )
    for number, shape in enumerate(SHAPES)
    for corners in (True, False)
]
# Precisions, edges and corners in pairs; all three in the full form.
FORMS = [
    pytest.param(
        dtype, edges, corners, marks=[] if (number + edges + corners) % 2 else [pytest.mark.full]
    )
    for number, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16))
    for edges in (True, False)
    for corners in (True, False)
]


def make(
    stride: int = 4,
    cells: tuple[int, int] = (2, 7),
    *,
    classes: int = 5,
    batch: int = 2,
    ignored: float = 0.2,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Random channels-last logits, and labels that hold every class, 0 and C-1 included."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, *cells, generator=generator, dtype=torch.float64)
    size = (batch, cells[0] * stride, cells[1] * stride)
    label = torch.randint(0, classes, size, generator=generator)
    label[torch.rand(size, generator=generator) < ignored] = IGNORE
    logits = (3 * logits).to(dtype, memory_format=torch.channels_last)
    return logits, label.to(torch.uint8)


@pytest.fixture
def loss_of(
    backend: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
) -> LossOf:
    """boundary_ce on one implementation, with arguments that make it plain cross-entropy."""
    function, device = operation("boundary_ce", backend).boundary_ce, device_of(backend)

    def loss_of(
        logits: Tensor,
        label: Tensor,
        *,
        weights: Tensor | None = None,
        boundary_weight: float = 1.0,
        align_corners: bool = True,
        ignored_edges: bool = False,
    ) -> Tensor:
        if weights is None:
            weights = torch.ones(logits.shape[1], dtype=logits.dtype)
        loss: Tensor = function(
            logits.to(device),
            label.to(device),
            weights.to(device),
            boundary_weight,
            align_corners=align_corners,
            ignored_edges=ignored_edges,
        )
        return loss.cpu()

    return loss_of


def upsampled(logits: Tensor, label: Tensor, align_corners: bool) -> Tensor:
    size = tuple(label.shape[1:])
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def by_definition(
    logits: Tensor, label: Tensor, k: Tensor, b: float, align_corners: bool, ignored_edges: bool
) -> float:
    """The formula of the docstring in float64, without cross_entropy."""
    u = upsampled(logits.double(), label, align_corners)
    weight = pixel_weights(label, b, ignored_edges, torch.float64)  # test_boundary_edges.py
    target = torch.where(label == IGNORE, 0, label).long()
    loss = torch.logsumexp(u, dim=1) - u.gather(1, target[:, None])[:, 0]
    return float((k.double()[target] * weight * loss).sum() / (weight.sum() + EPSILON))


@pytest.mark.parametrize(("stride", "cells", "align_corners"), CORNERS)
def test_with_all_weights_one_it_is_torchs_cross_entropy(
    loss_of: LossOf, stride: int, cells: tuple[int, int], align_corners: bool
) -> None:
    logits, label = make(stride, cells, batch=1, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = loss_of(ours, label, align_corners=align_corners)
    oracle = F.cross_entropy(
        upsampled(theirs, label, align_corners), label.long(), ignore_index=IGNORE
    )
    loss.backward()  # type: ignore[no-untyped-call]
    oracle.backward()  # type: ignore[no-untyped-call]
    # The 1e-6 in the denominator is what remains between them.
    count = int((label != IGNORE).sum())
    torch.testing.assert_close(loss, oracle, rtol=2 * EPSILON / count, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("dtype", "ignored_edges", "align_corners"), FORMS)
def test_it_is_the_formula(
    loss_of: LossOf, dtype: torch.dtype, ignored_edges: bool, align_corners: bool
) -> None:
    logits, label = make(dtype=dtype)
    k = torch.tensor([1.0, 1.5, 0.25, 3.0, 1.0], dtype=dtype)
    loss = loss_of(
        logits,
        label,
        weights=k,
        boundary_weight=2.0,
        align_corners=align_corners,
        ignored_edges=ignored_edges,
    )
    expected = by_definition(logits, label, k, 2.0, align_corners, ignored_edges)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert float(loss) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 2e-6)


def test_class_weights_scale_each_class_and_not_the_denominator(loss_of: LossOf) -> None:
    logits, label = make(classes=3, ignored=0.0)
    parts = [
        float(loss_of(logits, label, weights=torch.eye(3)[c], boundary_weight=2.0))
        for c in range(3)
    ]
    k = torch.tensor([1.0, 2.0, 5.0])
    whole = float(loss_of(logits, label, weights=k, boundary_weight=2.0))
    assert whole == pytest.approx(parts[0] + 2 * parts[1] + 5 * parts[2], rel=1e-6)


@pytest.mark.parametrize("ignored_edges", [True, False])
def test_all_ignored_gives_loss_0_and_gradient_0(loss_of: LossOf, ignored_edges: bool) -> None:
    logits, label = make()
    logits.requires_grad_()
    label.fill_(IGNORE)
    loss = loss_of(logits, label, boundary_weight=2.0, ignored_edges=ignored_edges)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_ignored_pixel_gets_no_gradient_whatever_its_neighbours(loss_of: LossOf) -> None:
    logits, label = make(4, (3, 4), batch=1, ignored=0.0)
    label[:, :, 4:] = IGNORE
    logits.requires_grad_()
    loss = loss_of(logits, label, boundary_weight=2.0, align_corners=False)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # The first four columns of pixels lie between the cells of columns 0 and 1.
    assert torch.equal(logits.grad[..., 2:], torch.zeros(1, 5, 3, 2))
    assert logits.grad[..., :2].abs().min() > 0


def test_an_empty_batch_gives_loss_0(loss_of: LossOf) -> None:
    logits, label = torch.zeros(0, 3, 2, 2, requires_grad=True), torch.zeros(0, 8, 8).byte()
    loss = loss_of(logits, label)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.shape == (0, 3, 2, 2)


@pytest.mark.parametrize("value", [0, 4])
def test_the_first_and_the_last_class_are_classes_like_others(loss_of: LossOf, value: int) -> None:
    logits, label = make(ignored=0.0)
    label.fill_(value)
    u = upsampled(logits.double(), label, True)
    expected = float(-F.log_softmax(u, dim=1)[:, value].mean())
    assert float(loss_of(logits, label, boundary_weight=7.0)) == pytest.approx(expected, rel=1e-5)


def test_adding_1000_to_all_logits_changes_nothing(loss_of: LossOf) -> None:
    logits, label = make(dtype=torch.float64)
    near, far = logits.clone().requires_grad_(), (logits + 1000).requires_grad_()
    losses = [loss_of(x, label, boundary_weight=2.0) for x in (near, far)]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-11, atol=0)
    torch.testing.assert_close(far.grad, near.grad, rtol=1e-8, atol=1e-13)


def test_logits_of_10000_stay_finite(loss_of: LossOf) -> None:
    logits, label = make()
    logits = (1e4 * torch.sign(logits)).requires_grad_()
    loss = loss_of(logits, label, boundary_weight=2.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert math.isfinite(loss.item())
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("ignored_edges", "align_corners"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.full),
        pytest.param(False, True, marks=pytest.mark.full),
    ],
)
def test_the_gradient_is_that_of_finite_differences(
    loss_of: LossOf, ignored_edges: bool, align_corners: bool
) -> None:
    logits, label = make(4, (2, 2), classes=3, batch=1, dtype=torch.float64)
    k = torch.tensor([1.0, 1.5, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: loss_of(
            x,
            label,
            weights=k,
            boundary_weight=2.0,
            align_corners=align_corners,
            ignored_edges=ignored_edges,
        ),
        (logits.requires_grad_(),),
        fast_mode=True,
    )


def test_labels_may_be_uint8_or_int64_and_logits_of_any_layout(loss_of: LossOf) -> None:
    logits, label = make()
    loss = loss_of(logits, label, boundary_weight=2.0)
    assert torch.equal(loss_of(logits, label.long(), boundary_weight=2.0), loss)
    torch.testing.assert_close(loss_of(logits.contiguous(), label, boundary_weight=2.0), loss)


def test_nothing_is_written_into_the_inputs(loss_of: LossOf) -> None:
    logits, label = make()
    k = torch.ones(5)
    before = logits.clone(), label.clone(), k.clone()
    loss_of(logits, label, weights=k, boundary_weight=2.0)
    assert all(torch.equal(a, b) for a, b in zip((logits, label, k), before, strict=True))


@pytest.mark.parametrize(
    ("label_shape", "weights", "message"),
    [
        ((2, 8, 27), 5, "labels 8 x 27 must be the same multiple of the logits 2 x 7"),
        ((2, 8, 14), 5, "labels 8 x 14 must be the same multiple of the logits 2 x 7"),
        ((1, 8, 28), 5, r"labels must be \(B=2, H, W\), got \(1, 8, 28\)"),
        ((2, 1, 8, 28), 5, r"labels must be \(B=2, H, W\), got \(2, 1, 8, 28\)"),
        ((2, 8, 28), 4, r"class weights must be \(5,\), got \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    loss_of: LossOf, label_shape: tuple[int, ...], weights: int, message: str
) -> None:
    logits, label = make()[0], torch.zeros(label_shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        loss_of(logits, label, weights=torch.ones(weights))
