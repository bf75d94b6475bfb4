"""How an encoder wants its RGB: one mean and one standard deviation per channel."""

from dataclasses import dataclass


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
