"""`seal.json`: a run is finished and its results are whole, told without loading PyTorch.

The seal answers a second call without reading what the run rests on: a hash of the experiment's
fields and of the name, size, times and inode of every file of dataset and results.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from engine.config import ROOMS, Config, data_root
from engine.data.split_file import find_split_file
from engine.rundir import FOR_PEOPLE, RunDir
from engine.sums import sum_file
from engine.whole import write_summed

_log = logging.getLogger(__name__)


def seal(config: Config, run: RunDir, dataset: str) -> None:
    """Write the seal of a run that was finished just now; where there is none, a line says why.

    `dataset` is what `dataset_files` told before the run read it: the seal may not vouch for what
    has changed since. Rendered rooms are apart: the run itself may have made them.
    """
    try:
        now, content = _seal(config, run)
        if now == dataset or config.data.root == ROOMS:
            write_summed(run.seal, content)
            return
        why = f"{data_root(config)} changed while it ran; run the same command again to check it"
    except OSError as error:
        why = str(error)
    _log.warning("%s gets no seal (%s)", run.root, why)


def is_sealed(config: Config, run: RunDir) -> bool:
    """Whether a run of this experiment was finished here and nothing has changed since; says so."""
    if not run.seal.is_file():
        return False
    if run.seal.read_bytes() != _seal(config, run)[1].encode():
        return False
    _log.info("%s is complete; nothing to do", run.root)
    return True


def dataset_files(config: Config) -> str:
    """Hash of name, size, times and inode of every file of the dataset."""
    digest = hashlib.sha256()
    for line in _dataset_lines(config):
        digest.update(line)
    return digest.hexdigest()


def _seal(config: Config, run: RunDir) -> tuple[str, str]:
    """What `dataset_files` tells now, and the content of the seal."""
    fields = config.model_dump_json(exclude={"runtime": True, "report": True, "data": {"root"}})
    if config.int8:
        fields += config.runtime.inference
    dataset, digest = hashlib.sha256(), hashlib.sha256(fields.encode())
    for line in _dataset_lines(config):
        dataset.update(line)
        digest.update(line)
    # Not its masks and profiles, which are made later.
    for line in _lines(run.root, "*", "fold*/*", "oof/*"):
        digest.update(line)
    return dataset.hexdigest(), f'{{"seal": "{digest.hexdigest()}"}}\n'


def _dataset_lines(config: Config) -> Iterator[bytes]:
    root = data_root(config)
    if config.data.splits:
        path = find_split_file(config.data.splits, root)
        yield from _lines(path.parent, path.name)
    if (root / "shards.json").is_file():
        yield from _lines(root, "*.csv", "*.tar", "*.json")
    else:
        yield from _lines(root, "*.csv", "*/image/*", "*/depth/*", "*/label/*")


def _lines(folder: Path, *patterns: str) -> Iterator[bytes]:
    """A line for each file of a folder that fits a pattern, in the order of their names.

    But for a seal, which tells of itself, and for what is for people only.
    """
    seal = RunDir(folder).seal
    apart = {seal.name, sum_file(seal).name, *FOR_PEOPLE}
    for name in _fitting(str(folder), "", [pattern.split("/") for pattern in patterns]):
        path = f"{folder}/{name}"
        if os.path.isfile(path) and name.rpartition("/")[2] not in apart:  # noqa: PTH113
            told = os.stat(path)  # noqa: PTH116  # paths of very many files take long
            times = told.st_mtime_ns, told.st_ctime_ns
            yield f"{name} {told.st_size} {times} {told.st_ino}\n".encode()


def _fitting(folder: str, before: str, patterns: Sequence[Sequence[str]]) -> Iterator[str]:
    """Names, relative, of what fits a pattern; one folder's at a time are in memory."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in names:
        fit = [pattern[1:] for pattern in patterns if fnmatchcase(name, pattern[0])]
        if [] in fit:
            yield before + name
        if deeper := [pattern for pattern in fit if pattern]:
            yield from _fitting(f"{folder}/{name}", f"{before}{name}/", deeper)
