"""The words in which training stops: a checkpoint that does not serve, a loss gone bad."""

from collections.abc import Sequence
from pathlib import Path

from engine.damage import DamageError
from engine.model.refusals import first_line


def unreadable(path: Path, error: Exception) -> DamageError:
    """The error of a `last.pt` without checksums that cannot be read."""
    return DamageError(path, f"it cannot be read ({first_line(error)})")


def short_metrics(path: Path, lines: int, epochs: int) -> DamageError:
    """The error of a `metrics.jsonl` that lacks lines of epochs."""
    return DamageError(path, f"it tells of {lines} epochs, {epochs} were trained")


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
