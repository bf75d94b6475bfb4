"""How an encoder wants its RGB: one mean and one standard deviation per channel."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open


@dataclass(frozen=True)
class Normalisation:
    """The affine map that an encoder was pretrained with: (x - mean) / std, x in 0..255.

    Attributes:
        mean: mean of R, G, B in units of 0..255.
        std: standard deviation of R, G, B in units of 0..255, positive.

    Raises:
        ValueError: a deviation is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"deviations of a normalisation must be positive, got {self.std}")


def read_normalisation(path: Path) -> Normalisation | None:
    """What the weights in a file of `engine.train` were trained with.

    Args:
        path: any file.

    Returns:
        The normalisation; None if the file is not there, not ours, or does not say.
    """
    try:
        with safe_open(path, framework="np") as file:
            written = json.loads((file.metadata() or {}).get("roomsmith", "{}"))
    except (OSError, SafetensorError):
        return None
    if "mean" not in written:
        return None
    return Normalisation(mean=tuple(written["mean"]), std=tuple(written["std"]))
