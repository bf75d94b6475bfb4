"""A run from files to submission, as a user starts it: killed, resumed, moved to the GPU."""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.certify.certificate import ROOT, tied
from benchmarks.certify.experiment import make_config
from benchmarks.certify.notes import Notes
from benchmarks.subset import with_section
from engine.cli import to_toml
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.training.checkpoint import read_metrics
from engine.training.profile import PhaseReport

_EPOCHS = 3
_CHANGES: dict[str, dict[str, object]] = {
    # Ten frames a fold: two steps an epoch.
    "training": {"batch_size": 4, "epochs": _EPOCHS, "validate_every": _EPOCHS},
    "runtime": {"save_every": 1, "log_every": 1},
    "inference": {"scales": [0.5, 0.75, 1.0, 1.25, 1.5], "flip": True},
}

_TO_THE_GPU = ("--runtime.device", "cuda", "--runtime.cuda_graphs", "on")

_LOOK_S = 0.02
"""Between two looks for a checkpoint."""
_REST_S = 40.0
"""What the rest of the section needs: a CPU that has made no step by then is too slow for it."""


def run(notes: Notes) -> None:
    """Fold 0 is killed and resumed; fold 1 begins on the CPU; then all that is left is done."""
    folder, file = RunDir(notes.folder / "run"), notes.folder / "run.toml"
    shutil.rmtree(folder.root, ignore_errors=True)
    config = make_config(notes.folder)
    for section, fields in _CHANGES.items():
        config = with_section(config, section, **fields)
    file.write_text(to_toml(config), "utf-8")
    command = ["-m", "engine.train", "--config", str(file), "--out", str(folder.root)]
    _kill(notes, "fold 0", [*command, "--folds", "0"], folder.last(0))
    resumed = _finish(notes, "fold 0, resumed", [*command, "--folds", "0", "--resume"])
    notes.check("fold 0 went on", "fold 0 continues at" in resumed, "said by the run")
    rest, moved = [*command, "--resume"], False
    if torch.cuda.is_available():
        begun = [*command, "--folds", "1", "--runtime.device", "cpu"]
        moved = _kill(notes, "fold 1, on the CPU", begun, folder.last(1))
    else:
        notes.note("fold 1, from the CPU to the GPU", "no GPU")
    told = _finish(notes, "the rest, to the submission", [*rest, *(_TO_THE_GPU if moved else ())])
    if moved:
        line = "fold 1 began with device = cpu and goes on with cuda"
        notes.check("fold 1, from the CPU to the GPU", line in told, "said by the run")
    _look(notes, folder)
    _finish(notes, "where the time goes", [*command, "--profile"])
    phases = PhaseReport.read(folder.root / "profile" / "phases.json").step_s
    notes.note("seconds of a step by phase", dict(phases))


def _kill(notes: Notes, name: str, command: list[str], checkpoint: Path) -> bool:
    """Start a command and kill it as soon as it has left a checkpoint; whether it has."""
    start_s = time.monotonic()
    process = subprocess.Popen(tied(*command), cwd=ROOT)
    while process.poll() is None and not checkpoint.exists() and notes.left_s > _REST_S:
        time.sleep(_LOOK_S)
    saved = checkpoint.exists()
    process.kill()
    code, took_s = process.wait(), time.monotonic() - start_s
    if saved or code >= 0:
        told = f"exit code {code} after {took_s:.1f} s"
        notes.check(f"{name}, killed at its first checkpoint", saved and code < 0, told)
    else:
        notes.note(name, f"out of time: no step in {took_s:.0f} s")
    return saved


def _finish(notes: Notes, name: str, command: list[str]) -> str:
    """Run a command to its end; what it printed."""
    start_s = time.monotonic()
    done = subprocess.run(tied(*command), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    told = f"exit code {done.returncode} after {time.monotonic() - start_s:.1f} s"
    notes.check(name, done.returncode == 0, told)
    return done.stdout


def _look(notes: Notes, folder: RunDir) -> None:
    """Whether what a finished run leaves is there and whole."""
    for fold in range(2):
        losses = [line.loss or 0.0 for line in read_metrics(folder.metrics(fold), _EPOCHS)]
        finite = len(losses) == _EPOCHS and bool(np.isfinite(losses).all())
        notes.check(f"fold {fold}, losses", finite, ", ".join(f"{loss:.4f}" for loss in losses))
    summary = Summary.read(folder.summary)
    told = f"mIoU {summary.oof.miou:.4f}, of hardly trained weights"
    notes.check("out-of-fold by ten views", 0 < summary.oof.miou < 1, told)
    notes.note("seconds by stage", dict(summary.seconds))
    masks_NHW = np.load(folder.submission)
    told = f"{masks_NHW.shape}, {masks_NHW.dtype}, classes up to {masks_NHW.max()}"
    notes.check("submission", masks_NHW.dtype == np.uint8 and masks_NHW.max() < 13, told)
