"""Pretrained weights from timm's hub: from the local cache if they are there, else fetched."""

import urllib.error
import urllib.request

import huggingface_hub
import timm
from huggingface_hub import constants
from torch import Tensor

from engine.model.encoder import create_features

_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names timm looks for in a hub repository, in its order."""

_PROBE_S = 10.0
"""How long a hub may take to answer at all; huggingface_hub's own retries take a minute."""


def hub_state(name: str) -> dict[str, Tensor]:
    """The pretrained tensors of timm's feature extractor `name`, three input channels.

    Weights that were fetched before need no network.

    Raises:
        OSError: the hub does not answer.
        RuntimeError: timm knows no pretrained weights of this name, or the download is corrupt.
    """
    cached = _cached_file(name)
    if cached is None:
        _check_reachable(name)
    overlay = {"file": cached} if cached else None
    # Three channels always: timm would widen the stem in a way of its own.
    model, _ = create_features(name, 3, pretrained=True, pretrained_cfg_overlay=overlay)
    return model.state_dict()


def _cached_file(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else _FILES:
        found = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return found
    return None


def _check_reachable(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise RuntimeError(f"timm {timm.__version__} has no pretrained weights of {name}")
    if not config.hf_hub_id:
        return
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_S):
            return
    except urllib.error.HTTPError:
        return  # It answered; whether it has the file is for the download to say.
