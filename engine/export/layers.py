"""Which layer of a graph a form cannot have, or has another result of.

A layer is a module of PyTorch. Each is tried alone, on what a frame gives it, from the outermost
inwards: the first part that fails by itself, and no part of which does, is it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from engine.export.form import ExportError

_UNEQUAL = 0.01
"""Of classes and bytes, which are rounded: the share that may be others."""

Ran = Callable[[nn.Module, tuple[Tensor, ...]], list[Tensor]]
"""A form: converts a module for inputs of just these shapes, runs it; returns its outputs."""

APART = 1e-3
"""What a layer may differ by, of its largest output: sums in another order stay far below."""


class Culprit(NamedTuple):
    """A layer, and what is wrong with it."""

    layer: str
    """By path and kind: `members.0.networks.0.encoder.model.conv_stem (Conv2d)`."""
    told: str


def find_culprit(graph: nn.Module, frame: tuple[Tensor, ...], ran: Ran) -> Culprit | None:
    """The first layer that a form cannot have, or gets another result of; None if there is none.

    Args:
        graph: in evaluation mode; its result is compared as the layers' are.
        frame: what it is called with.
        ran: the form.
    """
    with torch.no_grad():
        return _search("", graph, (frame, {}), ran)


def _search(path: str, module: nn.Module, given: tuple[Any, Any], ran: Ran) -> Culprit | None:
    told = _fault(module, given, ran)
    # A few pixels of a mask may tell what the whole graph's do not.
    if told is None and path:
        return None
    for name, child, inputs in _calls(module, given):
        found = _search(f"{path}.{name}" if path else name, child, inputs, ran)
        if found is not None:
            return found
    if told is None:
        return None
    return Culprit(f"{path or 'the graph itself'} ({type(module).__name__})", told)


def _fault(module: nn.Module, given: tuple[Any, Any], ran: Ran) -> str | None:
    flat, spec = pytree.tree_flatten(given)
    tensors = tuple(each for each in flat if isinstance(each, Tensor))
    alone = _Alone(module, flat, spec)
    expected = alone(*tensors)
    try:
        found = ran(alone, tensors)
    except Exception as error:  # noqa: BLE001 - whatever an exporter or a runtime raises
        return str(ExportError(error))
    for one, given_back in zip(expected, found, strict=True):
        other = given_back.reshape(one.shape)
        if not one.is_floating_point():
            if (share := (one != other).double().mean().item()) > _UNEQUAL:
                return f"{100 * share:.2g} % of its result differs"
            continue
        apart = (one.double() - other.double()).abs().max().item()
        if not apart <= APART * max(one.double().abs().max().item(), 1e-6):
            return f"its result differs by {apart:.3g}"
    return None


class _Alone(nn.Module):
    """A module as one of tensors alone: whatever else it is given stays what it was."""

    def __init__(self, module: nn.Module, flat: list[Any], spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.module, self.spec = module, spec
        self.flat = [None if isinstance(each, Tensor) else each for each in flat]
        self.places = [place for place, each in enumerate(flat) if isinstance(each, Tensor)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        flat = list(self.flat)
        for place, tensor in zip(self.places, tensors, strict=True):
            flat[place] = tensor
        args, named = pytree.tree_unflatten(flat, self.spec)
        found = pytree.tree_leaves(self.module(*args, **named))
        return tuple(each for each in found if isinstance(each, Tensor))


def _calls(
    module: nn.Module, given: tuple[Any, Any]
) -> Iterator[tuple[str, nn.Module, tuple[Any, Any]]]:
    """The parts that a module calls, each with its first inputs, in the order of the calls."""
    calls: dict[str, tuple[nn.Module, tuple[Any, Any]]] = {}
    hooks = []
    for name, child in _parts(module):

        def note(called: nn.Module, args: Any, named: Any, name: str = name) -> None:
            calls.setdefault(name, (called, pytree.tree_map(_kept, (args, named))))

        hooks.append(child.register_forward_pre_hook(note, with_kwargs=True))
    try:
        args, named = given
        module(*args, **named)
    finally:
        for hook in hooks:
            hook.remove()
    yield from ((name, *call) for name, call in calls.items())


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Its children; for a list, which is not called itself, those within."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict) and (
            type(child).forward in (nn.ModuleList.forward, nn.ModuleDict.forward)
        ):
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(child))
        else:
            yield name, child


def _kept(value: Any) -> Any:
    """A copy: layers may write into what they are given."""
    return value.clone() if isinstance(value, Tensor) else value
