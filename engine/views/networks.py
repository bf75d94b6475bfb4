"""Trained folds, loaded for prediction."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor

from engine.config import Config
from engine.data.normalisation import Normalisation, read_normalisation
from engine.model.network import Prediction, build_network, input_normalisation
from engine.model.weights import load_network
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.views.openvino_pass import OpenVinoPass, check_openvino
from engine.views.pass_memory import UNLIMITED, Room

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldNetwork:
    """A fold's averaged weights in evaluation mode.

    Attributes:
        fold: number of the fold whose validation frames these weights never saw.
        forward: (B, C, H, W) normalised input to stride-4 prediction; its next call may overwrite
            what it returned.
        normalisation: of the input.
        in_channels: 3, or 4 with inverse depth.
        align_corners: how the logits are upsampled.
        room: memory for its passes.
    """

    fold: int
    forward: Callable[[Tensor], Prediction]
    normalisation: Normalisation
    in_channels: int
    align_corners: bool
    room: Room = UNLIMITED


def check_runtime(config: Config, device: torch.device) -> None:
    """Refuse an `runtime.inference` that cannot run here, before any long work.

    Raises:
        RuntimeError: naming what is missing.
    """
    if config.runtime.inference == "openvino":
        check_openvino(device)


def load_fold(config: Config, run: RunDir, fold: int, policy: DevicePolicy) -> FoldNetwork:
    """Load `best.safetensors` of a fold.

    It may be a file of segmentation_models_pytorch that somebody put in the place of ours; that is
    logged, because nothing tells which frames such weights were trained on.

    Raises:
        FileNotFoundError: the fold has no weights yet.
        RuntimeError: the file is damaged or does not fit the config's network, or
            `runtime.inference` cannot run it here.
    """
    path = run.best(fold)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; train fold {fold} first")
    network = build_network(config.model, len(config.data.classes), initial_weights=False)
    try:
        load_network(network, path)
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"{path} does not hold the weights of this config's network: {error}"
        ) from error
    with safe_open(path, framework="pt") as file:
        if "roomsmith" not in (file.metadata() or {}):
            _log.warning(
                "%s was not written by engine.train; whether it was trained on the fold's "
                "validation frames cannot be told here",
                path,
            )
    network.to(policy.device).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(False)
    room = Room.of(network, config.model.in_channels, policy.device)
    check_runtime(config, policy.device)
    if config.runtime.inference == "openvino":
        forward: Callable[[Tensor], Prediction] = OpenVinoPass(network, config.model.in_channels)
    else:
        forward = policy.evaluation(network)
    return FoldNetwork(
        fold,
        forward,
        # The weights that training began with may be gone by now.
        read_normalisation(path) or input_normalisation(config.model),
        config.model.in_channels,
        network.align_corners,
        room,
    )


def load_folds(
    config: Config, run: RunDir, folds: Sequence[int], policy: DevicePolicy
) -> list[FoldNetwork]:
    """Load several folds, in order."""
    return [load_fold(config, run, fold, policy) for fold in folds]
