"""What computed: versions, machine and commit, for whoever reads a run; its peak of memory."""

import importlib.metadata
import logging
import os
import platform
import resource
from itertools import pairwise
from pathlib import Path

import torch

from engine.damage import DamageError
from engine.rundir import RunDir
from engine.runtime.machine import commit, processor
from engine.runtime.recorded import (
    Computer,
    Environment,
    FoldEnvironment,
    Machine,
    RecordedRuntime,
)

_log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "nvidia-dali-cuda130", "safetensors")
"""Distributions whose versions a result may depend on."""


def describe_environment(fingerprint: str) -> Environment:
    """What computes now, on the dataset of that fingerprint."""
    versions, machine = _versions(), _machine()
    return Environment(
        versions=versions, machine=machine, commit=commit(), dataset_fingerprint=fingerprint
    )


def this_computer() -> Computer:
    """What computes now, as a fold notes it."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return Computer(versions=_versions(), machine=_machine(), instructions=instructions)


def note_computer(path: Path, fold: int, *, begun: bool) -> None:
    """Write into a fold's `environment.json` where it is begun, or goes on from here.

    Where that rounds otherwise than where its last steps were computed, the log says so, once.
    """
    now = this_computer()
    if not begun or not path.exists():  # or it was begun by an older release
        FoldEnvironment(began=now).write(path)
        return
    try:
        known = FoldEnvironment.read(path)
    except DamageError as error:
        _log.warning("%s; it tells of this computer from here on", error.told)
        FoldEnvironment(began=now).write(path)
        return
    if differences := known.last.differences(now):
        _log.warning(
            "fold %d goes on on another machine or with other packages, and from here on rounding "
            "differs from an undisturbed run's: %s",
            *(fold, "; ".join(differences)),
        )
        FoldEnvironment(began=known.began, then=(*known.then, now)).write(path)


def told_apart(run: RunDir, folds: int) -> list[str]:
    """One line on each fold that was computed otherwise than the first, or on several kinds.

    Empty where all folds round alike. Nothing is said of folds that an older release began.
    """
    found, threads, lines = dict[int, FoldEnvironment](), dict[int, int](), list[str]()
    for fold in range(folds):
        environment, runtime = run.fold_environment(fold), run.runtime(fold)
        try:
            if environment.is_file():
                found[fold] = FoldEnvironment.read(environment)
                threads[fold] = RecordedRuntime.read(runtime).threads
        except DamageError as error:  # nothing follows from it
            lines.append(error.told)
        except FileNotFoundError:
            lines.append(f"{runtime} is gone")
    first = next(iter(found.values()), None)
    for fold, known in found.items():
        if first is not None and (differences := first.began.differences(known.began)):
            lines.append(f"fold {fold} was begun elsewhere: {'; '.join(differences)}")
        for before, after in pairwise((known.began, *known.then)):
            lines.append(f"fold {fold} went on elsewhere: {'; '.join(before.differences(after))}")
    if len(set(threads.values())) > 1:
        counts = ", ".join(f"fold {fold} {count}" for fold, count in threads.items())
        lines.append(f"CPU threads, by which rounding differs: {counts}")
    return lines


def warn_apart(run: RunDir, folds: int) -> None:
    """Let the log say what `told_apart` tells."""
    for line in told_apart(run, folds):
        _log.warning("%s", line)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _machine() -> Machine:
    return Machine(
        system=platform.platform(),
        processor=processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
