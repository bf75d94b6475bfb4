"""Parts of a network by name: which are frozen, in all or in their batch norms; learning rates.

A part is a module, named as in the network but without the `model` that follows `encoder`; points
and underscores are one: `encoder.stages.0` is timm's `encoder.model.stages_0`.
"""

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.config import TrainingConfig
from engine.mistakes import ConfigError

_log = logging.getLogger(__name__)

_CHAINS = (nn.Sequential, nn.ModuleList)
"""Modules that hold others in the order in which an image passes them."""


def freeze(network: nn.Module, names: Iterable[str]) -> None:
    """Train the parts of these names no further; a name that is none is a ConfigError.

    Their parameters need no gradient, and their layers are in evaluation mode: batch norms keep
    their statistics and normalise by them, nothing is dropped. `network.frozen` holds the names of
    their tensors. A later call of `train` would undo it.
    """
    paths = [_path(network, name, "training.frozen") for name in names]
    for path in paths:
        network.get_submodule(path).eval().requires_grad_(False)
    state = {name for name in network.state_dict() if _within(name, paths) is not None}
    network.frozen = frozenset(state)  # type: ignore[assignment]


def freeze_norms(network: nn.Module, names: Iterable[str]) -> None:
    """Let batch norms in the parts of these names keep their statistics, and normalise by them.

    Their scales and shifts are trained on. `network.frozen` holds the names of the statistics, too.
    A later call of `train` would undo it.
    """
    frozen: set[str] = set(getattr(network, "frozen", ()))
    for name, norm in _norms(network, names):
        norm.eval()
        frozen |= {f"{name}.{key}" for key, _ in norm.named_buffers()}
    network.frozen = frozenset(frozen)  # type: ignore[assignment]


def rate_groups(network: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """The parameters, in their order, as neighbours of one rate: groups of AdamW.

    Each has its `rate`, a factor of the learning rate.
    """
    rates = rates_of(network, config)
    groups: list[dict[str, Any]] = []
    for rate, named in groupby(network.named_parameters(), lambda pair: rates[pair[0]]):
        groups.append({"params": [parameter for _, parameter in named], "rate": rate})
    return groups


def rates_of(network: nn.Module, config: TrainingConfig) -> dict[str, float]:
    """The factor of the learning rate by name of parameter; a name of no part is a ConfigError."""
    rates = {name: 1.0 for name, _ in network.named_parameters()}
    if config.layer_decay != 1:
        layers = encoder_layers(network.get_submodule("encoder"))
        for above, names in enumerate(reversed(layers), 1):
            rates |= {f"encoder.{name}": config.layer_decay**above for name in names}
    paths = {_path(network, name, "training.lr_of"): name for name in config.lr_of}
    for name in rates:
        if (path := _within(name, paths)) is not None:
            rates[name] *= config.lr_of[paths[path]]
    return rates


def encoder_layers(encoder: nn.Module) -> list[list[str]]:
    """Names of an encoder's parameters by layer, the first that sees the image first.

    A layer is a block, where a stage lists its blocks, or what stands beside stages; a norm is of
    the layer before it.
    """
    layers: list[list[str]] = []
    named = dict(encoder.named_parameters())
    for path in _blocks(encoder, ""):
        own = [name for name in named if name.startswith(f"{path}.")]
        if not own:
            continue
        if layers and all(named[name].ndim < 2 for name in own):
            layers[-1] += own
        else:
            layers.append(own)
    placed = {name for names in layers for name in names}
    if lone := [name for name in named if name not in placed]:
        layers = [lone + (layers[0] if layers else []), *layers[1:]]
    return layers


def check_parts(network: nn.Module, config: TrainingConfig) -> None:
    """Refuse, by a ConfigError, names of parts that there are not, or rates of what is frozen.

    What passes is told: how much is frozen, and at which rates the rest learns.
    """
    frozen = [_path(network, name, "training.frozen") for name in config.frozen]
    for name in config.lr_of:
        path = _path(network, name, "training.lr_of")
        if _within(f"{path}.", frozen) is not None:
            told = f"training.lr_of gives {name} a rate, and training.frozen freezes it"
            raise ConfigError(f"{told}; name it in one of the two")
    sizes = {name: part.numel() for name, part in network.named_parameters()}
    still = sum(size for name, size in sizes.items() if _within(name, frozen) is not None)
    if still == (total := sum(sizes.values())):
        told = f"training.frozen = {list(config.frozen)} leaves nothing to train"
        raise ConfigError(f"{told}; leave a part out, or use training.epochs = 0")
    if config.frozen_norms:
        count = len(_norms(network, config.frozen_norms))
        _log.info(
            "%d batch norms keep their statistics, in %s", count, ", ".join(config.frozen_norms)
        )
    if frozen:
        told = "frozen: %s, %s of %s weights"
        _log.info(told, ", ".join(config.frozen), f"{still:,}", f"{total:,}")
    rates = rates_of(network, config)
    least, most = (
        of(v for n, v in rates.items() if _within(n, frozen) is None) for of in (min, max)
    )
    if least != most:
        _log.info("learning rates of parts: %.3g to %.3g times training.lr", least, most)


def _norms(network: nn.Module, names: Iterable[str]) -> list[tuple[str, nn.Module]]:
    """The batch norms with statistics in parts of these names; a part without any is refused."""
    found: dict[str, nn.Module] = {}
    for name in names:
        path = _path(network, name, "training.frozen_norms")
        inside = {
            inner: module
            for inner, module in network.named_modules()
            if _is_below(inner, path)
            and isinstance(module, _BatchNorm)
            and module.track_running_stats
        }
        if not inside:
            told = f"training.frozen_norms names {name!r}, and no batch norm is in it"
            raise ConfigError(f"{told}; leave it out")
        found |= inside
    return [*found.items()]


def _path(network: nn.Module, name: str, field: str) -> str:
    """The module that a part's name means."""
    parts = {path: part for path, part in network.named_modules() if path and _holds(part)}
    known: dict[tuple[str, ...], str] = {_words(path): path for path in parts}
    if _words(name) in known:
        return known[_words(name)]
    told = {_told(path): path for path in known.values()}
    near = difflib.get_close_matches(name, told, n=1)
    hint = f"did you mean {near[0]}? There" if near else "there"
    tops = [path for path in told if "." not in path]
    below = [path for path in told if path.count(".") == 1 and path.startswith("encoder.")]
    raise ConfigError(
        f"{field} names {name!r}, and this network has no such part; {hint} are "
        f"{', '.join(tops)}, and what is in them: {', '.join(below)}, ..."
    )


def _holds(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None or next(part.buffers(), None) is not None


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.split(r"[._]", _told(name)))


def _told(path: str) -> str:
    """A module's path as users name it."""
    return "encoder" + path[len("encoder.model") :] if _is_below(path, "encoder.model") else path


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}.")


def _within(name: str, paths: Iterable[str]) -> str | None:
    """The innermost of some modules that a tensor is in."""
    return max((path for path in paths if name.startswith(f"{path}.")), key=len, default=None)


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if _lists_blocks(child) or name == "model":
            yield from _blocks(child, inner)
        else:
            yield inner


def _lists_blocks(module: nn.Module) -> bool:
    """Whether it is a stage: a chain of what has parts itself, or has such a chain."""
    if isinstance(module, _CHAINS):
        return any(next(part.children(), None) is not None for part in module)
    return any(isinstance(part, _CHAINS) and _lists_blocks(part) for part in module.children())
