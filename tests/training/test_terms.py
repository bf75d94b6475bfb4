"""Loss terms at stride 4, each against its definition; what they do in a step and in parts."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import DataConfig, TrainingConfig
from engine.data.accumulate import parts_of, shares_of, weight_sums
from engine.data.batch import Batch
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import TrainingLoss, class_weights
from engine.training.terms import (
    BINS,
    Terms,
    cell_labels,
    dice,
    focal,
    lovasz_softmax,
    uniform_ce,
)

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
NAMES = ("dice_weight", "lovasz_weight", "focal_weight", "label_smoothing")
ALL = dict.fromkeys(NAMES, 0.5)

MakeTask = Callable[..., FoldTask]


def make(batch: int = 2) -> tuple[Prediction, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, 13, 4, 6, generator=generator)
    label = torch.randint(0, 9, (batch, 16, 24), generator=generator)  # four classes are absent
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    depth = torch.rand(batch, 16, 24, generator=generator)
    image = torch.zeros(batch, 3, 16, 24)
    made = Batch(image, depth, label.byte(), np.arange(batch))
    return Prediction(logits, torch.rand(batch, 4, 6, generator=generator)), made


def cells(prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
    """(C, N) log probabilities, float64, and (N,) labels."""
    label_N = cell_labels(batch.label_BHW, (4, 6)).flatten()
    logits_CN = prediction.logits_BChw.double().transpose(0, 1).flatten(1)
    return torch.log_softmax(logits_CN, 0), label_N


def loss_of(**training: object) -> TrainingLoss:
    config = TrainingConfig.model_validate(training)
    weights_C = class_weights(config, DataConfig().classes, CPU)
    loss = TrainingLoss(config, weights_C, POLICY.operations)
    return replace(loss, terms=((1.0, Terms(config)),)) if training else loss


def jaccard_loss(own: set[int], predicted: set[int]) -> float:
    return 1 - len(own & predicted) / len(own | predicted) if own | predicted else 0.0


def lovasz_by_sets(error_N: list[float], own: set[int]) -> float:
    """The extension by its definition, of the loss of the set of mispredicted cells.

    Mispredicting a set M of cells, a class's own ones are missed and others are taken for it.
    """
    order = sorted(range(len(error_N)), key=lambda n: -error_N[n])
    total = 0.0
    for rank, n in enumerate(order):
        before, after = set(order[:rank]), set(order[: rank + 1])
        total += error_N[n] * (jaccard_loss(own, own ^ after) - jaccard_loss(own, own ^ before))
    return total


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    log_CN, label_N = cells(*make())
    prob_CN = log_CN.exp()
    labelled = [n for n, label in enumerate(label_N.tolist()) if label != 255]
    expected = []
    for c in sorted({int(label_N[n]) for n in labelled}):
        own = {k for k, n in enumerate(labelled) if label_N[n] == c}
        prob = [float(prob_CN[c, n]) for n in labelled]
        expected.append(lovasz_by_sets([1 - p if k in own else p for k, p in enumerate(prob)], own))
    assert 5 < len(expected) < 10
    found = float(lovasz_softmax(prob_CN, label_N))
    assert found == pytest.approx(float(np.mean(expected)), abs=1 / BINS)


def test_of_corners_lovasz_is_the_jaccard_loss_itself() -> None:
    # A set function's extension agrees with it where every error is 0 or 1.
    label_N = torch.tensor([0, 0, 1, 1, 255])
    for predicted in itertools.product((0, 1), repeat=4):
        prob_CN = F.one_hot(torch.tensor([*predicted, 0]), 2).T.double()
        losses = [
            jaccard_loss(
                {n for n in range(4) if label_N[n] == c}, {n for n in range(4) if predicted[n] == c}
            )
            for c in (0, 1)
        ]
        assert float(lovasz_softmax(prob_CN, label_N)) == pytest.approx(np.mean(losses), abs=1e-6)


def test_the_gradient_of_lovasz_is_the_weight_of_each_error() -> None:
    # Errors far from each other, so that each is alone in its bin: then it is the exact one.
    prob = torch.tensor([[0.9, 0.31, 0.62, 0.13, 0.5]], dtype=torch.float64, requires_grad=True)
    label_N = torch.tensor([0, 0, 1, 1, 255])
    lovasz_softmax(prob, label_N).backward()  # type: ignore[no-untyped-call]
    # By falling error: cell 1 (0.69, own), 2 (0.62), 3 (0.13), 0 (0.1, own).
    jaccard = [0, 1 - 1 / 2, 1 - 1 / 3, 1 - 1 / 4, 1.0]
    added = np.diff(jaccard)
    expected = [-added[3], -added[0], added[1], added[2], 0]
    assert prob.grad is not None
    assert prob.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_dice_is_that_of_the_classes_there_are() -> None:
    log_CN, label_N = cells(*make())
    prob = log_CN.exp().numpy()
    known = label_N.numpy() != 255
    losses = []
    for c in np.unique(label_N.numpy()[known]):
        own = label_N.numpy() == c
        losses.append(1 - 2 * prob[c, own].sum() / (prob[c, known].sum() + own.sum()))
    assert float(dice(log_CN.exp(), label_N)) == pytest.approx(np.mean(losses), rel=1e-9)


def test_focal_and_smoothing_are_their_definitions() -> None:
    log_CN, label_N = cells(*make())
    known = label_N != 255
    own = log_CN[label_N[known].long(), known]
    expected = -((1 - own.exp()) ** 3 * own).mean()
    torch.testing.assert_close(focal(log_CN, label_N, 3.0), expected)
    torch.testing.assert_close(uniform_ce(log_CN, label_N), -log_CN[:, known].mean())
    logits, label = log_CN.T[:, :, None, None], label_N[:, None, None]
    smoothed = F.cross_entropy(
        logits, label.long(), ignore_index=255, label_smoothing=0.2
    )  # torch's, of what the two make together
    plain = F.cross_entropy(logits, label.long(), ignore_index=255)
    torch.testing.assert_close(0.8 * plain + 0.2 * uniform_ce(log_CN, label_N), smoothed)


def test_a_cell_has_the_label_of_the_pixel_under_it() -> None:
    label = torch.arange(16 * 24).view(1, 16, 24) % 251
    found = cell_labels(label.byte(), (4, 6))[0]
    # Corners on corners: rows 0, 5, 10, 15 exactly, columns 0, 4.6, 9.2, 13.8, 18.4, 23.
    assert torch.equal(found, label[0][[0, 5, 10, 15]][:, [0, 5, 9, 14, 18, 23]].byte())
    assert torch.equal(cell_labels(label.byte(), (1, 24)), label[:, :1].byte())


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_labelled_a_term_is_0_and_moves_nothing(name: str) -> None:
    prediction, batch = make()
    batch.label_BHW.fill_(255)
    logits = prediction.logits_BChw.requires_grad_()
    loss = Terms(TrainingConfig.model_validate({name: 0.5}))(prediction, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", NAMES)
def test_of_certain_logits_gradients_are_finite(name: str) -> None:
    prediction, batch = make()
    logits = (1000 * prediction.logits_BChw).bfloat16().requires_grad_()
    term = Terms(TrainingConfig.model_validate({name: 0.5, "focal_gamma": 1.0}))
    loss = term(Prediction(logits, prediction.depth_Bhw), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_terms_are_added_by_weight() -> None:
    prediction, batch = make()
    log_CN, label_N = cells(prediction, batch)
    plain = loss_of()(prediction, batch)
    found = loss_of(dice_weight=0.5, lovasz_weight=2.0, focal_weight=3.0, label_smoothing=0.1)(
        prediction, batch
    )
    terms = 0.5 * dice(log_CN.exp(), label_N) + 2 * lovasz_softmax(log_CN.exp(), label_N)
    terms = terms + 3 * focal(log_CN, label_N, 2.0) + 0.1 * uniform_ce(log_CN, label_N)
    expected = float(plain.total) - 0.1 * float(plain.segmentation) + float(terms)
    assert float(found.total) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(found.segmentation, plain.segmentation)


def test_a_parts_term_counts_by_its_share_of_the_cross_entropy() -> None:
    prediction, batch = make(batch=4)
    batch.label_BHW[0] = 255
    loss, parts = loss_of(**ALL), parts_of(batch, [1, 3])
    plain = loss_of()
    for part, shares in zip(parts, shares_of(*weight_sums(parts, loss.config)), strict=True):
        own = Prediction(*(tensor[part.index] for tensor in prediction))
        cross_entropy = plain(own, part, shares)
        expected = cross_entropy.total - 0.5 * cross_entropy.segmentation
        expected = expected + shares.segmentation * Terms(loss.config)(own, part)
        torch.testing.assert_close(loss(own, part, shares).total, expected)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_terms_read_no_value_back_and_no_shape_depends_on_one() -> None:
    # What a recorded step needs.
    prediction, batch = make()
    prediction.logits_BChw.requires_grad_()
    with _Calls() as calls:
        Terms(TrainingConfig.model_validate(ALL))(prediction, batch).backward()  # type: ignore[no-untyped-call]
    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.", "bincount")
    assert [name for name in calls.names if any(word in name for word in waiting)] == []
    assert any("scatter_add" in name for name in calls.names), "the mode saw them"


def test_a_fold_has_the_terms_of_its_config(make_task: MakeTask) -> None:
    # They have no state: what a fold resumes with is what test_loop.py and test_parts.py look at.
    for name in NAMES:
        ((weight, term),) = FoldTraining(
            make_task(training={name: 0.5}), POLICY, blank=True
        ).step.loss.terms
        assert weight == 1
        assert isinstance(term, Terms)
        assert getattr(term.config, name) == 0.5


def test_at_the_defaults_a_fold_has_no_terms(make_task: MakeTask) -> None:
    assert FoldTraining(make_task(), POLICY, blank=True).step.loss.terms == ()
