"""The training loss: its depth part against a loop, its sum, and its gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import DataConfig, TrainingConfig
from engine.data.accumulate import part_sizes, parts_of, shares_of, weight_sums
from engine.data.batch import Batch
from engine.model.network import Network, Prediction
from engine.runtime.device import choose_operations
from engine.training.step import TrainingLoss, class_weights, depth_l1
from kernels.boundary_ce import boundary_ce

CPU = torch.device("cpu")
CLASSES = DataConfig().classes
OPERATIONS = choose_operations("fused", CPU)


def make(*, batch: int = 2) -> tuple[Prediction, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 13, 4, 6, generator=generator)
    depth = torch.rand(batch, 4, 6, generator=generator)
    depth_m = 12 * torch.rand(batch, 16, 24, generator=generator)
    depth_m[torch.rand(depth_m.shape, generator=generator) < 0.3] = 0
    label = torch.randint(0, 13, depth_m.shape, generator=generator)
    label[torch.rand(depth_m.shape, generator=generator) < 0.2] = 255
    image = torch.zeros(batch, 3, 16, 24)
    return Prediction(logits, depth), Batch(image, depth_m, label.byte(), np.arange(batch))


def loss_of(**training: object) -> TrainingLoss:
    config = TrainingConfig.model_validate(training)
    return TrainingLoss(config, class_weights(config, CLASSES, CPU), OPERATIONS)


def depth_by_loop(predicted: Tensor, depth_m: Tensor) -> float:
    errors = [
        abs(float(p) - (min(max(float(d), 0.71), 10.0) - 0.71) / 9.29)
        for p, d in zip(predicted.flatten(), depth_m.flatten(), strict=True)
        if d > 0
    ]
    return sum(errors) / len(errors)


def test_the_depth_loss_is_the_mean_error_over_known_depth() -> None:
    prediction, batch = make()
    upsampled = F.interpolate(
        prediction.depth_Bhw[:, None],
        (16, 24),
        mode="bilinear",
        align_corners=Network.align_corners,
    )
    found = float(depth_l1(prediction.depth_Bhw, batch.depth_BHW))
    assert found == pytest.approx(depth_by_loop(upsampled, batch.depth_BHW), rel=1e-5)


@pytest.mark.parametrize(
    ("metres", "target"), [(0.3, 0.0), (0.71, 0.0), (5.355, 0.5), (10.0, 1.0), (65.535, 1.0)]
)
def test_depth_is_clipped_to_what_the_sensor_measures(metres: float, target: float) -> None:
    loss = depth_l1(torch.zeros(1, 1, 1), torch.full((1, 4, 4), metres))
    assert float(loss) == pytest.approx(target, abs=1e-6)


def test_without_any_depth_its_loss_and_gradient_are_0() -> None:
    depth = torch.rand(2, 4, 6, requires_grad=True)
    loss = depth_l1(depth, torch.zeros(2, 16, 24))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert depth.grad is not None
    assert torch.equal(depth.grad, torch.zeros_like(depth))


def test_the_total_is_segmentation_plus_a_tenth_of_depth() -> None:
    prediction, batch = make()
    loss = loss_of(boundary_weight=2.0, class_weights={"tv": 1.5}, ignored_edges=True)
    losses = loss(prediction, batch)
    segmentation = boundary_ce(
        prediction.logits_BChw,
        batch.label_BHW,
        loss.class_weight_C,
        2.0,
        align_corners=Network.align_corners,
        ignored_edges=True,
    )
    assert torch.equal(losses.segmentation, segmentation)
    assert torch.equal(losses.depth, depth_l1(prediction.depth_Bhw, batch.depth_BHW))
    torch.testing.assert_close(losses.total, losses.segmentation + 0.1 * losses.depth)


def test_with_the_defaults_it_is_plain_cross_entropy() -> None:
    prediction, batch = make()
    losses = loss_of(depth_weight=0.0)(prediction, batch)
    upsampled = F.interpolate(prediction.logits_BChw, (16, 24), mode="bilinear", align_corners=True)
    oracle = F.cross_entropy(upsampled, batch.label_BHW.long(), ignore_index=255)
    torch.testing.assert_close(losses.total, oracle)


def test_class_weights_stand_in_class_order() -> None:
    config = TrainingConfig(class_weights={"window": 3.0, "bed": 2.0, "tv": 1.5})
    expected = [2.0, *[1.0] * 9, 1.5, 1.0, 3.0]
    weights = class_weights(config, CLASSES, CPU)
    assert weights.dtype == torch.float32
    assert weights.tolist() == expected


def test_half_precision_predictions_are_scored_in_float32() -> None:
    prediction, batch = make()
    loss = loss_of()
    half = Prediction(*(tensor.bfloat16() for tensor in prediction))
    losses = loss(half, batch)
    assert {part.dtype for part in losses} == {torch.float32}
    same = Prediction(*(tensor.float() for tensor in half))
    assert torch.equal(losses.total, loss(same, batch).total)


def test_a_batch_without_labels_or_depth_moves_no_weight() -> None:
    prediction, batch = make()
    batch.label_BHW.fill_(255)
    batch.depth_BHW.zero_()
    leaves = Prediction(*(tensor.requires_grad_() for tensor in prediction))
    losses = loss_of(boundary_weight=2.0)(leaves, batch)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.total.item() == 0.0
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("boundary_weight", [1.0, 2.0])
@pytest.mark.parametrize("ignored_edges", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_losses_of_parts_add_up_to_the_batchs(
    count: int, ignored_edges: bool, boundary_weight: float
) -> None:
    prediction, batch = make(batch=4)
    # Parts that count unequally: a frame without a label, one without depth, one with little.
    batch.label_BHW[0] = 255
    batch.label_BHW[1, 2:] = 255
    batch.depth_BHW[3] = 0
    loss = loss_of(
        boundary_weight=boundary_weight, ignored_edges=ignored_edges, class_weights={"bed": 3.0}
    )
    whole = loss(prediction, batch)
    parts = parts_of(batch, part_sizes(len(batch.index), count))
    losses = []
    for part, shares in zip(parts, shares_of(*weight_sums(parts, loss.config)), strict=True):
        rows = part.index
        own = Prediction(prediction.logits_BChw[rows], prediction.depth_Bhw[rows])
        losses.append(loss(own, part, shares))
    found = torch.stack([torch.stack(part) for part in losses]).sum(dim=0)
    torch.testing.assert_close(found, torch.stack(whole), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "count", "sizes"),
    [
        (8, 4, [2, 2, 2, 2]),
        (3, 2, [3]),
        (5, 3, [2, 3]),
        (3, 4, [3]),
        (1, 2, [1]),
        (2, 2, [2]),
    ],
)
def test_no_part_is_a_lone_image_where_two_are_needed(
    images: int, count: int, sizes: list[int]
) -> None:
    assert part_sizes(images, count, 2) == sizes


def test_a_batch_without_labels_and_depth_is_worth_nothing_in_parts_either() -> None:
    prediction, batch = make(batch=2)
    batch.label_BHW[:] = 255
    batch.depth_BHW[:] = 0
    loss = loss_of()
    for shares in shares_of(*weight_sums(parts_of(batch, [1, 1]), loss.config)):
        losses = loss(prediction, batch, shares)
        assert torch.stack(losses).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("count", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (9, [1] * 5)])
def test_parts_of_a_batch_are_its_rows_in_order(count: int, sizes: list[int]) -> None:
    rows = torch.arange(5)[:, None, None].expand(5, 2, 3)
    image = torch.randn(5, 4, 2, 3).contiguous(memory_format=torch.channels_last)
    batch = Batch(image, rows.float(), rows.byte(), np.arange(5))
    parts = parts_of(batch, part_sizes(len(batch.index), count))
    assert [len(part.index) for part in parts] == sizes
    assert torch.equal(torch.cat([part.image_BCHW for part in parts]), image)
    for part in parts:
        assert part.image_BCHW.is_contiguous(memory_format=torch.channels_last)
        for row, number in enumerate(part.index):
            assert (part.depth_BHW[row] == number).all()
            assert (part.label_BHW[row] == number).all()
