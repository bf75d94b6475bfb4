"""Pretrained weights from timm's hub: from the local cache if they are there, else fetched."""

import contextlib
import urllib.error
import urllib.request

import huggingface_hub
import timm
from huggingface_hub import constants
from torch import Tensor

from engine.model.encoder import create_features
from engine.model.source_errors import CHOICES, first_line

_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names timm looks for in a hub repository, in its order."""

_PROBE_S = 10.0
"""How long a hub may take to answer at all; huggingface_hub's own retries take a minute."""


def hub_state(name: str) -> dict[str, Tensor]:
    """The pretrained tensors of timm's feature extractor `name`, three input channels.

    Weights that were fetched before need no network.

    Raises:
        RuntimeError: timm knows no pretrained weights of this name, the hub does not answer, or
            the download is corrupt.
    """
    try:
        file = _cached_file(name)
        # Three channels always: timm would widen the stem in a way of its own.
        model, _ = create_features(name, 3, pretrained=True, pretrained_file=file)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"timm's pretrained weights of {name} cannot be had ({first_line(error)}); {CHOICES}"
        ) from error
    return model.state_dict()


def _cached_file(name: str) -> str | None:
    """The file of weights in the local cache; None if they have to be fetched and can be."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise RuntimeError(f"timm {timm.__version__} has no pretrained weights of {name}")
    if not config.hf_hub_id:
        return None
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else _FILES:
        found = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return found
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    # An error of HTTP is an answer; whether the hub has the file is for the download to say.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=_PROBE_S).close()
    return None
