"""Batch norms whose statistics are those of all processes' rows, for `training.reduce = "fast"`.

Put in from outside, as `engine.model.on_cpu` does: only the class of a module changes.
"""

import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.model.on_cpu import BOUNDS, TAKEN, BatchNormClamp
from kernels.batch_norm import BatchNorm
from kernels.batch_norm.everywhere import (
    Add,
    Running,
    batch_norm_clamp_everywhere,
    batch_norm_everywhere,
)


def use_global_norms(network: nn.Module, add: Add) -> int:
    """Let every batch norm of `network` train on the rows of all processes; returns how many.

    In place; parameters and state-dict keys are untouched, and in evaluation nothing changes. From
    then on all processes have to run the same layers in the same order, and none may be traced or
    recorded.

    Args:
        network: a layer that is known neither to PyTorch nor here is a ValueError.
        add: adds a float64 vector up over all processes, in place; a function, not a method, for a
            network is copied with it.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    unknown = sorted({type(norm).__name__ for norm in norms if type(norm) not in _GLOBAL})
    if unknown:
        raise ValueError(
            f"training.reduce = 'fast' has no statistics over all processes for the layers "
            f"{', '.join(unknown)} of this encoder; --training.reduce tree has no need of them"
        )
    for norm in norms:
        norm.__class__ = _GLOBAL[type(norm)]
        norm.add = add  # type: ignore[assignment]
    return len(norms)


def has_global_norms(network: nn.Module) -> bool:
    """Whether `use_global_norms` changed a layer of it."""
    return any(type(module) in _GLOBAL.values() for module in network.modules())


class _Global(nn.BatchNorm2d):
    add: Add

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x) if self.training else super().forward(x)


class _GlobalAct(BatchNormAct2d):
    add: Add

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            evaluated: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return evaluated
        activated: Tensor = self.act(self.drop(_normalised(self, x)))
        return activated


class _GlobalClamp(BatchNormClamp):
    add: Add

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if x.dtype not in TAKEN:
            return F.hardtanh(_normalised(self, x), *BOUNDS[type(self.act)])
        running = _counted(self)
        assert running is not None  # or it were no usual one
        norm = BatchNorm(self.weight, self.bias, *running, self.eps)
        return batch_norm_clamp_everywhere(x, norm, *BOUNDS[type(self.act)], self.add)


_GLOBAL: dict[type[_BatchNorm], type[_BatchNorm]] = {
    nn.BatchNorm2d: _Global,
    BatchNormAct2d: _GlobalAct,
    BatchNormClamp: _GlobalClamp,
}


def _normalised(norm: "_Global | _GlobalAct | _GlobalClamp", x: Tensor) -> Tensor:
    return batch_norm_everywhere(x, norm.weight, norm.bias, _counted(norm), norm.eps, norm.add)


def _counted(norm: nn.BatchNorm2d) -> Running | None:
    """What is to be updated by this batch, which is counted, as PyTorch does."""
    mean_C, variance_C, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if not norm.track_running_stats or mean_C is None or variance_C is None:
        return None
    if batches is not None:
        batches.add_(1)
    if norm.momentum is not None:
        return Running(mean_C, variance_C, norm.momentum)
    assert batches is not None  # PyTorch makes it with the others
    return Running(mean_C, variance_C, 1.0 / float(batches))
