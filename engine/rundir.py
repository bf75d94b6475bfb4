"""A run folder: its files, which appear whole or not at all, and the hashes that tie them.

runs/NAME/
  config.toml environment.json folds.json    what was run, where, on which folds
  fold0/ runtime.json metrics.jsonl last.pt best.safetensors
  oof/ manifest.json prob.npy                float16 (N, C, h, w), half scale
  temperature.json summary.json              the numbers
  atlas.json frames.npy worst.png            where the errors are; counts (N, C, C) of each frame
  submission.npy submission.zip              uint8 (N, H, W) in stem order
  seal.json                                  finished, and on which files, by size and time

The folder of a blend has blend.json (weights, curve, gain), summary.json and the submission.
While a process works on a fold or on what comes after the folds, or where it was stopped at that,
`.fold0.lease` and `.results.lease` hold what is not finished (`engine.lease`).
What a JSON file holds is a `Record`, defined beside the stage that writes it.
The hashes stand in checkpoints, weights and stores, so they may never change for what exists.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic_core import to_json

from engine.cli import load_config, read_file, to_toml
from engine.config import Config
from engine.formats import FORMAT, HASHED_1, INTRODUCED, RUNTIME_1, introduced_text
from engine.lease import Place, draft
from engine.mistakes import ConfigError, damaged


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

    def training(self, fold: int) -> Place:
        """What is leased to train a fold; it covers what tells of the whole run, too."""
        told = f"fold {fold} of {self.root}"
        return Place(self.root, f"fold{fold}", told, (self.fold(fold), self.root))

    @property
    def results(self) -> Place:
        """What is leased for all that comes after training, or for a blend."""
        return Place(self.root, "results", str(self.root), (self.root,))


class Record(BaseModel):
    """What one stage leaves for another in a JSON file; a field that was not given is not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, JsonValue]:
        """The record as JSON holds it."""
        return self.model_dump(mode="json", exclude_unset=True)

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; a ValueError names a file that is damaged or does not fit."""
        return cls.parse(path.read_text(encoding="utf-8"), path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Self:
        """The record that a text holds, which stands in the file at `path`; raises as `read`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(damaged(path, error)) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is synced and renamed to `path`.

    A kill at any moment, or an exception, leaves the old file or the new one, never a part of one.
    Where a lease covers `path`, it is made in the lease's attempt, else beside.
    """
    temporary = draft(path)
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


def load_run(run: RunDir, flags: Mapping[str, JsonValue] | None = None) -> Config:
    """The config that a run folder was made with, and `flags` over it; raises as `load_config`."""
    if not run.config.exists():
        raise ConfigError(f"{run.root} is not a run folder: it has no {run.config.name}")
    return load_config([run.config], flags, INTRODUCED)


def write_config(config: Config, run: RunDir) -> None:
    """Write `config.toml`; that of an older format stays: hashes were made of what it says."""
    if run_format(run) in (None, FORMAT):
        write_text(run.config, to_toml(config))


def run_format(run: RunDir) -> int | None:
    """The format of a run folder, None if it has no config yet; raises as `read_file`."""
    return read_file(run.config)[0] if run.config.exists() else None


def identity(
    config: Config, *parts: str, sections: tuple[str, ...], run: RunDir | None = None
) -> str:
    """SHA-256 over the experiment's fields in the named sections, and `parts`.

    A `run` folder of format 1, for which the hash is, says what its hash was made of.
    """
    runtime = RUNTIME_1
    if run is not None and run_format(run) == 1:
        runtime = load_run(run).runtime.model_dump(include=set(RUNTIME_1))
    digest = hashlib.sha256()
    for section in sections:
        values = getattr(config, section)
        fields = {
            name: runtime[name] if name in runtime else getattr(values, name)
            for name in HASHED_1[section].split()
        }
        digest.update(f"{section}=".encode() + to_json(fields) + b"\n")
        if section in INTRODUCED:
            digest.update(introduced_text(section, values))
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def weights_identity(config: Config, run: RunDir, fingerprint: str, fold_of: Sequence[int]) -> str:
    """Hash of all that trained weights depend on; the `run` folder need not exist yet.

    Beside the `config`: the dataset's `fingerprint`, and the fold that each frame validates.
    """
    sections = ("data", "model", "training")
    return identity(config, fingerprint, ",".join(map(str, fold_of)), sections=sections, run=run)


def stage_identity(config: Config, weights_hash: str, *parts: str) -> str:
    """Hash of what predictions are made from: training, inference settings and `parts`."""
    return identity(config, weights_hash, *parts, sections=("inference", "selection"))


def fold_hashes(config: Config, run: RunDir) -> list[str]:
    """Hash of each fold's weights in a run folder; "untrained" for a fold without any."""
    paths = [run.best(fold) for fold in range(config.data.folds)]
    return [file_hash(path) if path.exists() else "untrained" for path in paths]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
