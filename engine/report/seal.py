"""`seal.json`: a run is finished and its results are whole, told without loading PyTorch.

The seal answers a second call without reading what the run rests on: a hash of the experiment's
fields and of the name, size, times and inode of every file of dataset and results.
"""

import hashlib
import logging
from pathlib import Path

from engine.config import ROOMS, Config, data_root
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
        now = dataset_files(config)
        if now == dataset or config.data.root == ROOMS:
            write_summed(run.seal, _seal(config, run, now))
            return
        why = f"{data_root(config)} changed while it ran; run the same command again to check it"
    except OSError as error:
        why = str(error)
    _log.warning("%s gets no seal (%s)", run.root, why)


def is_sealed(config: Config, run: RunDir) -> bool:
    """Whether a run of this experiment was finished here and nothing has changed since; says so."""
    if not run.seal.is_file():
        return False
    if run.seal.read_bytes() != _seal(config, run, dataset_files(config)).encode():
        return False
    _log.info("%s is complete; nothing to do", run.root)
    return True


def dataset_files(config: Config) -> str:
    """Name, size, times and inode of every file of the dataset, a line each."""
    return _told(data_root(config), "*.csv", "*/image/*", "*/depth/*", "*/label/*")


def _seal(config: Config, run: RunDir, dataset: str) -> str:
    fields = config.model_dump_json(exclude={"runtime": True, "report": True, "data": {"root"}})
    if config.int8:
        fields += config.runtime.inference
    # Not its masks and profiles, which are made later.
    results = _told(run.root, "*", "fold*/*", "oof/*")
    digest = hashlib.sha256((fields + dataset + results).encode())
    return f'{{"seal": "{digest.hexdigest()}"}}\n'


def _told(folder: Path, *patterns: str) -> str:
    """A line for each file of a folder that fits a pattern.

    But for a seal, which tells of itself, and for what is for people only.
    """
    lines, seal = [], RunDir(folder).seal
    apart = {seal.name, sum_file(seal).name, *FOR_PEOPLE}
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        if path.is_file() and path.name not in apart:
            told, name = path.stat(), path.relative_to(folder).as_posix()
            times = told.st_mtime_ns, told.st_ctime_ns
            lines.append(f"{name} {told.st_size} {times} {told.st_ino}\n")
    return "".join(lines)
