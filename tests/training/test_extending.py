"""The smallest real example of everything that CONTRIBUTING.md says where to add."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from engine import config, settings
from engine.data import inputs
from engine.data.accumulate import WHOLE, Shares
from engine.data.batch import Batch, Draws, Source
from engine.model import network
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.checkpoint import read_metrics
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import Losses
from engine.training.step import TrainingLoss
from kernels.boundary_ce import boundary_ce

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)

MakeTask = Callable[..., FoldTask]


def trained(task: FoldTask, fold: FoldTraining) -> float:
    """One epoch to the end; the mIoU of its validation."""
    fold.run()
    (line,) = read_metrics(task.run.metrics(task.fold), 1)
    assert line.miou is not None
    assert task.run.best(task.fold).exists()
    return line.miou


class Pointwise(nn.Module):
    """The stride-4 feature brought to a width, and nothing of the others."""

    output_stride, xavier_heads, out_channels = 32, False, 24

    def __init__(self, widths: Sequence[int], config: config.ModelConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(widths[0], self.out_channels, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[None, Tensor]:
        return None, self.conv(features[0])


def test_a_decoder_is_a_module_and_a_row(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(network.DECODERS, "pointwise", cast(Any, Pointwise))
    task = make_task(training={"epochs": 1}, model={"decoder": "pointwise"})
    fold = FoldTraining(task, POLICY)
    assert isinstance(fold.learner.network.decoder, Pointwise)
    assert trained(task, fold) > 0


class Confident(TrainingLoss):
    """Asks for large logits, too."""

    def __call__(self, prediction: Prediction, batch: Batch, shares: Shares = WHOLE) -> Losses:
        losses = super().__call__(prediction, batch, shares)
        term = 0.1 / prediction.logits_BChw.square().mean().add(1) * shares.segmentation
        return losses._replace(total=losses.total + term)


def test_a_loss_term_is_a_line_of_the_loss(make_task: MakeTask) -> None:
    task = make_task(training={"epochs": 1, "accumulate": 2})
    fold = FoldTraining(task, POLICY)
    fold.step.loss = Confident(**vars(fold.step.loss))
    trained(task, fold)
    (line,) = read_metrics(task.run.metrics(task.fold), 1)
    assert line.loss is not None
    assert line.segmentation_loss is not None
    assert line.depth_loss is not None
    plain = line.segmentation_loss + task.config.training.depth_weight * line.depth_loss
    assert plain < line.loss < plain + 0.1


def nearness(image_BCHW: Tensor, depth_BHW: Tensor) -> Tensor:
    """1 within two metres, else 0."""
    return ((depth_BHW > 0) & (depth_BHW < 2)).to(image_BCHW)


@pytest.mark.parametrize("source", ["torch", "resident"])
def test_an_input_channel_is_a_function_and_its_name(
    source: str, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(settings.IN_CHANNELS, "near", 5)
    monkeypatch.setitem(inputs.DERIVED, "near", (nearness,))
    runtime = {"source": source, "cache": str(tmp_path / "cache")}
    task = make_task(training={"epochs": 1}, model={"input": "near"}, runtime=runtime)
    fold = FoldTraining(task, POLICY)
    batch = next(fold.open_source().batches(fold.draws(0, 0)))
    assert batch.image_BCHW.shape[1] == 5
    near_BHW = (batch.depth_BHW > 0) & (batch.depth_BHW < 2)
    assert 0 < near_BHW.float().mean() < 1
    assert torch.equal(batch.image_BCHW[:, 4] == 1, near_BHW)
    assert trained(task, fold) > 0


@dataclass(frozen=True)
class Grey:
    """Batches of grey pictures without depth, labelled as class 3."""

    crop_hw: tuple[int, int]

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        for rows in draws:
            image = torch.zeros(len(rows.index), 3, *self.crop_hw)
            label = torch.full((len(rows.index), *self.crop_hw), 3, dtype=torch.uint8)
            yield Batch(image, torch.zeros(label.shape), label, rows.index)


def test_a_data_source_turns_draws_into_batches(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(training={"epochs": 1})
    source: Source = Grey(task.config.data.crop_hw)
    monkeypatch.setattr("engine.training.loop.make_source", lambda *_: source)
    FoldTraining(task, POLICY).run()
    (line,) = read_metrics(task.run.metrics(task.fold), 1)
    assert line.depth_loss == 0


def test_a_kernel_is_called_by_its_name(make_task: MakeTask) -> None:
    called = []

    def counted(*arguments: Any, **keywords: Any) -> Tensor:
        called.append(1)
        return boundary_ce(*arguments, **keywords)

    task = make_task(training={"epochs": 1})
    policy = replace(POLICY, operations=replace(OPERATIONS, boundary_ce=counted))
    FoldTraining(task, policy).run()
    assert len(called) == task.steps_per_epoch
