"""A folder that segmentation_models_pytorch saved: `config.json` and `model.safetensors`.

Some of what a network does leaves no trace in the names and shapes of its weights, such as rates of
dilation or the way it is upsampled. The folder's `config.json` says it, and is held to ours.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config import ModelConfig

TENSORS = "model.safetensors"
"""The name of the file of weights."""

_DESCRIPTION = "config.json"
"""The name of the file of options that smp's constructor was called with."""


def check_folder(folder: Path, config: ModelConfig) -> None:
    """Refuse a folder that lacks a file or describes another network than `config`.

    What it does not say is not checked: older versions of smp had fewer options.

    Raises:
        ValueError: naming every difference.
        FileNotFoundError: one of the two files is missing.
        RuntimeError: `config.json` cannot be read.
    """
    for name in (_DESCRIPTION, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"weights folder {folder} lacks {name}; name a folder that smp's save_pretrained "
                "wrote, or a .safetensors, .pt or .pth file"
            )
    theirs = _read(folder / _DESCRIPTION)
    # A pretrained tag says where an encoder started, not what it is.
    if isinstance(theirs.get("encoder_name"), str):
        theirs["encoder_name"] = theirs["encoder_name"].partition(".")[0]
    faults = [
        f"{key} is {theirs[key]!r}, not {ours!r} ({field})"
        for key, ours, field in _expected(config)
        if key in theirs and theirs[key] != ours
    ]
    if faults:
        raise ValueError(
            f"weights from {folder} do not fit the network that the config describes: by its "
            f"{_DESCRIPTION} {', '.join(faults)}; change the config, or model.weights"
        )


def _expected(config: ModelConfig) -> Iterator[tuple[str, Any, str]]:
    """Each option of smp's, its value in our network, and the field of ours that decides it."""
    decoder = f"model.decoder = {config.decoder!r}"
    yield "encoder_name", f"tu-{config.encoder.partition('.')[0]}", "model.encoder"
    yield "encoder_depth", 5, decoder
    if config.decoder == "fpn":
        yield "_model_class", "FPN", decoder
        for field in ("pyramid_channels", "segmentation_channels"):
            yield f"decoder_{field}", getattr(config, field), f"model.{field}"
        yield "decoder_merge_policy", "add", decoder
        yield "decoder_interpolation", "nearest", decoder
    else:
        yield "_model_class", "DeepLabV3Plus", decoder
        yield "encoder_output_stride", 16, decoder
        yield "decoder_channels", config.aspp_channels, "model.aspp_channels"
        yield "decoder_atrous_rates", list(config.aspp_rates), "model.aspp_rates"
        yield "decoder_aspp_separable", True, decoder


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RuntimeError(f"{path} is not JSON ({error}); save the model again") from error
    if not isinstance(content, dict):
        raise RuntimeError(f"{path} holds a {type(content).__name__}, not smp's options")
    return content
