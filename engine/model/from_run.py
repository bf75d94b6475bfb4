"""Weights of another run put into a network of other classes, channels or decoder: fine-tuning."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.mistakes import ConfigError
from engine.model.refusals import some
from engine.model.state import read_state
from engine.origin import RunSource, find_source

_HEAD, _DEPTH, _SECOND = "segmentation_head.", "depth_head.", "auxiliary_head."

State = dict[str, Tensor]


class Kept(NamedTuple):
    """What of a run's network went into another one.

    Attributes:
        told: in words, with counts.
        new: what starts at random, in words; nothing where the whole network was kept.
    """

    told: str
    new: tuple[str, ...]


def load_from_run(network: nn.Module, config: ModelConfig, classes: Sequence[str]) -> Kept:
    """Copy what fits of the fold that `config.weights` names, in place.

    The encoder is kept whole. Of a stem that sees depth for the first time the new channel starts
    at zero, so the network does what it did; of one that no longer does, that channel is left out.
    The decoder and the depth head are kept where the decoder is the same one, in kind and widths,
    and of the segmentation head the rows of classes of the same name. All else stays as it is.

    Args:
        network: on the CPU, or on the meta device, where it takes the tensors themselves.
        config: the model section that it was built from, of one fold.
        classes: names by row of its segmentation head.

    Raises:
        ConfigError: the run has another encoder, or as `find_source`.
        FileNotFoundError: the fold has no weights.
        DamageError: they are not those that were written.
        RuntimeError: they cannot be read.
    """
    source = find_source(config.weights)
    theirs, ours = read_state(source.file), network.state_dict()
    ready, channels = _encoder(theirs, ours, config, source)
    told = [f"its encoder{channels}"]
    new: list[str] = []
    decoder = _of("decoder.", theirs)
    if _same(decoder, _of("decoder.", ours)) and source.config.model.decoder == config.decoder:
        ready |= decoder
        told.append("its decoder")
        kept = _head(ready, theirs, ours, classes, source)
        told.append(f"{len(kept)} of {len(classes)} classes by name" + _listed(kept))
        if others := [name for name in classes if name not in kept]:
            new.append(f"{len(others)} classes{_listed(others)}")
        same_classes = [*classes] == [*source.config.data.classes]
        if same_classes and _same(second := _of(_SECOND, theirs), _of(_SECOND, ours)):
            ready |= second
        if _same(depth := _of(_DEPTH, theirs), _of(_DEPTH, ours)):
            ready |= depth
        else:
            new.append("the depth head")
    else:
        other = source.config.model.decoder != config.decoder
        why = f"{source.config.model.decoder} there, {config.decoder} here" if other else "widths"
        new.append(f"the decoder ({why}) and the heads of all {len(classes)} classes")
    on_meta = any(tensor.is_meta for tensor in ours.values())
    network.load_state_dict(ready, strict=False, assign=on_meta)
    rest = f"; new, at random: {' and '.join(new)}" if new else "; nothing is new"
    return Kept(f"{source}: {', '.join(told)}{rest}", tuple(new))


def _encoder(
    theirs: State, ours: State, config: ModelConfig, source: RunSource
) -> tuple[State, str]:
    """The encoder's tensors as ours are shaped, and what became of the channels, in words."""
    there, here = _of("encoder.", theirs), _of("encoder.", ours)
    ready: State = {}
    told = ""
    for name, own in here.items():
        tensor = there.get(name)
        if tensor is not None and tensor.shape != own.shape:
            seen = source.config.of_network(source.fold).model.in_channels
            told = _channels(seen, config.in_channels)
            tensor = _fitted(tensor, own)
        if tensor is not None:
            ready[name] = tensor
    named = source.config.model.encoder
    alike = named.partition(".")[0] == config.encoder.partition(".")[0]
    if not alike or ready.keys() != here.keys() or there.keys() != here.keys():
        raise ConfigError(
            f"model.weights: {source} has the encoder {named}, and model.encoder = "
            f"{config.encoder!r}: its weights do not fit; type model.encoder={named}"
        )
    return ready, told


def _fitted(tensor: Tensor, own: Tensor) -> Tensor | None:
    """A stem's weights (O, C, k, k) for another number of channels; None where all else differs."""
    if tensor.ndim != 4 or own.ndim != 4 or tensor.shape[0] != own.shape[0]:
        return None
    if tensor.shape[2:] != own.shape[2:]:
        return None
    more = own.shape[1] - tensor.shape[1]
    if more <= 0:
        return tensor[:, : own.shape[1]].clone()
    return torch.cat([tensor, tensor.new_zeros(len(tensor), more, *tensor.shape[2:])], 1)


def _channels(there: int, here: int) -> str:
    if here > there:
        return f" ({here - there} of {here} channels new, at zero)"
    return f" (without {there - here} of its {there} channels)"


def _head(
    ready: State, theirs: State, ours: State, classes: Sequence[str], source: RunSource
) -> list[str]:
    """Put rows of classes of the same name into `ready`; their names."""
    rows = {name: row for row, name in enumerate(source.config.data.classes)}
    pairs = [(k, rows[name]) for k, name in enumerate(classes) if name in rows]
    for name, own in _of(_HEAD, ours).items():
        if not pairs or name not in theirs:
            continue
        mixed = own.detach().clone()
        here, there = map(list, zip(*pairs, strict=True))
        mixed[here] = theirs[name][there].to(mixed)
        ready[name] = mixed
    return [classes[k] for k, _ in pairs]


def _of(prefix: str, state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _same(one: State, other: State) -> bool:
    shapes = [{name: tuple(t.shape) for name, t in state.items()} for state in (one, other)]
    return bool(one) and shapes[0] == shapes[1]


def _listed(names: Sequence[str]) -> str:
    return f" ({some(names)})" if names else ""
