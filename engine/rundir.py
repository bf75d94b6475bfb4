"""Every file name of a run folder, and the one way a file appears in it: whole or not at all.

runs/NAME/
  config.toml environment.json folds.json    what was run, where, on which folds
  fold0/ metrics.jsonl last.pt best.safetensors
  oof/ manifest.json prob.npy                float16 (N, C, h, w), half scale
  temperature.json summary.json              the numbers
  atlas.json frames.npy worst.png            where the errors are; counts (N, C, C) of each frame
  submission.npy submission.zip              uint8 (N, H, W) in stem order

The folder of a blend has blend.json (weights, curve, gain), summary.json and the submission.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunDir:
    """The paths of one run; creates nothing by itself."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def folds(self) -> Path:
        return self.root / "folds.json"

    def fold(self, fold: int) -> Path:
        return self.root / f"fold{fold}"

    def metrics(self, fold: int) -> Path:
        return self.fold(fold) / "metrics.jsonl"

    def last(self, fold: int) -> Path:
        return self.fold(fold) / "last.pt"

    def best(self, fold: int) -> Path:
        return self.fold(fold) / "best.safetensors"

    @property
    def oof(self) -> Path:
        return self.root / "oof"

    @property
    def temperature(self) -> Path:
        return self.root / "temperature.json"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def atlas(self) -> Path:
        return self.root / "atlas.json"

    @property
    def frame_counts(self) -> Path:
        return self.root / "frames.npy"

    @property
    def worst_frames(self) -> Path:
        return self.root / "worst.png"

    @property
    def blend(self) -> Path:
        return self.root / "blend.json"

    @property
    def submission(self) -> Path:
        return self.root / "submission.npy"

    @property
    def submission_zip(self) -> Path:
        return self.root / "submission.zip"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    A kill at any moment leaves either the old file or the new one, never a part of one. The
    folder is created. On an exception the temporary file is removed and `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is only on disk once its folder is)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run again") from error
