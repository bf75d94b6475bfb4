"""Encoders, decoders and loss terms of the user's own: what they have to be, and whether they are.

B batch, C channels, H W pixels, h w cells of stride 4, K classes.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import Config, ModelConfig, TrainingConfig, is_code
from engine.data.batch import Batch
from engine.mistakes import ConfigError
from engine.model.encoder import STRIDES, Encoder
from engine.model.network import Prediction
from engine.plug_ins import find_code, line_in, load_code

_SIDE = 64
"""Pixels of the image that a check passes: two cells of the coarsest stride."""

_LEAST = 2
"""Images of it: what normalises over a batch needs two."""


class PlugInEncoder(Protocol):
    """What `model.encoder` may name: a `torch.nn.Module`, made by `Class(in_channels, config)`."""

    channels: Sequence[int]
    """Widths of its four features."""

    def __init__(self, in_channels: int, config: ModelConfig) -> None:
        """For images of 3 channels (RGB) or 4 (and inverse depth); `config` is `[model]`."""

    def forward(self, image_BCHW: Tensor) -> Sequence[Tensor]:
        """Features (B, channels[i], H / s, W / s), s of 4, 8, 16 and 32.

        H and W are multiples of 32. Under a decoder whose `output_stride` is 16, so is the last s.
        """
        ...


class PlugInDecoder(Protocol):
    """What `model.decoder` may name: a `torch.nn.Module`, made by `Class(widths, config)`.

    It may say `output_stride` (32, or 16 for features of a dilated encoder), `xavier_heads` (False)
    and `least_images` of a pass in training (1).
    """

    out_channels: int
    """Width of what it returns."""

    def __init__(self, widths: Sequence[int], config: ModelConfig) -> None:
        """For features of these four widths; `config` is `[model]`."""

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
        """From features at strides 4, 8, 16 and 32 to a part at stride 8, or None, and one at 4.

        Both have `out_channels`: (B, C, h / 2, w / 2) and (B, C, h, w). Heads are linear, so the
        first is brought to the second's size behind them and added.
        """
        ...


class LossTerm(Protocol):
    """What `training.loss_terms` may name: a function, or a class whose instances are called."""

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """One number, () float, a mean over what it looks at, and finite without any labels.

        Args:
            prediction: logits_BChw (B, K, h, w), in the type of the pass, perhaps bfloat16, and
                depth_Bhw, both at stride 4.
            batch: label_BHW uint8, 255 = unlabelled; depth_BHW metres, 0 = missing; image_BCHW.
        """
        ...


Term = Callable[[Prediction, Batch], Tensor]


def make_parts(config: ModelConfig, known: Any) -> tuple[Any, Any]:
    """Encoder and decoder, of which one or both are plug-ins; `known` is the decoder if it is none.

    Raises:
        ConfigError: a plug-in is not permitted, or not what it has to be.
    """
    decoder = known if known is not None else load_code(config.decoder)
    stride = int(getattr(decoder, "output_stride", STRIDES[-1]))
    encoder: Any
    if is_code(config.encoder):
        made = (config.in_channels, config)
        encoder = _made(config.encoder, load_code(config.encoder), ("in_channels", "config"), made)
        channels = getattr(encoder, "channels", None)
        if not isinstance(channels, Sequence) or len(channels) != len(STRIDES):
            raise ConfigError(
                f"{config.encoder}: its instances need channels, the widths of features at strides "
                f"{_words(STRIDES)}; found {channels!r}"
            )
    else:
        encoder = Encoder(config.encoder, config.in_channels, config.drop_path, stride)
    if known is not None:
        return encoder, known(encoder.channels, config)
    made_of = (tuple(encoder.channels), config)
    part = _made(config.decoder, decoder, ("widths", "config"), made_of)
    width = getattr(part, "out_channels", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"{config.decoder}: its instances need out_channels, the width of what forward "
            f"returns, an int; found {width!r}"
        )
    return encoder, part


def load_terms(config: TrainingConfig) -> tuple[tuple[float, Term], ...]:
    """The loss terms that a config names, each with its weight; raises as `load_code`."""
    return tuple((weight, _term(path)) for path, weight in config.loss_terms.items())


def check_plug_ins(config: Config) -> None:
    """Pass a tiny batch through each plug-in that a config names, on the CPU.

    Raises:
        ConfigError: one is not what it has to be; the message says what was found and is expected.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        if is_code(config.model.encoder) or is_code(config.model.decoder):
            _check_parts(config.model)
        for path in config.training.loss_terms:
            _check_term(path, len(config.data.classes), config.model.in_channels)


def _made(path: str, kind: Any, names: Sequence[str], arguments: Sequence[Any]) -> nn.Module:
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        found = "a class" if isinstance(kind, type) else f"a {type(kind).__name__}"
        raise ConfigError(f"{path}: found {found}; expected a class of torch.nn.Module")
    if kind.forward is nn.Module.forward:
        raise ConfigError(f"{path}: it has no method forward")
    called = f"{kind.__name__}({', '.join(names)})"
    try:
        inspect.signature(kind).bind(*arguments)
    except TypeError as error:
        found = f"{kind.__name__}{inspect.signature(kind)}"
        raise ConfigError(f"{path}: found {found}; it is called as {called}") from error
    made: nn.Module = _ran(path, called, lambda: kind(*arguments))
    return made


def _term(path: str) -> Term:
    found = load_code(path)
    if isinstance(found, type):
        found = _ran(path, f"{found.__name__}()", found)
    if not callable(found):
        raise ConfigError(f"{path}: found a {type(found).__name__}; expected a function")
    if isinstance(found, nn.Module) and next(found.parameters(), None) is not None:
        raise ConfigError(f"{path}: it has parameters, and those of a loss term are not trained")
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        told = f"found {inspect.signature(found)}; it is called with (prediction, batch)"
        raise ConfigError(f"{path}: {told}") from error
    term: Term = found
    return term


def _check_parts(config: ModelConfig) -> None:
    from engine.model.network import DECODERS

    encoder, decoder = make_parts(config, DECODERS.get(config.decoder))
    last = int(getattr(decoder, "output_stride", STRIDES[-1]))
    cells = [_SIDE // min(stride, last) for stride in STRIDES]
    shapes = [(_LEAST, c, n, n) for c, n in zip(encoder.channels, cells, strict=True)]
    if is_code(config.encoder):
        image = torch.rand(_LEAST, config.in_channels, _SIDE, _SIDE)
        found = _ran(config.encoder, f"forward of an image {_shape(image)}", lambda: encoder(image))
        got = [_shape(f) for f in found] if isinstance(found, list | tuple) else _shape(found)
        if got != [_words(shape) for shape in shapes]:
            raise ConfigError(
                f"{config.encoder}: of an image {_shape(image)} forward returns {_listed(got)}; "
                f"expected features of {_listed([_words(shape) for shape in shapes])}"
            )
    if is_code(config.decoder):
        features = [torch.rand(shape) for shape in shapes]
        given = _listed([_shape(f) for f in features])
        found = _ran(config.decoder, f"forward of features {given}", lambda: decoder(features))
        fine, coarse = (_words((_LEAST, decoder.out_channels, n, n)) for n in cells[:2])
        parts = [_shape(part) for part in found] if isinstance(found, tuple) else _shape(found)
        if parts not in (["None", fine], [coarse, fine]):
            raise ConfigError(
                f"{config.decoder}: of features {given} forward returns {_listed(parts)}; "
                f"expected a tuple of None, or {coarse}, and {fine}"
            )
        if config.supervision and parts[0] == "None":
            raise ConfigError(
                f"{config.decoder} has no part at stride 8, and model.supervision is of one; "
                "type model.supervision=0"
            )


def _check_term(path: str, classes: int, channels: int) -> None:
    term, cells = _term(path), _SIDE // STRIDES[0]
    logits = torch.randn(_LEAST, classes, cells, cells, requires_grad=True)
    depth = torch.rand(_LEAST, cells, cells, requires_grad=True)
    label = torch.randint(0, classes, (_LEAST, _SIDE, _SIDE), dtype=torch.uint8)
    metres = torch.rand(_LEAST, _SIDE, _SIDE)
    for labelled in (label, torch.full_like(label, 255)):
        image = torch.rand(_LEAST, channels, _SIDE, _SIDE)
        given = Prediction(logits, depth), Batch(image, metres, labelled, np.arange(_LEAST))
        found = _ran(path, "a prediction and a batch", partial(term, *given))
        if not isinstance(found, Tensor) or found.shape or not found.is_floating_point():
            told = f"found {_shape(found)}; expected one number, a tensor of shape ()"
            raise ConfigError(f"{path}: {told}")
        if not torch.isfinite(found):
            where = "where no pixel is labelled" if labelled is not label else "of a random batch"
            raise ConfigError(f"{path}: it is {found.item()} {where}; expected a finite number")
        if labelled is label and not found.requires_grad:
            raise ConfigError(f"{path}: no gradient comes from it; expected one of the prediction")


def _ran(path: str, what: str, call: Callable[[], Any]) -> Any:
    """What a plug-in's code returns; an error in it is a ConfigError that says where."""
    try:
        return call()
    except Exception as error:
        file = find_code(path)
        told = f"{file}{line_in(error, file)} fails at {what}: {type(error).__name__}: {error}"
        raise ConfigError(f"{path}: {told}") from error


def _shape(found: Any) -> str:
    if found is None:
        return "None"
    return _words(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"


def _words(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def _listed(shapes: Sequence[str] | str) -> str:
    return shapes if isinstance(shapes, str) else ", ".join(shapes)
