"""The form of a training step by coordinate descent: measure, check, keep to a budget."""

import logging
import statistics
from collections.abc import Callable
from typing import Protocol

import torch
from pydantic import Field

from engine.rundir import Record
from engine.runtime.forms import PLAIN, StepForm
from engine.training.tuning.check import Errors, fault
from engine.training.tuning.options import Options

_log = logging.getLogger(__name__)

MEASURING_S, PREPARING_S = 60.0, 240.0
"""What measuring may take, and, apart, building, compiling and recording what is measured."""

TIMED = 7
"""Steps of which the median counts."""

SLOW = 2.0
"""A form whose first step takes so many times the fastest form's is not measured on."""

GAIN = 0.02
"""Share of a step's time that a form has to save to be taken."""


_SPENT = f"{MEASURING_S:.0f} s of measuring are spent"


class Trial(Protocol):
    """A step in one form, compiled and recorded."""

    def run(self) -> None:
        """Take a whole step, and wait for it."""

    def errors(self) -> Errors:
        """How far it is from float32 over fixed batches."""


class Workshop(Protocol):
    """Where forms are made to be tried; a trial is done with when the next one is prepared."""

    products: torch.dtype
    """What the network computes in."""

    def prepare(self, form: StepForm) -> Trial:
        """Build, compile and record; a RuntimeError says why this machine cannot."""


class Tried(Record):
    """What was found of a form."""

    form: StepForm
    step_ms: float | None = None
    """Median; None if no step was timed."""
    loss: float | None = None
    """Distance from float32, relative, over three batches; None if it was not checked."""
    gradient: float | None = None
    """Likewise, L2."""
    fault: str | None = None
    """Why it is not taken however fast it is, or why it was not tried."""


class Tuned(Record):
    """A chosen form and its figures: a file of the cache, of a fold, or one that is given."""

    form: StepForm
    machine: dict[str, str] = Field(default_factory=dict)
    """What the choice depends on, by name."""
    tried: list[Tried] = Field(default_factory=list)
    measuring_s: float = 0.0
    preparing_s: float = 0.0
    offer: str | None = None
    """What would be faster and is another experiment's rounding: to be asked for by name."""


class Tuner:
    """Tries forms of a step on a clock; each form once."""

    def __init__(
        self, workshop: Workshop, clock: Callable[[], float], *, same_bytes: bool = False
    ) -> None:
        """With `same_bytes` a form has to leave the plain one's weights to the byte."""
        self.workshop, self.clock, self.same_bytes = workshop, clock, same_bytes
        self.measuring_s = self.preparing_s = 0.0
        self._tried: dict[str, Tried] = {}
        self._plain: Errors | None = None
        self._fastest_s = float("inf")
        # The longest so far: measuring, the check of it, and preparing by whether that compiles.
        self._longest_s = self._checked_s = 0.0
        self._prepared_s = {True: 0.0, False: 0.0}

    def tune(self, options: Options, default: StepForm = PLAIN) -> Tuned:
        """Descend along the axes until none gains; what gains too little leaves the `default`.

        An error of the plain form itself is raised, and so is a ValueError where it cannot be held
        to float32.
        """
        plain = self.time(PLAIN)
        if plain.fault is not None:
            raise ValueError(f"the plain form of the step cannot be trusted: {plain.fault}")
        begun = PLAIN
        for axis, there in options.items():
            begun = begun.at(axis, there[0])
        start, now = self.time(default), self.time(begun)
        now = now if now.fault is None else plain
        gained = True
        while gained:
            gained = False
            for axis, there in options.items():
                best = min((self.time(now.form.at(axis, o)) for o in there), key=_time_of)
                if _time_of(best) < (1 - GAIN) * _time_of(now):
                    now, gained = best, True
        if _time_of(start) * (1 - GAIN) <= _time_of(now) and start.fault is None:
            now = start
        self._tell(now, start)
        return Tuned(
            form=now.form,
            tried=list(self._tried.values()),
            measuring_s=round(self.measuring_s, 3),
            preparing_s=round(self.preparing_s, 3),
        )

    def time(self, form: StepForm) -> Tried:
        """Measure and check a form, or say why not."""
        if form.told() not in self._tried:
            found = self._tried[form.told()] = self._try(form)
            _log.info("tune: %s: %s", form.told(), _told(found))
        return self._tried[form.told()]

    def _try(self, form: StepForm) -> Tried:
        compiles = form.compile != "off"
        if self.measuring_s + self._longest_s > MEASURING_S:
            return Tried(form=form, fault=_SPENT)
        if self.preparing_s + self._prepared_s[compiles] > PREPARING_S:
            return Tried(form=form, fault=f"{PREPARING_S:.0f} s of preparing are spent")
        try:
            trial = self._prepare(form)
            return self._measure(form, trial)
        except RuntimeError as error:
            if form == PLAIN:
                raise
            return Tried(form=form, fault=f"it cannot be had here: {_first_line(error)}")

    def _prepare(self, form: StepForm) -> Trial:
        begun_s, compiles = self.clock(), form.compile != "off"
        try:
            return self.workshop.prepare(form)
        finally:
            spent_s = self.clock() - begun_s
            self.preparing_s += spent_s
            self._prepared_s[compiles] = max(self._prepared_s[compiles], spent_s)

    def _measure(self, form: StepForm, trial: Trial) -> Tried:
        begun_s, seconds = self.clock(), list[float]()
        try:
            while len(seconds) < TIMED:
                before_s = self.clock()
                trial.run()
                seconds.append(self.clock() - before_s)
                if seconds[0] > SLOW * self._fastest_s:
                    return Tried(form=form, step_ms=_ms(seconds), fault="its first step was slow")
                spent_s = self.measuring_s + self.clock() - begun_s
                if form != PLAIN and spent_s + self._checked_s > MEASURING_S:
                    return Tried(form=form, fault=_SPENT)
            before_s = self.clock()
            found = trial.errors()
            self._checked_s = max(self._checked_s, self.clock() - before_s)
        finally:
            spent_s = self.clock() - begun_s
            self.measuring_s += spent_s
            self._longest_s = max(self._longest_s, spent_s)
        self._plain = self._plain or found
        told = fault(found, self._plain, self.workshop.products)
        if told is None and self.same_bytes and found.digest != self._plain.digest:
            told = "it does not leave the plain form's bytes"
        if told is None:
            self._fastest_s = min(self._fastest_s, statistics.median(seconds))
        return Tried(
            form=form, step_ms=_ms(seconds), loss=found.loss, gradient=found.gradient, fault=told
        )

    def _tell(self, chosen: Tried, default: Tried) -> None:
        gain = ""
        if chosen is not default and chosen.step_ms and default.step_ms:
            saved = 1 - chosen.step_ms / default.step_ms
            gain = f", {saved:.1%} less than {default.form.told()}"
        _log.info(
            "tune: chose %s, %.2f ms a step%s; measured for %.0f s of %.0f, prepared and compiled "
            "for %.0f s of %.0f",
            *(chosen.form.told(), chosen.step_ms or 0.0, gain),
            *(self.measuring_s, MEASURING_S, self.preparing_s, PREPARING_S),
        )


def _time_of(tried: Tried) -> float:
    """Milliseconds of a form that may be taken; infinite of any other."""
    return tried.step_ms if tried.step_ms is not None and tried.fault is None else float("inf")


def _told(found: Tried) -> str:
    if found.step_ms is None:
        return f"not measured, {found.fault}"
    took = f"{found.step_ms:.2f} ms a step"
    return took if found.fault is None else f"{took}, thrown out: {found.fault}"


def _ms(seconds: list[float]) -> float:
    return round(1000 * statistics.median(seconds), 4)


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
