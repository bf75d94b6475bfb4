"""Biases that a batch norm takes away again: their gradient is zero, and what is computed is noise.

A bias shifts a channel by one number. If a batch norm comes next, or a 1x1 convolution and then a
batch norm, the batch's mean takes the shift away, so no loss depends on it. In exact arithmetic
AdamW leaves such a bias alone (but for its decay); of a gradient that is rounding alone it makes
steps of the whole learning rate, other ones for every order of summation.

Axes: B images, C channels of an image, H W pixels.
"""

import copy

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_IMAGES = 4
"""Enough that a batch norm of one value an image has a gradient: of two it has none."""

_SHORT_SIDE = 64
"""Pixels that are left of a crop's shorter side. Only padding makes a difference between sizes, and
a dilated convolution that reaches over the edge does so along the longer side as well."""

_SHIFT = 10.0
"""By about so much, of values of about 1, a bias is moved to see that nothing follows: a ReLU that
cuts off no cell here would else pass for a linear layer."""

_NOTHING = 1e-11
"""A gradient's largest value over the sum of the absolute values that it is made of, in float64: of
EfficientNets 1e-18 where a bias counts for nothing, else 1e-4 or more."""


_SAME = 1e-9
"""Of the largest result: what rounding in float64 leaves of a shift."""


def null_biases(network: nn.Module, image_CHW: tuple[int, int, int]) -> list[str]:
    """Names of the biases whose gradient is zero in training, whatever weights, images and loss.

    Found by passes of a copy in float64 on the CPU, with weights and images of a seed of its own:
    the answer is the network's form's, the same for every process and whenever it is asked for.
    First by their gradient, then by moving them.

    Args:
        network: in training; it and the random state are left as they are.
        image_CHW: size of what it trains on.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return []
    chance = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(network).to("cpu", torch.float64).requires_grad_(True)
    terms = dict[str, Tensor]()
    for name, module in twin.named_modules():
        for parameter in module.parameters(recurse=False):
            _draw(parameter.detach(), chance)
        if isinstance(module, _BatchNorm) and hasattr(module, "add"):
            module.add = _alone  # type: ignore[assignment] # of several processes
        if isinstance(module, DropPath | nn.modules.dropout._DropoutNd):
            module.register_forward_hook(_Uneven(chance))
        elif isinstance(getattr(module, "bias", None), nn.Parameter):
            module.register_forward_hook(_Terms(f"{name}.bias", terms))
    C, H, W = image_CHW
    H, W = (min(H, _SHORT_SIDE), W) if H < W else (H, min(W, _SHORT_SIDE))
    image_BCHW = _normal((_IMAGES, C, H, W), chance)

    def passed() -> Tensor:
        chance.manual_seed(1)  # what drops draws the same
        return torch.cat([out.flatten() for out in twin(image_BCHW)])

    with torch.enable_grad():
        made = passed()
        (made * _normal(made.shape, chance)).sum().backward()  # type: ignore[no-untyped-call]
    biases = {
        name: bias for name, bias in twin.named_parameters() if _is_null(bias.grad, terms.get(name))
    }

    @torch.no_grad()
    def moves_nothing(*names: str) -> bool:
        kept = {name: biases[name].clone() for name in names}
        for name in names:
            biases[name].add_(_SHIFT * _normal(biases[name].shape, chance))
        apart = (passed() - made).abs().max()
        for name, bias in kept.items():
            biases[name].copy_(bias)
        return bool(apart < _SAME * made.abs().max())

    if not biases or moves_nothing(*biases):
        return list(biases)
    return [name for name in biases if moves_nothing(name)]


def _is_null(grad: Tensor | None, total: Tensor | None) -> bool:
    """Whether a gradient is nothing beside what it is the sum of, as far as that is known."""
    return grad is not None and total is not None and bool(grad.abs().max() < _NOTHING * total)


def _draw(values: Tensor, chance: torch.Generator) -> None:
    """Weights that let every path through, of about the size that a network starts with."""
    if values.ndim > 1:
        values.copy_(_normal(values.shape, chance) / values[0].numel() ** 0.5)
    else:
        values.uniform_(0.5, 1.5, generator=chance)


def _normal(shape: torch.Size | tuple[int, ...], chance: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=chance)


def _alone(total: Tensor) -> None:
    """The sum over the processes of which there is one."""


class _Uneven:
    """Scales each image by another number where a layer drops.

    A shift that is dropped here and there is none that a mean takes away.
    """

    def __init__(self, chance: torch.Generator) -> None:
        self._chance = chance

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        drops = getattr(module, "drop_prob", None) or getattr(module, "p", None)
        if not drops:
            return made
        (x,) = given
        scale_B = 0.5 + torch.rand(len(x), dtype=x.dtype, generator=self._chance)
        return x * scale_B.view(-1, *[1] * (x.ndim - 1))


class _Terms:
    """Adds up, by a bias's name, the absolute gradients of what its module returns."""

    def __init__(self, name: str, terms: dict[str, Tensor]) -> None:
        self._name, self._terms = name, terms

    def __call__(self, _module: nn.Module, _given: object, made: Tensor) -> None:
        if made.requires_grad:
            made.register_hook(self._add)  # type: ignore[no-untyped-call]

    def _add(self, grad: Tensor) -> None:
        here = grad.abs().sum()
        self._terms[self._name] = self._terms.get(self._name, torch.zeros_like(here)) + here
