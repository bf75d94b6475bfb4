"""What a run folder was made with, and the hashes that tie its stages: of fields, frames, files.

They stand in checkpoints, weights and stores, so they may never change for what exists: a table
holds what went into them at format 1, and a field that is added later goes in only where it differs
from the default that it was introduced with (`engine.formats.INTRODUCED`).

The seal of a finished run is enough to answer a second call without reading what the run rests on:
a hash of the experiment's fields and of the name, size, times and inode of every file of dataset
and results. Where it fits, nothing was changed since; where it does not, `engine.train` looks at
the files themselves, as if there were none.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue
from pydantic_core import to_json

from engine.cli import ConfigError, load_config, read_file
from engine.config import Config, data_root
from engine.formats import INTRODUCED
from engine.rundir import RunDir, write_text

_FORMAT_1 = {
    "data": "classes source folds fold_kind fold_seed blocks_per_fold input_hw crop_hw scale_limit "
    "scale_p class_aware_p small_classes flip_p jitter_p brightness contrast",
    "model": "encoder weights decoder input pyramid_channels segmentation_channels dropout "
    "aspp_channels aspp_rates aspp_dropout drop_path",
    "training": "seed epochs batch_size accumulate lr weight_decay schedule warmup clip_norm "
    "ema_decay ema_warmup class_weights boundary_weight ignored_edges depth_weight validate_every "
    "precision compile kernels threads",
    "inference": "scales flip temperatures base_hw batch_size",
    "selection": "temperature",
}
"""The fields that format 1 hashed, in its order. Frozen: a change would orphan every run."""

_RUNTIME_1: dict[str, JsonValue] = {
    "source": "auto",
    "precision": "auto",
    "compile": "auto",
    "kernels": "fused",
    "threads": 0,
}
"""Fields of `_FORMAT_1` that are none of the experiment, with their defaults at the time. Folders
that were begun then were hashed with what their config said; for all others these stand."""


def identity(
    config: Config, *parts: str, sections: tuple[str, ...], run: RunDir | None = None
) -> str:
    """SHA-256 over the experiment's fields in the named sections, and `parts`.

    Args:
        config: the experiment.
        *parts: what else it covers.
        sections: of the config.
        run: the folder that the hash is for; one of format 1 says what its hash was made of.
    """
    runtime = _RUNTIME_1
    if run is not None and run_format(run) == 1:
        began = load_run(run).runtime
        runtime = {name: getattr(began, name) for name in _RUNTIME_1}
    digest = hashlib.sha256()
    for section in sections:
        values = getattr(config, section)
        fields = {
            name: runtime[name] if name in runtime else getattr(values, name)
            for name in _FORMAT_1[section].split()
        }
        digest.update(f"{section}=".encode() + to_json(fields) + b"\n")
        # A field younger than the table: silent at the value that stood for it when there was no
        # such field, so that adding one changes no hash that exists.
        for key, default in INTRODUCED.get(section, {}).items():
            value = to_json(getattr(values, key))
            if value != to_json(default):
                digest.update(f"{section}.{key}=".encode() + value + b"\n")
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def weights_identity(config: Config, run: RunDir, fingerprint: str, fold_of: Sequence[int]) -> str:
    """Hash of all that the trained weights of a run folder depend on.

    Args:
        config: the run's.
        run: its folder, which need not exist yet.
        fingerprint: of the dataset.
        fold_of: the fold that each training frame validates.
    """
    fold_list = ",".join(map(str, fold_of))
    sections = ("data", "model", "training")
    return identity(config, fingerprint, fold_list, sections=sections, run=run)


def stage_identity(config: Config, weights_hash: str, *parts: str) -> str:
    """Hash of what predictions are made from: training, inference settings and `parts`."""
    return identity(config, weights_hash, *parts, sections=("inference", "selection"))


def fold_hashes(config: Config, run_dir: RunDir) -> list[str]:
    """Hash of each fold's weights in a run folder; "untrained" for a fold without any."""
    paths = [run_dir.best(fold) for fold in range(config.data.folds)]
    return [file_hash(path) if path.exists() else "untrained" for path in paths]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_run(run: RunDir, flags: Mapping[str, Mapping[str, JsonValue]] | None = None) -> Config:
    """The config that a run folder was made with, and `flags` over it.

    Raises:
        ConfigError: it is not a run folder, or its config cannot be read.
    """
    if not run.config.exists():
        raise ConfigError(f"{run.root} is not a run folder: it has no {run.config.name}")
    return load_config([run.config], flags, INTRODUCED)


def run_format(run: RunDir) -> int | None:
    """The format of a run folder, None if it has no config yet.

    Raises:
        ConfigError: its config cannot be read.
    """
    return read_file(run.config)[0] if run.config.exists() else None


_DATA_FILES = ("*.csv", "*/image/*", "*/depth/*", "*/label/*")
"""Files of a dataset, as patterns below its root."""

_RESULT_FILES = ("*", "fold*/*", "oof/*")
"""Files of a run, as patterns below its folder; masks and profiles of it are made later."""


def seal(config: Config, run: RunDir) -> None:
    """Write `seal.json`: the run of this experiment is finished, and its results are whole."""
    write_text(run.seal, _seal(config, run))


def is_sealed(config: Config, run: RunDir) -> bool:
    """Whether a run of this experiment was finished here and nothing has changed since."""
    return run.seal.exists() and run.seal.read_text("utf-8") == _seal(config, run)


def _seal(config: Config, run: RunDir) -> str:
    fields = config.model_dump_json(exclude={"runtime": True, "data": {"root"}})
    digest = hashlib.sha256(fields.encode())
    for folder, patterns in ((data_root(config), _DATA_FILES), (run.root, _RESULT_FILES)):
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            if path.is_file() and path != run.seal:
                told, name = path.stat(), path.relative_to(folder).as_posix()
                times = told.st_mtime_ns, told.st_ctime_ns
                digest.update(f"{name} {told.st_size} {times} {told.st_ino}\n".encode())
    return f'{{"seal": "{digest.hexdigest()}"}}\n'
