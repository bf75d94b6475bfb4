"""What can be known of a run before anything is written: its network on the meta device.

There it takes no memory, and a pass no time: whether it can be made, whether the weights that it is
to start with fit, whether its batches can be normalised, whether memory holds each of its views.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from engine.config import Config, ModelConfig, is_run
from engine.frames.decode import Sample
from engine.mistakes import ConfigError
from engine.model.network import Network
from engine.model.weights import load_weights
from engine.runtime.device import total_bytes
from engine.runtime.memory import MOST_A_PIXEL, PROBE_HW, pass_bytes
from engine.views.zoom import base_hw, view_hw

_GIB = 1 << 30
_LARGEST_SCALE = 1e9
"""No memory holds its views, and the largest numbers of all have none that a float could tell."""

_LONE = "Expected more than 1 value per channel"
"""How PyTorch begins to refuse a batch normalisation over a single value."""


def check_training(config: Config, frames: Mapping[int, int]) -> None:
    """Refuse folds, by number of training frames each, that could not begin.

    Raises:
        ConfigError: a pass holds too few images to be normalised.
        ValueError: the encoder is unfit, or the weights do not fit the network.
        FileNotFoundError: a file of weights does not exist.
        RuntimeError: weights cannot be had, or read.
    """
    if config.code and frames:
        from engine.model.plugged import check_plug_ins

        check_plug_ins(config)
    network = _network(config)
    training = config.training
    named = training.frozen or training.frozen_norms or training.lr_of
    if frames and (named or training.layer_decay != 1):
        from engine.training.parts import check_parts

        check_parts(network, training)
    for fold, count in frames.items():
        _check_parts(config, network, fold, count)
    if config.model.weights != "none":
        # Those of all folds: a wrong file would else stop the run when the folds before it are
        # trained. What they share is looked at once.
        models = [config.of_network(fold).model.of_fold(fold) for fold in frames]
        for model in {(model.weights, model.input): model for model in models}.values():
            network = _network(config, model)
            if is_run(model.weights):
                _check_run(config, network, model)
            else:
                load_weights(network, model)


def check_views(config: Config, samples: Sequence[Sample], device: torch.device) -> None:
    """Refuse views of frames that the memory of `device` cannot hold one at a time.

    Counted is what a pass holds at once in the network's own type, without what libraries need
    beside it: what is refused would have failed.

    Raises:
        ConfigError: naming each such scale, a frame, and what it would need.
        ValueError: the encoder is unfit, found where passes must be counted.
    """
    there = total_bytes(device)
    if not _too_large(config, samples, there, MOST_A_PIXEL * math.prod(PROBE_HW)):
        return
    # In bfloat16, which autocast may choose on a GPU, half.
    halves = 2 if device.type == "cuda" else 1
    per_pass = pass_bytes(_network(config), config.model.in_channels) // halves
    if faults := _too_large(config, samples, there, per_pass):
        key = "inference.base_hw" if 1.0 in faults else "inference.scales"
        told = f"{device} has {_gib(there)} GiB, which holds no such view; lower {key}:"
        raise ConfigError("\n  ".join([told, *(line for _, line in faults.values())]))


def _too_large(
    config: Config, samples: Sequence[Sample], there: int, per_pass: int
) -> dict[float, tuple[int, str]]:
    """By scale, what its largest view needs where that is beyond `there` bytes, and a line.

    `per_pass` is what a view of `PROBE_HW` takes, bytes.
    """
    classes, views = len(config.data.classes), config.inference
    frames = {sample.hw: sample for sample in reversed(samples)}
    faults: dict[float, tuple[int, str]] = {}
    # Validation looks at frames at scale 1, whatever scales are asked for.
    for scale in dict.fromkeys((*views.scales, 1.0)):
        for hw, sample in frames.items():
            base = base_hw(config.data, views, hw)
            size = view_hw(base, min(scale, _LARGEST_SCALE))
            total = 4 * classes * len(views.temperatures) * math.prod(base)
            need = total + per_pass * math.prod(size) // math.prod(PROBE_HW)
            if need > max(there, faults.get(scale, (0, ""))[0]):
                faults[scale] = (
                    need,
                    (
                        f"scale {scale:g}: a view of {size[0]} x {size[1]} pixels, of "
                        f"{sample.image} with {hw[0]} x {hw[1]}, takes {_gib(need)} GiB or more"
                    ),
                )
    return faults


def _network(config: Config, model: ModelConfig | None = None) -> Network:
    with torch.device("meta"):
        return Network(model or config.model, len(config.data.classes))


def _check_run(config: Config, network: Network, model: ModelConfig) -> None:
    from engine.model.from_run import load_from_run

    kept = load_from_run(network, model, config.data.classes)
    if kept.new and not config.training.epochs:
        raise ConfigError(
            f"training.epochs = 0 takes the starting weights as the fold's, and of {kept.told}; "
            "give it epochs"
        )


def _check_parts(config: Config, network: Network, fold: int, frames: int) -> None:
    training, model, crop_hw = config.training, config.model, config.data.crop_hw
    least = min(training.batch_size - config.unlabelled, frames) + config.unlabelled
    if training.accumulate * training.parts > 1:
        from engine.data.accumulate import part_sizes

        together = network.least_images
        parts = part_sizes(least, training.parts, together)
        least = min(min(part_sizes(part, training.accumulate, together)) for part in parts)
    if least > 1:
        return
    with torch.device("meta"):
        image_BCHW = torch.empty(least, model.in_channels, *crop_hw)
    network.train()
    if training.frozen_norms:
        from engine.training.parts import freeze_norms

        freeze_norms(network, training.frozen_norms)
    try:
        network(image_BCHW)
    except ValueError as error:
        if not str(error).startswith(_LONE):
            raise
        if network.least_images > 1:
            instead = "set model.decoder to 'fpn'"
        else:
            instead = f"make data.crop_hw larger than {crop_hw[0]} x {crop_hw[1]}"
        raise ConfigError(
            f"fold {fold} trains on {frames} frames, and {least} of a batch pass the network at a "
            "time; there batch normalisation finds one value a channel, and needs two: let more "
            f"pass (training.batch_size {training.batch_size}, training.accumulate "
            f"{training.accumulate}, training.parts {training.parts}), give more frames, or "
            f"{instead}"
        ) from error


def _gib(count: int) -> str:
    return f"{count / _GIB:.3g}"
