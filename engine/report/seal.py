"""`seal.json`: a run is finished and its results are whole, told without loading PyTorch.

The seal answers a second call without reading what the run rests on: a hash of the experiment's
fields and of the name, size, times and inode of every file of dataset and results.
"""

import hashlib
import logging

from engine.config import Config, data_root
from engine.rundir import RunDir, write_text

_log = logging.getLogger(__name__)


def seal(config: Config, run: RunDir) -> None:
    """Write the seal of a run that was finished just now."""
    write_text(run.seal, _seal(config, run))


def is_sealed(config: Config, run: RunDir) -> bool:
    """Whether a run of this experiment was finished here and nothing has changed since; says so."""
    if not run.seal.exists() or run.seal.read_text("utf-8") != _seal(config, run):
        return False
    _log.info("%s is complete; nothing to do", run.root)
    return True


def _seal(config: Config, run: RunDir) -> str:
    fields = config.model_dump_json(exclude={"runtime": True, "data": {"root"}})
    digest = hashlib.sha256(fields.encode())
    for folder, patterns in (
        (data_root(config), ("*.csv", "*/image/*", "*/depth/*", "*/label/*")),
        # Not its masks and profiles, which are made later.
        (run.root, ("*", "fold*/*", "oof/*")),
    ):
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            if path.is_file() and path != run.seal:
                told, name = path.stat(), path.relative_to(folder).as_posix()
                times = told.st_mtime_ns, told.st_ctime_ns
                digest.update(f"{name} {told.st_size} {times} {told.st_ino}\n".encode())
    return f'{{"seal": "{digest.hexdigest()}"}}\n'
