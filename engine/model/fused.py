"""Fused forms of a network's parts, put in from outside: timm stays the model.

    fused = fuse(network, Fusions(norm=True, layer_scale=True))     # and back: Fusions()

Only the class of a module changes, so parameters, their names, hooks, copies and checkpoints stay
what they were, and `torch.compile` and a recorded step see other code: whoever holds one of these
makes it anew.

Shapes: B batch, C channels, H W cells of a stage.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm, LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from engine.model.fpn import FpnDecoder
from engine.model.network import Network
from engine.runtime.forms import StepForm
from kernels.depthwise_norm import depthwise_norm, depthwise_norm_with_residual
from kernels.linear import linear
from kernels.scaled_weight import scaled_weight


@dataclass(frozen=True)
class Fusions:
    """Which parts of a network run in fused form, each by itself; all off is timm's network.

    "Low" is the dtype of the autocast that a pass runs under; without one nothing is rounded, and
    the parts differ from timm's by the order of their sums alone.
    """

    depthwise_norm: bool = False
    """ConvNeXt: depthwise convolution, its bias and the LayerNorm after it in one pass"""
    norm: bool = False
    """ConvNeXt: every other LayerNorm reads and writes low, statistics in float32"""
    layer_scale: bool = False
    """ConvNeXt: scale folded into the weights of the MLP's second product"""
    weight_gradient: bool = False
    """ConvNeXt: the MLP's first product writes its weights' gradient in float32, without a cast"""
    residual: bool = False
    """ConvNeXt: the sum that passes from block to block is low, not float32"""
    group_norm: bool = False
    """FPN: GroupNorm, ReLU, the upsampling or sum after them in one pass, channels-last"""
    heads: bool = False
    """FPN: both heads in one product, dropout's mask in its weights"""

    @property
    def of_blocks(self) -> bool:
        """Whether ConvNeXt's blocks themselves are to run otherwise than timm's."""
        return self.depthwise_norm or self.layer_scale or self.weight_gradient or self.residual


def fusions_of(form: StepForm) -> Fusions:
    """Those that a training step's form asks for."""
    return Fusions(**{part.name: getattr(form, part.name) == "on" for part in fields(Fusions)})


class Fused(NamedTuple):
    """What `fuse` did."""

    blocks: int
    """ConvNeXt blocks with a fused form"""
    norms: int
    """LayerNorms that read and write low"""
    group_norms: int
    """GroupNorms in one pass with what follows"""
    left: Mapping[str, int]
    """why a part that was asked for stays timm's, and how many do"""
    heads: int = 0
    """heads in one product"""


def fuse(network: nn.Module, fusions: Fusions) -> Fused:
    """Give every module of `network` the form that `fusions` asks for, whatever it had before.

    In place, reversible, at any time; parameters and state-dict keys are untouched. What does not
    fit (another norm, kernel or MLP) keeps timm's form and is counted.
    """
    changed, left = Counter[str](), Counter[str]()
    for module in network.modules():
        if isinstance(module, ConvNeXtBlock) and type(module) in (ConvNeXtBlock, _FusedBlock):
            misfit = _misfit(module) if fusions.of_blocks else None
            left.update([misfit] if misfit else [])
            fits = fusions.of_blocks and not misfit
            module.__class__ = _FusedBlock if fits else ConvNeXtBlock
            if isinstance(module, _FusedBlock):
                module.fusions = fusions
            changed["blocks"] += fits
        elif isinstance(module, Network) and isinstance(module.decoder, FpnDecoder):
            module.heads_at_once = fusions.heads
            changed["heads"] += 2 * fusions.heads
        elif isinstance(module, FpnDecoder):
            module.fused = fusions.group_norm
            norms = sum(isinstance(part, nn.GroupNorm) for part in module.modules())
            changed["group_norms"] += norms * fusions.group_norm
        else:
            for plain, low in _LOW.items():
                if type(module) in (plain, low) and module.weight is not None:
                    module.__class__ = low if fusions.norm else plain
                    changed["norms"] += fusions.norm
    counts = changed["blocks"], changed["norms"], changed["group_norms"]
    return Fused(*counts, dict(left), heads=changed["heads"])


class _FusedBlock(ConvNeXtBlock):
    """timm's block, its parts in the forms that `fusions` names; its modules hold the weights."""

    fusions: Fusions

    def forward(self, x_BCHW: Tensor) -> Tensor:
        form, mlp, gamma_C, low = self.fusions, self.mlp, self.gamma, _low(x_BCHW)
        weight_CD, bias_C, bias_D = mlp.fc2.weight, mlp.fc2.bias, mlp.fc1.bias
        assert gamma_C is not None  # else the block is a misfit,
        assert bias_C is not None  # so too without one,
        assert bias_D is not None  # or the other
        # timm's scale, a float32 parameter, makes its sum float32 under any autocast.
        total = low if form.residual else torch.promote_types(x_BCHW.dtype, gamma_C.dtype)
        if form.depthwise_norm:
            conv, norm = self.conv_dw, self.norm
            taps = (conv.weight, conv.bias, norm.weight, norm.bias)
            begins = (x_BCHW.to(low), *taps, norm.eps)
            if total == low:
                y_BCHW, x_BCHW = depthwise_norm_with_residual(*begins)
            else:
                y_BCHW = depthwise_norm(*begins)
            y_BHWC = y_BCHW.permute(0, 2, 3, 1)
        else:
            y_BHWC = self.norm(self.conv_dw(x_BCHW).permute(0, 2, 3, 1))
        if form.weight_gradient:
            wide_BHWD = linear(y_BHWC, mlp.fc1.weight, bias_D, low)
        else:
            wide_BHWD = mlp.fc1(y_BHWC)
        wide_BHWD = mlp.drop1(mlp.act(wide_BHWD))
        if form.layer_scale:
            y_BHWC = F.linear(wide_BHWD, *scaled_weight(weight_CD, bias_C, gamma_C, low))
        else:
            y_BHWC = mlp.fc2(wide_BHWD) * (gamma_C.to(low) if form.residual else gamma_C)
        branch_BCHW: Tensor = self.drop_path(mlp.drop2(y_BHWC).permute(0, 3, 1, 2))
        return x_BCHW.to(total) + branch_BCHW


class _LowNorm(LayerNorm):
    """timm's, but low in and out; PyTorch's own kernel takes its statistics in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return _low_norm(self, x)


class _LowNorm2d(LayerNorm2d):
    """The same over the second axis, which lies innermost in a channels-last tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return _low_norm(self, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


_LOW: dict[type[nn.LayerNorm], type[nn.LayerNorm]] = {
    LayerNorm: _LowNorm,
    LayerNorm2d: _LowNorm2d,
}
"""timm's norm -> its form that reads and writes low."""


def _low_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    # On a GPU the kernel wants weights of its input's dtype.
    low = _low(x)
    with torch.autocast(x.device.type, enabled=False):
        affine = (norm.weight.to(low), norm.bias.to(low))
        return F.layer_norm(x.to(low), norm.normalized_shape, *affine, norm.eps)


def _low(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of `x` runs here."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _misfit(block: ConvNeXtBlock) -> str | None:
    """Why a block has no fused form, if it has none; any activation and any drop path fit."""
    conv, mlp = block.conv_dw, block.mlp
    if block.use_conv_mlp or type(mlp) is not Mlp or not isinstance(mlp.norm, nn.Identity):
        return "its MLP is not two linear layers"
    if block.gamma is None or mlp.fc1.bias is None or mlp.fc2.bias is None:
        return "no layer scale"
    if type(block.norm) not in (LayerNorm, _LowNorm) or block.norm.weight is None:
        return "its norm is not timm's LayerNorm"
    shape = (conv.kernel_size, conv.stride, conv.dilation, conv.padding)
    if type(conv) is not nn.Conv2d or shape != ((7, 7), (1, 1), (1, 1), (3, 3)):
        return "its convolution is not 7 x 7 of stride 1"
    if conv.bias is None or conv.groups != conv.in_channels or conv.groups != conv.out_channels:
        return "its convolution is not depthwise with a bias"
    return None
