"""The average scored on the validation frames: when, how, and which epoch is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from engine.data.file_source import network_input
from engine.frames.decode import read_image, read_label
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.checkpoint import epoch_row, read_metrics
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import EpochLine
from kernels.confusion import probability_confusion
from kernels.metrics import mean_iou, pixel_accuracy

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)

MakeTask = Callable[..., FoldTask]


def test_epochs_between_validations_are_not_scored_but_the_last_one_is(
    make_task: MakeTask,
) -> None:
    task = make_task(training={"validate_every": 2, "epochs": 3})
    FoldTraining(task, POLICY).run()
    lines = read_metrics(task.run.metrics(1), 3)
    assert [line.epoch for line in lines if line.miou is not None] == [2, 3]
    assert [line.epoch for line in lines if line.validation_loss is not None] == [2, 3]
    assert "-      -      -" in epoch_row(1, lines[0], 3, "7.0 s")


def test_the_first_of_equal_epochs_is_the_best(make_task: MakeTask) -> None:
    task = make_task()
    fold = FoldTraining(task, POLICY)
    # The first epoch is not validated; the next three have the same weights.
    fold.metrics.append(EpochLine(epoch=1, train_s=1.0, validation_s=0.0))
    for epoch in (2, 3, 4):
        line = EpochLine(epoch=epoch, **fold.validate(epoch), train_s=1.0, validation_s=1.0)
        fold.metrics.append(line)
    assert len({line.miou for line in fold.metrics[1:]}) == 1
    with safe_open(task.run.best(1), framework="pt") as file:
        assert json.loads(file.metadata()["roomsmith"])["epoch"] == "2"


def test_validation_scores_one_view_at_the_labels_own_size(make_task: MakeTask) -> None:
    task = make_task()
    fold = FoldTraining(task, POLICY)
    count_CC = torch.zeros(13, 13, dtype=torch.int64)
    losses: list[Tensor] = []
    for number in task.validation:
        sample = task.dataset.train.samples[number]
        image = read_image(sample)
        image_1CHW = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        # The frames are 48 x 64; a view's sides are multiples of 32.
        view = F.interpolate(image_1CHW, (32, 64), mode="bilinear")
        with torch.inference_mode():
            view = network_input(view, torch.zeros(1, 32, 64), fold.spec)
            logits = fold.learner.ema.network(view).logits_BChw
        wide = F.interpolate(logits, (32, 64), mode="bilinear", align_corners=True)
        prob = F.interpolate(wide.softmax(1), (48, 64), mode="bilinear")
        label = torch.from_numpy(read_label(sample))[None]
        count_CC += probability_confusion(prob, label)
        # Every eighth row and column, from the fifth on.
        log_p, sampled = prob.double().log()[..., 4::8, 4::8], label[:, 4::8, 4::8].long()
        of_truth = log_p.gather(1, sampled.clamp(max=12)[:, None])[:, 0]
        losses.append(-of_truth[sampled != 255])
    found = fold.validate(1)
    assert found["miou"] == pytest.approx(mean_iou(count_CC.numpy()), abs=2e-3)
    assert found["pixel_acc"] == pytest.approx(pixel_accuracy(count_CC.numpy()), abs=2e-3)
    assert found["validation_loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-4)


def test_validation_takes_the_frames_that_training_holds(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(runtime={"source": "resident", "cache": str(tmp_path)})

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a file is read again")

    monkeypatch.setattr("engine.data.sources.read_frame", read)
    FoldTraining(task, POLICY).run()
    scores = [line.miou for line in read_metrics(task.run.metrics(1), 2)]
    assert all(score is not None and 0 < score <= 1 for score in scores)
