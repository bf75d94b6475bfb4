"""A training step on tensors without content: what each of its operations reads and writes."""

import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from benchmarks.op_bytes import CASTS, DEPTHWISE, FUSED, NORMS, POINTWISE, MovedBytes
from engine.config import Config
from engine.data.batch import Batch
from engine.model.fused import Fusions, fuse
from engine.model.network import Network, Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training import step

PASSES = (POINTWISE, NORMS, CASTS, FUSED)
"""Kinds that fusing is for. A fused pass counts among them with all that it moves, also where it
does a convolution's work that in the plain form is counted elsewhere."""

_CPU = torch.device("cpu")
"""Where tensors without content say they are: on a GPU autograd would ask its driver."""

_ALL = Fusions(**{part.name: True for part in fields(Fusions)})

_FORMS: dict[str, tuple[Fusions, bool, torch.dtype]] = {
    "plain": (Fusions(), False, torch.float32),
    "one-pass": (Fusions(), True, torch.float32),
    "fused": (_ALL, True, torch.bfloat16),
}
"""By name, the fused parts of the network, whether the optimiser works in one pass, and the image,
which `crop_resize` writes as the network reads it, low."""


def count(config: Config, form: str) -> MovedBytes:
    """What one step of an experiment moves in a form, and by which calls."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        # The optimiser in one pass asks whether its tensors are where they were.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        update, batch = _prepared(config, form)
        # The first step makes the optimiser's state.
        update(batch, 1e-4, 0, 0)
        moved = MovedBytes()
        with moved:
            update(batch, 1e-4, 1, 1)
    return moved


def table(counted: dict[str, MovedBytes]) -> str:
    """Gigabytes and calls by kind, a column a form; below, the passes that fusing is for."""
    kinds = sorted({k for m in counted.values() for k in m.bytes}, key=_most(counted), reverse=True)
    lines = [f"{'':24}" + "".join(f"{form:>22}" for form in counted)]
    for kind in kinds:
        cells = (f"{m.bytes[kind] / 1e9:9.2f} GB {m.calls[kind]:5d} x" for m in counted.values())
        lines.append(f"{kind:24}" + "".join(f"{cell:>22}" for cell in cells))
    plain, *_ = counted.values()
    passes = (*PASSES, DEPTHWISE)
    sums_of = {"all": kinds, "what fusing is for": PASSES, "... and depthwise": passes}
    for name, of in sums_of.items():
        sums = [sum(m.bytes[kind] for kind in of) for m in counted.values()]
        whole = sum(plain.bytes[kind] for kind in of)
        shares = (f"{moved / 1e9:9.2f} GB {100 * moved / whole:5.1f} %" for moved in sums)
        lines.append(f"{name:24}" + "".join(f"{cell:>22}" for cell in shares))
    return "\n".join(lines)


def _most(counted: dict[str, MovedBytes]) -> Callable[[str], int]:
    return lambda kind: max(moved.bytes[kind] for moved in counted.values())


def _prepared(config: Config, form: str) -> tuple[step.TrainStep, Batch]:
    """A step whose tensors have no content, and a batch for it."""
    fusions, one_pass, dtype = _FORMS[form]

    def make() -> Network:
        with unset_fake_temporarily(), torch.device("meta"):
            network = Network(config.model, len(config.data.classes))
        for module in network.modules():
            for held, name, tensor in _held(module):
                layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
                value = torch.empty_like(tensor, device=_CPU, memory_format=layout)
                held[name] = nn.Parameter(value) if held is module._parameters else value
        return network

    network = make().train()
    fuse(network, fusions)
    training = config.training
    # A copy of a tensor without content reads the memory that it does not have.
    with mock.patch("copy.deepcopy", return_value=make()):
        ema = step.Ema(network, training.ema_decay, warmup=training.ema_warmup)
    optimizer = step.make_optimizer(network, training, ema if one_pass else None)
    learner = step.Learner(network, ema, optimizer, step.EpochSums(_CPU))
    operations = choose_operations("fused", _CPU)
    policy = DevicePolicy(_CPU, torch.bfloat16, compile=False, operations=operations)
    loss = step.TrainingLoss(training, torch.empty(len(config.data.classes)), operations)
    made = step.TrainStep(learner, loss, policy, 0)
    made.forward = _as_on_a_gpu(made.forward)
    B, (H, W) = training.batch_size, config.data.crop_hw
    image = torch.empty(B, config.model.in_channels, H, W, dtype=dtype)
    image = image.to(memory_format=torch.channels_last)
    label = torch.empty(B, H, W, dtype=torch.uint8)
    return made, Batch(image, torch.empty(B, H, W), label, np.arange(B))


def _held(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """A module's own parameters and buffers: where it holds them, under which name."""
    holders: list[dict[str, Any]] = [module._parameters, module._buffers]
    return [
        (held, name, tensor)
        for held in holders
        for name, tensor in held.items()
        if tensor is not None
    ]


def _as_on_a_gpu(forward: Callable[[Tensor], Prediction]) -> Callable[[Tensor], Prediction]:
    """The pass with a GPU's casts, and with the operations that our modules choose there."""

    def call(image_BCHW: Tensor) -> Prediction:
        with mock.patch("kernels.gpu.uses_triton", return_value=True), _GpuCasts():
            return forward(image_BCHW)

    return call


_NORMS = (torch.layer_norm, torch.group_norm, F.layer_norm, F.group_norm)


class _GpuCasts(TorchFunctionMode):
    """Norms take float32 under autocast, as on CUDA and not on a CPU (torch.amp's lists)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        first, *others = args or (None,)
        if func in _NORMS and torch.is_autocast_enabled("cpu"):
            first = first.float()
        return func(first, *others, **(kwargs or {})) if args else func(**(kwargs or {}))


def parameters_of(config: Config) -> list[int]:
    """Elements of each parameter."""
    with torch.device("meta"):
        network = Network(config.model, len(config.data.classes))
    return [parameter.numel() for parameter in network.parameters()]
