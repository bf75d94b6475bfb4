"""Every file name of a run folder, and the one way a file appears in it: whole or not at all.

runs/NAME/
  config.toml environment.json folds.json    what was run, where, on which folds
  fold0/ runtime.json metrics.jsonl last.pt best.safetensors
  oof/ manifest.json prob.npy                float16 (N, C, h, w), half scale
  temperature.json summary.json              the numbers
  atlas.json frames.npy worst.png            where the errors are; counts (N, C, C) of each frame
  submission.npy submission.zip              uint8 (N, H, W) in stem order
  seal.json                                  finished, and on which files, by size and time

The folder of a blend has blend.json (weights, curve, gain), summary.json and the submission.

What a JSON file holds is a `Record`, defined beside the stage that writes it.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError


class _Name:
    """A file of the run folder: `run.summary` is the path of its `summary.json`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunDir", _: type) -> Path:
        return run.root / self.name


@dataclass(frozen=True)
class RunDir:
    """The paths of one run; creates nothing by itself."""

    root: Path

    config = _Name("config.toml")
    environment = _Name("environment.json")
    folds = _Name("folds.json")
    oof = _Name("oof")
    manifest = _Name("oof/manifest.json")
    temperature = _Name("temperature.json")
    summary = _Name("summary.json")
    atlas = _Name("atlas.json")
    frame_counts = _Name("frames.npy")
    worst_frames = _Name("worst.png")
    blend = _Name("blend.json")
    submission = _Name("submission.npy")
    submission_zip = _Name("submission.zip")
    seal = _Name("seal.json")

    def fold(self, fold: int) -> Path:
        """The folder of a fold."""
        return self.root / f"fold{fold}"

    def metrics(self, fold: int) -> Path:
        """One line an epoch."""
        return self.fold(fold) / "metrics.jsonl"

    def runtime(self, fold: int) -> Path:
        """What the fold began to run with."""
        return self.fold(fold) / "runtime.json"

    def last(self, fold: int) -> Path:
        """What training goes on from."""
        return self.fold(fold) / "last.pt"

    def best(self, fold: int) -> Path:
        """The averaged weights of the best epoch."""
        return self.fold(fold) / "best.safetensors"


class Record(BaseModel):
    """What one stage leaves for another in a JSON file, validated on both sides.

    A field that was not given is left out of the file; one that was given as None is null there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, JsonValue]:
        """The record as JSON holds it."""
        return self.model_dump(mode="json", exclude_unset=True)

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or another release's; the message names it.
        """
        return cls.parse(path.read_text(encoding="utf-8"), path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Self:
        """The record that a text holds, which stands in the file at `path`; raises as `read`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise ValueError(
                f"{path} is damaged or of another release ({where or 'file'}: {fault['msg']}); "
                "delete it and run again"
            ) from error


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
