"""`parity.json`: how far the training step that ran is from eager float32, on fixed batches.

The batches are the first of fold 0's first epoch, the weights its best ones, so that any process
finds the same figures whenever it asks. Where the step that ran is eager float32 there is nothing
to compare, and nothing is computed.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.batch import Batch
from engine.model.network import load_best
from engine.report.parity_report import Parity, WorstTensor
from engine.runtime.device import DevicePolicy, operations_of
from engine.runtime.forms import PLAIN
from engine.runtime.gpu import true_float32
from engine.runtime.recorded import RecordedRuntime
from engine.training.loop import FoldTask, FoldTraining
from engine.training.tuning.check import Weights, errors, passed
from engine.training.tuning.tuner import Tuned
from engine.training.tuning.workshop import fixed_batches, float32, own_randomness, undisturbed
from kernels.metrics import mean_iou


def compare_with_float32(task: FoldTask, policy: DevicePolicy, began: RecordedRuntime) -> Parity:
    """Compare the step that trained a fold, whose best weights are there, with eager float32.

    Args:
        task: the fold.
        policy: what this call runs on.
        began: what the fold's steps ran on.
    """
    if not len(task.validation):
        none = "it is compared on frames that are held out, and none are"
        return Parity(step=str(policy.device), compared=False, why_not=none)
    path, ran = task.run.step_form(task.fold), _as_it_ran(policy, began)
    if path.exists():
        ran = ran.formed(Tuned.read(path).form)
    form = ran.form.told() if path.exists() or not ran.compile else "compile = on"
    precision = "fp32" if ran.autocast_dtype is None else "bf16"
    told = f"{ran.device}, {precision}, {form}{', replayed' if ran.replay else ''}"
    if (why_not := _nothing_to_compare(task, ran, began)) is not None:
        return Parity(step=told, compared=False, why_not=why_not)
    try:
        with own_randomness(policy):
            return _compared(undisturbed(task), ran, told)
    except torch.OutOfMemoryError:
        return Parity(step=told, compared=False, why_not="float32 does not fit the GPU's memory")


def _as_it_ran(policy: DevicePolicy, began: RecordedRuntime) -> DevicePolicy:
    """This call's policy with what a fold began with; what was left open then is as it is now."""

    def switched(said: str, now: bool) -> bool:
        return now if said == "auto" else said == "on"

    return replace(
        policy,
        autocast_dtype={"fp32": None, "bf16": torch.bfloat16}.get(
            began.precision, policy.autocast_dtype
        ),
        compile=switched(began.compile, policy.compile),
        replay=switched(began.cuda_graphs, policy.replay) and policy.device.type == "cuda",
        operations=operations_of(began.kernels),
        deterministic=began.deterministic,
        own_layers=began.layers == "fused" and policy.device.type == "cpu",
    )


def _nothing_to_compare(task: FoldTask, ran: DevicePolicy, began: RecordedRuntime) -> str | None:
    if not task.config.training.epochs:
        return "no step was trained: the weights are as they came"
    there = ran.device.type if began.device == "auto" else torch.device(began.device).type
    if there != ran.device.type:
        return f"the fold was trained on {began.device}, and this call is on {ran.device}"
    # A GPU's float32 rounds to TF32, and is recorded.
    if there == "cpu" and ran.autocast_dtype is None and not ran.compile and ran.form == PLAIN:
        return "the step that ran is eager float32"
    return None if task.run.best(task.fold).exists() else "the fold's weights are gone"


class _Seen(NamedTuple):
    """What a step makes of the same weights."""

    logits: list[Tensor]
    """(B, C, h, w) float32 of each batch, on the CPU."""
    miou: float


def _compared(task: FoldTask, ran: DevicePolicy, told: str) -> Parity:
    # One after the other: memory may not hold both.
    with true_float32():
        plain = FoldTraining(task, float32(ran), blank=True)
        load_best(plain.learner.network, task.run.best(task.fold))
        state = plain.learner.network.state_dict()
        start = {name: tensor.cpu().clone() for name, tensor in state.items()}
        batches = fixed_batches(plain)
        truth, true = passed(plain.step, batches, start), _see(plain, batches, start)
        del plain, state
    fold = FoldTraining(task, ran, blank=True)
    found, seen = errors(fold.step, batches, start, truth), _see(fold, batches, start)
    name, worst = found.worst
    return Parity(
        step=told,
        compared=True,
        batches=len(batches),
        loss=found.loss,
        gradient=found.gradient,
        worst_tensor=WorstTensor(name=name, error=worst),
        logits=_distance(seen.logits, true.logits),
        miou=seen.miou,
        miou_float32=true.miou,
    )


def _see(fold: FoldTraining, batches: list[Batch], start: Weights) -> _Seen:
    for network in (fold.learner.network, fold.learner.ema.network):
        network.load_state_dict(start)
    logits = []
    for batch in batches:
        # With gradients, as in a step: compiled without, it would be another program.
        with fold.policy.autocast():
            prediction = fold.step.forward(batch.image_BCHW)
        logits.append(prediction.logits_BChw.detach().float().cpu())
    samples, task = fold.task.dataset.train.samples, fold.task
    return _Seen(logits, mean_iou(fold.predictor.confusion([samples[i] for i in task.validation])))


def _distance(found: list[Tensor], true: list[Tensor]) -> float:
    far, size = torch.zeros(2, dtype=torch.float64)
    for one, other in zip(found, true, strict=True):
        far += (one.double() - other.double()).square().sum()
        size += other.double().square().sum()
    return math.sqrt(far / size)
