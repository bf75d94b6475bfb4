"""Steps of real networks that are wrong are told from steps that round in another order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.data.accumulate import WHOLE, Shares
from engine.data.batch import Batch
from engine.experiment import Experiment
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.runtime.forms import PLAIN, StepForm
from engine.training.loop import FoldTask
from engine.training.records import Losses
from engine.training.step import TrainStep
from engine.training.tuning.check import Errors, fault
from engine.training.tuning.options import Options
from engine.training.tuning.tuner import Tuner
from engine.training.tuning.workshop import StepTrial, StepWorkshop

CPU = torch.device("cpu")
EAGER = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
PRECISIONS = pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two would wait for each other at each of thousands of small sums."""
    torch.set_num_threads(1)


def drop_bias(step: TrainStep, name: str = "segmentation_head.0.bias") -> None:
    bias = step.learner.network.get_parameter(name)
    bias.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]


def scale_loss(step: TrainStep) -> None:
    whole = step.loss

    class Scaled:
        config = whole.config

        def __call__(self, prediction: Prediction, batch: Batch, shares: Shares = WHOLE) -> Losses:
            return Losses(*(1.01 * part for part in whole(prediction, batch, shares)))

    step.loss = Scaled()  # type: ignore[assignment]


def stop_average(step: TrainStep) -> None:
    """It follows weights that stay as they were."""
    ema = step.learner.ema
    ema._trained = [tensor.clone() for tensor in ema._trained]


def lag_average(step: TrainStep) -> None:
    """It sees each step's weights one step late."""
    ema, taken = step.learner.ema, step.update
    living = ema._trained

    def update(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        ema._trained = [tensor.clone() for tensor in living]
        return taken(*inputs)

    step.update = update


def halve_rate(step: TrainStep) -> None:
    step.learner.optimizer.register_step_pre_hook(
        lambda optimizer, *_: optimizer.param_groups[0].update(lr=5e-3)
    )


Plant = Callable[[TrainStep], None]
Measure = Callable[..., tuple[Errors, Errors, torch.dtype]]


@pytest.fixture(scope="module")
def measured(open_run: Callable[..., Experiment], tmp_path_factory: Any) -> Measure:
    """What is found of a planted step, and of the plain one; `clip_norm` and warm-up as of a run.

    The same plain step serves all tests of a precision.
    """
    task = open_run(tmp_path_factory.mktemp("run"), training={"ema_warmup": True}).task(1)
    shops: dict[torch.dtype | None, tuple[StepWorkshop, Errors]] = {}

    def measure(
        dtype: torch.dtype | None, plant: Plant | None = None, form: StepForm = PLAIN
    ) -> tuple[Errors, Errors, torch.dtype]:
        if dtype not in shops:
            shop = StepWorkshop(task, replace(EAGER, autocast_dtype=dtype))
            shops[dtype] = shop, shop.prepare(PLAIN).errors()
        shop, plain = shops[dtype]
        if plant is None and form == PLAIN:
            return plain, plain, shop.products
        trial = shop.prepare(form)
        if plant is not None:
            plant(trial.step)
        return trial.errors(), plain, shop.products

    return measure


@PRECISIONS
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (drop_bias, "its gradient of segmentation_head.0.bias is 1.00 off"),
        (scale_loss, "its loss is 0.01"),
        (stop_average, "its weight average is"),
        (lag_average, "its weight average is"),
        (halve_rate, "its update of the weights is 0.500 off"),
    ],
)
def test_a_planted_fault_is_found(
    plant: Plant, told: str, dtype: torch.dtype | None, measured: Measure
) -> None:
    found = fault(*measured(dtype, plant))
    assert found is not None
    assert found.startswith(told)


def test_any_bias_whose_gradient_is_dropped_is_named(measured: Measure) -> None:
    found, plain, products = measured(torch.bfloat16)
    for name, error in found.tensors.items():
        if name.endswith("bias"):
            dropped = found._replace(tensors={**found.tensors, name: max(error, 1.0)})
            told = fault(dropped, plain, products)
            assert told is not None, name
            assert name in told


@PRECISIONS
@pytest.mark.parametrize("form", [PLAIN, PLAIN.at("optimizer", "foreach")], ids=StepForm.told)
def test_an_honest_form_is_let_pass(
    form: StepForm, dtype: torch.dtype | None, measured: Measure
) -> None:
    assert fault(*measured(dtype, None, form)) is None


def test_parts_of_a_batch_give_its_gradient(make_task: Callable[..., FoldTask]) -> None:
    task = make_task(model={"encoder": "test_convnext"}, training={"batch_size": 4})
    shop = StepWorkshop(task, EAGER)
    plain = shop.prepare(PLAIN).errors()
    assert fault(shop.prepare(PLAIN.at("parts", 2)).errors(), plain, shop.products) is None


def test_what_is_no_number_is_no_small_error(measured: Measure) -> None:
    found, plain, products = measured(None)
    assert fault(found._replace(loss=float("nan")), plain, products) == (
        "its loss is nan off, 0.000100 allowed"
    )


def test_the_tuner_throws_out_what_is_wrong_and_takes_the_fastest_of_the_rest(
    make_task: Callable[..., FoldTask],
) -> None:
    plants: dict[str, tuple[Plant | None, float]] = {
        "plain": (None, 10.0),
        "optimizer = foreach": (None, 8.0),
        "cudnn = race": (drop_bias, 5.0),
        "parts = 2": (scale_loss, 5.0),
        "parts = 4": (stop_average, 5.0),
    }
    now_s = 0.0

    class Trial(StepTrial):
        seconds = 1.0

        def run(self) -> None:
            nonlocal now_s
            now_s += self.seconds / 100

    class Planted(StepWorkshop):
        def prepare(self, form: StepForm) -> StepTrial:
            axis = next((a for a in form.departures() if a != "optimizer"), "optimizer")
            told = PLAIN.at(axis, getattr(form, axis)).told()
            plant, seconds = plants[told]
            made = super().prepare(PLAIN)
            if plant is not None:
                plant(made.step)
            trial = Trial(made.step, made.batches, made.start, made.truth)
            trial.seconds = seconds
            return trial

    options: Options = {
        "optimizer": ("fused", "foreach"),
        "cudnn": ("heuristic", "race"),
        "parts": (1, 2, 4),
    }
    tuned = Tuner(Planted(make_task(), EAGER), lambda: now_s).tune(options)
    assert tuned.form == PLAIN.at("optimizer", "foreach")
    thrown = {tried.form.told(): tried.fault for tried in tuned.tried if tried.fault}
    assert {name: told.partition(" is ")[0] for name, told in thrown.items() if told} == {
        "optimizer = foreach, cudnn = race": "its gradient of segmentation_head.0.bias",
        "optimizer = foreach, parts = 2": "its loss",
        "optimizer = foreach, parts = 4": "its weight average",
    }
