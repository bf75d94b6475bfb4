"""Which options of a step's form are to be had in a fold, and which of them are worth measuring."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from engine.model.fused import Fusions, fuse, fusions_of
from engine.model.network import Network
from engine.runtime.device import DevicePolicy
from engine.runtime.forms import AXES, PLAIN, StepForm
from engine.training.loop import FoldTask

Options = Mapping[str, tuple[str | int, ...]]
"""Of each axis that is tried, in the order of descent; the first is where it begins."""


def options(task: FoldTask, policy: DevicePolicy) -> Options:
    """What is worth measuring in a fold.

    On a CPU only what gives the same bytes as the plain form would be, and of today's axes none
    does: convolutions, products and sums are rounded in another order. What the config names
    (`runtime.compile`, `training.accumulate`) stays as it is named.
    """
    if policy.device.type != "cuda":
        return {}
    found: dict[str, tuple[str | int, ...]] = {}
    for axis, known in AXES.items():
        there = (o for o in known if obstacle(PLAIN.at(axis, o), task, policy) is None)
        found[axis] = tuple(there)
    asked = task.config.runtime.compile
    if asked != "auto":
        found["compile"] = ("off",) if asked == "off" else ("on", "channels_last")
    if task.config.training.accumulate > 1:
        found["parts"] = (1,)
    return {axis: there for axis, there in found.items() if len(there) > 1 or axis == "compile"}


def obstacle(form: StepForm, task: FoldTask, policy: DevicePolicy) -> str | None:
    """Why a form cannot be had in a fold; None if it can."""
    gpu_only = {"cudnn": "race", "optimizer": "one_pass", **dict.fromkeys(vars(Fusions()), "on")}
    for axis, option in gpu_only.items():
        if getattr(form, axis) == option and policy.device.type != "cuda":
            return f"{axis} = {option} needs a GPU, and this is {policy.device}"
    if form.cudnn == "race" and policy.deterministic:
        return "cudnn = race may choose otherwise in each run: not with runtime.deterministic"
    if (why := _unfused(form, task)) is not None:
        return why
    if form.parts > 1:
        images = task.batch_size // task.config.training.accumulate
        if images % form.parts:
            return f"parts = {form.parts} do not divide the {images} images that pass together"
        if (why := _of_the_whole(task)) is not None:
            return f"parts = {form.parts} would change more than rounding: {why}"
    return None


def _unfused(form: StepForm, task: FoldTask) -> str | None:
    """Why a network has not the fused parts of a form; None if it has, or none is asked for."""
    for axis in (axis for axis, there in vars(fusions_of(form)).items() if there):
        done = fuse(_network(task), Fusions(**{axis: True}))
        if not (done.blocks or done.norms or done.group_norms or done.heads):
            return f"{axis} = on, and no part of {task.config.model.encoder} has that form"
    return None


def _network(task: FoldTask) -> Network:
    with torch.device("meta"):
        return Network(task.config.model, len(task.config.data.classes))


def _of_the_whole(task: FoldTask) -> str | None:
    """What of a network looks at the whole batch, or draws in its order."""
    for name, module in _network(task).named_modules():
        if isinstance(module, _BatchNorm):
            return f"{name} normalises over the batch"
        if _draws(module):
            return f"{name} draws at random"
    return None


def _draws(module: nn.Module) -> bool:
    """Whether a module drops something, as torch's and timm's do."""
    rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "drop_prob", 0.0)
    return isinstance(rate, float) and rate > 0
