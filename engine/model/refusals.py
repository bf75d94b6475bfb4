"""The words in which encoders and sources of weights are refused."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm

from engine.model.names import no_model

Create = Callable[..., Any]
"""timm's `create_model`, some options set; its networks' `feature_info` is not declared by timm."""

INSTEAD = "such as convnext_base or resnet50"
"""Encoders that an error proposes: they have all strides and can be dilated."""


def unknown_encoder(name: str) -> ValueError:
    """The error of a name, or of a name's tag, that timm does not have."""
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        known = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)) or "none"
        return ValueError(f"model.encoder = {name!r} has an unknown tag; timm has {known}")
    return no_model(name, timm.list_models())


def of_no_size(name: str, error: Exception) -> ValueError:
    """The error of a network whose features timm cannot return, or not of any size."""
    return ValueError(
        f"encoder {name!r} cannot return features of any size in timm {timm.__version__} "
        f"({error}); choose another, {INSTEAD}"
    )


def without_strides(name: str, found: Iterable[int], needed: Iterable[int]) -> ValueError:
    """The error of a network that has features at the strides `found` only."""
    found, needed = sorted(found), sorted(needed)
    missing = [stride for stride in needed if stride not in found]
    return ValueError(
        f"encoder {name!r} has features at strides {found} and none at {missing}; choose one with "
        f"strides {', '.join(map(str, needed))}, {INSTEAD}"
    )


def misfit(origin: str, fault: str) -> ValueError:
    """The error of tensors from `origin` that do not fit the network."""
    return ValueError(
        f"weights from {origin} do not fit the network that the config describes: {fault}; change "
        "model.encoder, model.pyramid_channels, model.segmentation_channels, model.aspp_channels "
        "or data.classes to what they were trained with, or model.weights"
    )


def out_of_place(origin: str, names: Iterable[str]) -> ValueError:
    """The error of tensors that the network has no place for."""
    names = sorted(names)
    own = [name for name in names if name.startswith("encoder.") and ".model." not in name]
    if own:
        fault = f"{some(own)} is of an encoder of smp's own; only its timm encoders, whose "
        return misfit(origin, f"{fault}names there begin with 'tu-', are the same here")
    return misfit(origin, f"{some(names)} has no place in it")


def some(items: Sequence[str]) -> str:
    """The first three of `items`, and how many more there are."""
    rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + rest


def first_line(error: Exception) -> str:
    """Type and first line of an error of another library, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]
