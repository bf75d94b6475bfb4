"""The tuner on a made-up clock: what it takes, what it leaves, and what it spends."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch

from engine.runtime.forms import PLAIN, StepForm
from engine.training.tuning.check import Errors
from engine.training.tuning.options import Options
from engine.training.tuning.tuner import MEASURING_S, PREPARING_S, Tuned, Tuner

EXACT = Errors(1e-6, 1e-5, {"weight": 1e-5}, 0.0, 0.0, "bytes")
FOREACH, RACE = PLAIN.at("optimizer", "foreach"), PLAIN.at("cudnn", "race")
AXES: Options = {
    "optimizer": ("fused", "foreach"),
    "cudnn": ("heuristic", "race"),
    "compile": ("off", "on", "channels_last"),
}


@dataclass
class Machine:
    """A clock, and a workshop whose steps take the seconds that they are said to."""

    step_s: Mapping[str, float]
    prepare_s: Mapping[str, float] = field(default_factory=dict)
    errors_s: float = 0.0
    found: Mapping[str, Errors] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    products: torch.dtype = torch.float32
    now_s: float = 0.0
    prepared: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def prepare(self, form: StepForm) -> "Step":
        self.prepared.append(form.told())
        self.now_s += self.prepare_s.get(form.told(), 0.0)
        if form.told() in self.refused:
            raise RuntimeError(self.refused[form.told()])
        return Step(self, form.told())


@dataclass
class Step:
    machine: Machine
    form: str

    def run(self) -> None:
        self.machine.now_s += self.machine.step_s.get(self.form, 1.0)

    def errors(self) -> Errors:
        self.machine.now_s += self.machine.errors_s
        return self.machine.found.get(self.form, EXACT)


def tune(machine: Machine, options: Options = AXES, default: StepForm = PLAIN) -> Tuned:
    return Tuner(machine, machine).tune(options, default)


def faults(tuned: Tuned) -> dict[str, str]:
    return {tried.form.told(): tried.fault for tried in tuned.tried if tried.fault}


def test_the_fastest_form_is_reached_axis_by_axis() -> None:
    machine = Machine(
        {
            "plain": 0.040,
            "optimizer = foreach": 0.041,
            "cudnn = race": 0.036,
            "cudnn = race, compile = on": 0.030,
            "cudnn = race, compile = channels_last": 0.025,
        }
    )
    tuned = tune(machine)
    assert tuned.form == RACE.at("compile", "channels_last")
    times = {tried.form.told(): tried.step_ms for tried in tuned.tried}
    assert times["plain"] == pytest.approx(40)
    assert times["cudnn = race, compile = channels_last"] == pytest.approx(25)
    # Once each, and after the last gain the other axes again, from there.
    assert len(machine.prepared) == len(set(machine.prepared)) == 7


def test_an_axis_that_pays_only_with_another_is_found_in_the_second_round() -> None:
    both = FOREACH.at("compile", "on")
    machine = Machine({"plain": 0.040, "compile = on": 0.030, both.told(): 0.020})
    assert tune(machine).form == both


@pytest.mark.parametrize(("step_s", "taken"), [(0.0981, False), (0.0979, True)])
def test_a_gain_below_two_percent_is_not_taken(step_s: float, taken: bool) -> None:
    tuned = tune(Machine({"plain": 0.1, "cudnn = race": step_s}), {"cudnn": AXES["cudnn"]})
    assert (tuned.form == RACE) == taken


def test_the_default_stays_where_the_descent_ends_no_better() -> None:
    compiled = PLAIN.at("compile", "on")
    step_s = {"plain": 0.040, "compile = on": 0.030, "cudnn = race": 0.0297}
    assert tune(Machine(step_s), {"cudnn": AXES["cudnn"]}, compiled).form == compiled
    step_s["cudnn = race"] = 0.029
    assert tune(Machine(step_s), {"cudnn": AXES["cudnn"]}, compiled).form == RACE


def test_the_median_of_seven_counts() -> None:
    machine = Machine({"plain": 0.010})
    late = iter([0.0, 0.0, 5.0, 0.0, 0.0, 3.0, 0.0])

    class Uneven(Step):
        def run(self) -> None:
            machine.now_s += 0.010 + next(late)

    machine.prepare = lambda form: Uneven(machine, form.told())  # type: ignore[method-assign]
    tuned = tune(machine, {})
    assert tuned.tried[0].step_ms == pytest.approx(10)
    assert next(late, None) is None


def test_a_form_that_is_further_off_than_half_as_much_again_is_named_with_how_far(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = Errors(1e-2, 2e-2, {"weight": 2e-2}, 0.0, 0.0)
    near, far = (plain._replace(gradient=error) for error in (2.99e-2, 3.01e-2))
    both = FOREACH.at("cudnn", "race").told()
    machine = Machine(
        {"plain": 0.040, "optimizer = foreach": 0.030, both: 0.010},
        found={"plain": plain, "optimizer = foreach": near, both: far},
        products=torch.bfloat16,
    )
    with caplog.at_level(logging.INFO, logger="engine"):
        tuned = tune(machine, {axis: AXES[axis] for axis in ("optimizer", "cudnn")})
    assert tuned.form == FOREACH
    told = "its gradient is 0.0301 off, 0.0300 allowed"
    assert faults(tuned) == {"optimizer = foreach, cudnn = race": told}
    lines = [record.getMessage() for record in caplog.records]
    assert f"tune: optimizer = foreach, cudnn = race: 10.00 ms a step, thrown out: {told}" in lines


def test_a_form_that_a_machine_refuses_is_named_and_the_plain_ones_error_is_raised() -> None:
    machine = Machine({}, refused={"cudnn = race": "out of memory\nat line 3"})
    tuned = tune(machine, {"cudnn": AXES["cudnn"]})
    assert tuned.form == PLAIN
    assert faults(tuned) == {"cudnn = race": "it cannot be had here: out of memory"}
    with pytest.raises(RuntimeError, match="no GPU"):
        tune(Machine({}, refused={"plain": "no GPU"}))


def test_measuring_keeps_to_its_seconds_and_says_what_it_did_not_try() -> None:
    machine = Machine({"plain": 1.0, "compile = on": 1.2}, errors_s=8.0)
    tuned = tune(machine)
    assert tuned.measuring_s == pytest.approx(machine.now_s)
    assert machine.now_s <= MEASURING_S
    # The plain one and two more take 15 seconds each; the next turns out to need more.
    told = "60 s of measuring are spent"
    assert faults(tuned) == {"compile = on": told, "compile = channels_last": told}
    assert machine.prepared[-1] == "compile = on"


def test_a_form_that_is_much_slower_costs_one_step() -> None:
    machine = Machine({"plain": 1.0, "cudnn = race": 2.5})
    tuned = tune(machine, {"cudnn": AXES["cudnn"]})
    assert machine.now_s == 7 + 2.5
    assert faults(tuned) == {"cudnn = race": "its first step was slow"}


def test_compiling_keeps_to_its_own_seconds_and_leaves_those_of_measuring() -> None:
    machine = Machine({}, prepare_s={"compile = on": 130.0, "compile = channels_last": 130.0})
    tuned = tune(machine)
    assert tuned.preparing_s == 130.0 <= PREPARING_S
    assert faults(tuned) == {"compile = channels_last": "240 s of preparing are spent"}
    # What is not compiled is tried on.
    assert "optimizer = foreach" in machine.prepared


def test_the_choice_is_told_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine({"plain": 0.040, "cudnn = race": 0.030}, {"cudnn = race": 3.0})
    with caplog.at_level(logging.INFO, logger="engine"):
        tune(machine, {"cudnn": AXES["cudnn"]})
    assert [record.getMessage() for record in caplog.records] == [
        "tune: plain: 40.00 ms a step",
        "tune: cudnn = race: 30.00 ms a step",
        "tune: chose cudnn = race, 30.00 ms a step, 25.0% less than plain; measured for 0 s of 60, "
        "prepared and compiled for 3 s of 240",
    ]


def test_where_bytes_have_to_stay_a_form_that_leaves_others_is_thrown_out() -> None:
    machine = Machine(
        {"plain": 1.0, "optimizer = foreach": 0.5, "cudnn = race": 0.6},
        found={"optimizer = foreach": EXACT._replace(digest="others")},
    )
    options = {axis: AXES[axis] for axis in ("optimizer", "cudnn")}
    tuned = Tuner(machine, machine, same_bytes=True).tune(options)
    assert tuned.form == RACE
    assert faults(tuned)["optimizer = foreach"] == "it does not leave the plain form's bytes"
