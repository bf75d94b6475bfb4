"""Progressive resizing: which epoch has which size, a fold through all of them, stopped or not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import Config
from engine.experiment import Experiment
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import EpochLine
from engine.training.step import TrainStep
from engine.training.time_left import time_left
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
DATA = {"input_hw": (96, 128), "crop_hw": (64, 96)}
SIZES = {"epochs": 3, "sizes": (0.5, 1.0), "validate_every": 3}
STEPS = 3


def config_of(sizes: list[float], epochs: int, crop_hw: tuple[int, int] = (288, 384)) -> Config:
    data = {"input_hw": (320, 448), "crop_hw": crop_hw}
    return Config.model_validate({"data": data, "training": {"sizes": sizes, "epochs": epochs}})


def test_sizes_take_equal_parts_of_the_epochs_and_crops_stay_multiples_of_32() -> None:
    config = config_of([0.5, 0.75, 1], 7)
    crops = [config.data_at(epoch).crop_hw for epoch in range(7)]
    assert crops == [(160, 192)] * 3 + [(224, 288)] * 2 + [(288, 384)] * 2
    sections = [config.data_at(epoch) for epoch in (0, 3, 5)]
    # As far as the crop lets it: 160 is no smaller than half of 320.
    assert [data.input_hw for data in sections] == [(160, 224), (240, 336), (320, 448)]
    assert sections[2] is config.data
    tiny = config_of([0.01, 1], 2, (32, 64)).data_at(0)
    assert (tiny.crop_hw, tiny.input_hw) == ((32, 32), (32, 32))


def test_work_is_counted_in_epochs_at_whole_size() -> None:
    assert config_of([], 7).work(2, 7) == 5
    config = config_of([0.5, 1], 4, (256, 384))
    assert config.work(0, 4) == 2.5
    assert config.work(1, 3) == 1.25


@pytest.mark.parametrize(
    ("sizes", "message"),
    [([0.5, 0.75, 1], "names 3 sizes for 2 epochs; type fewer"), ([1.5], "less than or equal")],
)
def test_sizes_that_cannot_be_are_refused(sizes: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(sizes, 2)


def seen(monkeypatch: pytest.MonkeyPatch, stop: int = -1) -> list[tuple[int, ...]]:
    """Sizes of what each step gets from now on; the process dies after `stop` of them."""
    call, sizes = TrainStep.__call__, list[tuple[int, ...]]()

    def noted(self: TrainStep, batch: Any, *arguments: Any) -> None:
        call(self, batch, *arguments)
        sizes.append(tuple(batch.image_BCHW.shape[2:]))
        if len(sizes) == stop:
            raise StoppedError

    monkeypatch.setattr(TrainStep, "__call__", noted)
    return sizes


def test_a_fold_goes_through_its_sizes_and_resumed_leaves_the_same_bytes(
    open_run: Callable[..., Experiment], tmp_path: Path
) -> None:
    changes = {"data": DATA, "training": SIZES, "runtime": {"save_every": 2}}
    whole, broken = (open_run(tmp_path / name, **changes).task(1) for name in ("a", "b"))
    assert whole.steps_per_epoch == STEPS
    with pytest.MonkeyPatch.context() as patch:
        sizes = seen(patch)
        FoldTraining(whole, POLICY).run()
    assert sizes == [(32, 64)] * 6 + [(64, 96)] * 3
    with pytest.MonkeyPatch.context() as patch:
        seen(patch, 5)  # within the second small epoch
        with pytest.raises(StoppedError):
            FoldTraining(broken, POLICY).run()
    with pytest.MonkeyPatch.context() as patch:
        sizes = seen(patch)
        FoldTraining(broken, POLICY).run()
    assert sizes == [(32, 64)] * 2 + [(64, 96)] * 3
    paths = [task.run.best(1) for task in (whole, broken)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_sources_of_files_change_their_size_too(make_task: Callable[..., FoldTask]) -> None:
    task = make_task(data=DATA, training=SIZES, runtime={"source": "torch"})
    with pytest.MonkeyPatch.context() as patch:
        sizes = seen(patch, 7)
        with pytest.raises(StoppedError):
            FoldTraining(task, POLICY).run()
    assert sizes == [(32, 64)] * 6 + [(64, 96)]


def test_the_time_left_expects_larger_epochs_to_take_longer(
    make_task: Callable[..., FoldTask],
) -> None:
    data = {"input_hw": (128, 192), "crop_hw": (128, 192)}
    training = {"epochs": 4, "sizes": (0.5, 1.0), "validate_every": 4}
    task = make_task(data=data, training=training)
    lines = [EpochLine(epoch=epoch, train_s=10.0, validation_s=0.0) for epoch in (1, 2)]
    assert time_left(lines, task) == "> 1 min 20 s"
    assert time_left(lines, replace(task, later=1)) == "> 3 min 00 s"
