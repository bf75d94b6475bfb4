"""The hashes that tie the files of a run folder, so that none is used with what it was not made of.

They stand in checkpoints, weights and stores, so they may never change for what exists.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import to_json

from engine import sums
from engine.config import Config
from engine.extended import stands_before
from engine.formats import ABSENT, HASHED_1, INTRODUCED, RUNTIME_1, introduced_text
from engine.origin import Origin, origin_of
from engine.rundir import RunDir, load_run, ordered_weights, run_format


def identity(
    config: Config,
    *parts: str,
    sections: tuple[str, ...],
    run: RunDir | None = None,
    origin: Origin | None = None,
) -> str:
    """SHA-256 over the experiment's fields in the named sections, and `parts`.

    A `run` folder of format 1, for which the hash is, says what its hash was made of; one of any
    format, in which order its class weights were hashed. With an `origin`, runs that the config
    starts from, or learns from, are hashed by their weights.
    """
    runtime = RUNTIME_1
    weights = ordered_weights(config, run)
    if run is not None and run_format(run) == 1:
        runtime = load_run(run).runtime.model_dump(include=set(RUNTIME_1))
    digest = hashlib.sha256()
    for section in sections:
        values = getattr(config, section)
        known = {**vars(values), **runtime, "class_weights": weights}
        if origin is not None and origin.weights is not None and section == "model":
            known["weights"] = origin.weights
        fields = {name: known[name] for name in HASHED_1[section].split()}
        fields |= {
            name: None for name, value in ABSENT.get(section, {}).items() if fields[name] == value
        }
        digest.update(f"{section}=".encode() + to_json(fields) + b"\n")
        if origin is not None and origin.teacher is not None and section == "training":
            values = values.model_copy(update={"teacher": origin.teacher.digest})
        if section in INTRODUCED:
            digest.update(introduced_text(section, values))
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def weights_identity(config: Config, run: RunDir, fingerprint: str, fold_of: Sequence[int]) -> str:
    """Hash of all that trained weights depend on; the `run` folder need not exist yet.

    Beside the `config`: the dataset's `fingerprint`, the fold that each frame validates, and what
    the config names of another run or of code, and what the run was before it was extended. Raises
    as `origin_of` and `stands_before`.
    """
    sections, origin = ("data", "model", "training"), origin_of(config, run)
    before = [f"extended {stand.weights_hash}" for stand in stands_before(config, run)]
    parts = fingerprint, ",".join(map(str, fold_of)), *(origin.code if origin else ()), *before
    return identity(config, *parts, sections=sections, run=run, origin=origin)


def stage_identity(config: Config, weights_hash: str, *parts: str) -> str:
    """Hash of what predictions are made from: training, inference settings and `parts`.

    That networks run in INT8 is in it: no store holds frames of both.
    """
    if config.int8:
        parts = (*parts, config.runtime.inference)
    return identity(config, weights_hash, *parts, sections=("inference", "selection"))


def fold_hashes(config: Config, run: RunDir) -> list[str]:
    """Hash of each fold's weights in a run folder; "untrained" for a fold without any.

    Raises DamageError.
    """
    paths = [run.best(fold) for fold in range(config.networks)]
    for path in filter(Path.exists, paths):
        sums.check(path)
    return [file_hash(path) if path.exists() else "untrained" for path in paths]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
