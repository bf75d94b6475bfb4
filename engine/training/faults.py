"""The words in which training stops: a checkpoint that does not serve, a loss gone bad."""

from collections.abc import Sequence
from pathlib import Path


def unreadable(path: Path, error: Exception) -> RuntimeError:
    """The error of a `last.pt` that is damaged."""
    return RuntimeError(
        f"{path} cannot be read ({error}); delete {path.parent} to train the fold again"
    )


def of_another_config(path: Path) -> RuntimeError:
    """The error of a `last.pt` that something else left."""
    return RuntimeError(
        f"{path} was written by another config or dataset; restore what changed since, or choose "
        "another --out, which leaves what was trained as it is"
    )


def not_finite(where: str, stems: Sequence[str]) -> RuntimeError:
    """The error of a loss or gradient at the step `where`, of the samples `stems`."""
    return RuntimeError(
        f"{where}: the loss or its gradient is not finite; samples {', '.join(stems)}. Nothing "
        "bad was saved: --resume starts before it. A lower training.lr or training.clip_norm = 1 "
        "usually helps"
    )
