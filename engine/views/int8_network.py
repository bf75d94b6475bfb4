"""A fold's network in INT8 as files: `fold0/int8.xml`, `int8.bin` and, last, `int8.json`."""

import hashlib
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from engine import sums
from engine.damage import DamageError
from engine.rundir import RunDir, to_complete
from engine.views.openvino_pass import check_openvino, core
from engine.views.records import Int8
from engine.whole import whole_file

if TYPE_CHECKING:
    import openvino

_log = logging.getLogger(__name__)


def write(model: "openvino.Model", run: RunDir, fold: int) -> str:
    """Write a network, whole or not at all; returns the `network` of its `Int8`, yet to come.

    Its names are told by places: OpenVINO numbers what it makes by what this process has made
    before, and bytes would differ.
    """
    import openvino

    name_by_place(model)
    with TemporaryDirectory(prefix="roomsmith-int8-") as folder:
        made = Path(folder) / "int8.xml"
        openvino.save_model(model, made, compress_to_fp16=False)
        for path in _files(run, fold):
            with whole_file(path, summed=True) as temporary:
                temporary.write_bytes((made.parent / path.name).read_bytes())
    return _hash(run, fold)


def name_by_place(model: "openvino.Model") -> None:
    """Name the model, and each operation by its kind and its place among all."""
    model.set_friendly_name("network")
    for place, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{place}")


def find(run: RunDir, fold: int, weights: str) -> Int8 | None:
    """The record of a fold's network, if it is there, made of the weights of that SHA-256.

    Raises DamageError if a file is not as it was written.
    """
    paths = [*_files(run, fold), run.int8(fold)]
    if not all(path.exists() for path in paths):
        return None
    for path in paths:
        sums.check(path)
    note = Int8.read(run.int8(fold))
    return note if (note.weights, note.network) == (weights, _hash(run, fold)) else None


def find_sound(run: RunDir, fold: int, weights: str) -> Int8 | None:
    """As `find`; one that is damaged counts as not there, which a warning says."""
    try:
        return find(run, fold, weights)
    except DamageError as error:
        _log.warning("%s; it is made again", error.told)
        return None


def read(run: RunDir, fold: int, weights: str) -> "openvino.Model":
    """A fold's network, which was made of the weights of that SHA-256.

    Raises:
        FileNotFoundError: there is none of those weights.
        DamageError: it is not as it was written.
        RuntimeError: as `check_openvino`.
    """
    check_openvino(torch.device("cpu"), "openvino-int8")
    path, weight_path = _files(run, fold)
    if find(run, fold, weights) is None:
        missing = f"{run.fold(fold)} has no network in INT8 of its weights"
        raise FileNotFoundError(f"{missing}; {to_complete(run.root)}")
    return core().read_model(path, weight_path)


def _files(run: RunDir, fold: int) -> tuple[Path, Path]:
    """Operations and weights."""
    path = run.int8_network(fold)
    return path, path.with_suffix(".bin")


def _hash(run: RunDir, fold: int) -> str:
    digest = hashlib.sha256()
    for path in _files(run, fold):
        digest.update(path.read_bytes())
    return digest.hexdigest()
