"""What the user is told of a file that is not as it was written: which, and what makes it again."""

import json
from pathlib import Path

from engine import exits


class DamageError(ValueError):
    """A file that is not as it was written; the message ends with what to do about it."""

    exit_code = exits.TROUBLE

    def __init__(self, path: Path, found: str) -> None:
        self.path = path
        self.told = f"{path} is damaged: {found}"
        super().__init__(f"{self.told}; {remedy(path)}")


def remedy(path: Path) -> str:
    """What to do about a damaged file, and what it costs where the run folder tells."""
    name, folder, copy = path.name, path.parent, "restore it from a copy"
    if name.endswith(".sum"):
        summed = name.removeprefix(".").removesuffix(".sum")
        return f"{copy}, or delete it: {summed} is then read unchecked"
    if name == "config.toml":
        return f"{copy}, or, if you changed it yourself, delete {folder / f'.{name}.sum'}"
    if name == "last.pt":
        spent = _spent(_trained_s(folder))
        again = f"a fold without its last epoch is then trained again from its first step{spent}"
        return f"{copy}, or delete it: {again}"
    if name in ("best.safetensors", "metrics.jsonl"):
        spent = _spent(_trained_s(folder))
        return f"{copy}, or delete {folder}: the same command then trains the fold again{spent}"
    if name in ("prob.npy", "manifest.json", "progress.json") or name.startswith(".prob_t"):
        spent = _spent(_predicted_s(folder))
        again = f"engine.train then predicts the out-of-fold frames again{spent}"
        return f"{copy}, or delete it: {again}"
    if name != "extended.json":
        copy += ", or delete it and run again: what made it makes it again"
    return copy


def _trained_s(fold: Path) -> float:
    """Seconds of a fold so far, as its metrics tell; 0 if they do not."""
    try:
        lines = _content(fold / "metrics.jsonl").splitlines()
        parts = (line["train_s"] + line["validation_s"] for line in map(json.loads, lines))
        return float(sum(parts))
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


def _predicted_s(oof: Path) -> float:
    """Seconds of a store so far, as its manifest, or else its note, tells; 0 if they do not."""
    for name, key in (("manifest.json", "predicted"), ("progress.json", "folds")):
        try:
            folds = json.loads(_content(oof / name))[key].values()
            return float(sum(fold["elapsed_s"] for fold in folds))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return 0.0


def _content(path: Path) -> bytes:
    """Of a file; nothing of what is none, such as a pipe, which would be waited for."""
    return path.read_bytes() if path.is_file() else b""


def _spent(seconds: float) -> str:
    if not seconds:
        return ""
    amount = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return f", which took {amount}"
