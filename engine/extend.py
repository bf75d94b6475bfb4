"""`engine.train --extend`: a finished run becomes one of more epochs.

Kept is the run as it was, in a folder of its own; then is written what the folds go on from, what
follows training is removed, and last the config gets the new number of epochs. Killed at any moment
of that, the run is still the old one or already the new one, and the same command goes on.
"""

import logging
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import Config
from engine.epochs import epochs_of, is_trained, last_epoch
from engine.extended import Extended, Stand, stands_before
from engine.formats import FORMAT
from engine.lease import draft, hold
from engine.mistakes import ConfigError
from engine.resume import check_same_experiment
from engine.rundir import (
    RunDir,
    load_run,
    refuse_unfinished,
    run_format,
    to_complete,
    write_config,
)
from engine.whole import discard, sync_folder

if TYPE_CHECKING:
    # Not to refuse what cannot be extended: it loads PyTorch.
    from engine.experiment import Experiment

_log = logging.getLogger(__name__)

_NOT_KEPT = (
    *("last.pt", ".last.pt.sum", "seal.json", ".seal.json.sum", "log.txt"),
    *("tensorboard", "wandb", "mlflow", ".*.lease*", "*.tmp", "epochs[0-9]*"),
)
"""What the folder of a run as it was does not have: what only training needs, what vouches for
files by their inodes, what is appended to, what is on its way, and what was kept before."""


def extend(config: Config, run: RunDir) -> None:
    """Make a run one of more epochs, `training.epochs` of `config`; nothing if it is one already.

    Each fold goes on from its `last.pt`; the learning rates of the epochs to come are those of the
    schedule over all epochs. Training itself is what comes next, as for a run that was stopped.

    Raises:
        ConfigError: there is no run, or none that is finished, or it has as many epochs; more than
            the epochs is another; a fold was ended by its patience, or has no `last.pt`.
        HeldError: another process works there.
        RuntimeError: a `last.pt` is of another dataset; DamageError if it is damaged.
    """
    before = _check(config, run)
    if before is None:
        return
    from engine.experiment import open_experiment

    with ExitStack() as leases:
        leases.enter_context(hold(run.results))
        for fold in range(config.networks):
            leases.enter_context(hold(run.training(fold)))
        if _check(config, run) is None:  # another process was faster
            return
        opened = open_experiment(before, run)
        for fold in range(config.networks):
            if not opened.is_trained(fold):  # its line is ahead of its checkpoint
                raise _unfinished(run, fold, before)
        stand = _kept(opened)
        known = [*stands_before(before, run), stand]
        Extended(stands=known).write(run.extended)
        _remove_results(run)
        write_config(config, run)
        _tell(opened, config, stand)


def _check(config: Config, run: RunDir) -> Config | None:
    """The config that the run was finished with; None if it was extended to as many epochs."""
    asked, told = config.training.epochs, f"--extend {config.training.epochs}: {run.root}"
    if not run.config.is_file():
        raise ConfigError(f"{told} is no run folder; name one that engine.train made: --out RUN")
    had = load_run(run).training.epochs
    if asked == had and stands_before(config, run):
        return None
    if asked <= had:
        raise ConfigError(f"{told} has {had} epochs a fold already; type more")
    training = config.training.model_copy(update={"epochs": had})
    before = config.model_copy(update={"training": training})
    check_same_experiment(before, run)
    instead = f"model.weights=run:{run.root} fine-tunes its weights, in another --out"
    if run_format(run) != FORMAT:
        raise ConfigError(f"{told} was begun by an older release, and stays as it is; {instead}")
    if not had:
        raise ConfigError(f"{told} took its weights as they came; {instead}")
    folds = range(config.networks)
    for fold in folds:
        if (ended := last_epoch(run, fold, training)) < had:
            raise ConfigError(
                f"{told}: training.patience = {training.patience} ended fold {fold} after epoch "
                f"{ended} of {had}, and more epochs do not change that; {instead}"
            )
        if not is_trained(run, fold, training):
            raise _unfinished(run, fold, before)
    if lost := [str(fold) for fold in folds if not run.last(fold).exists()]:
        raise ConfigError(
            f"{told} was finished without runtime.keep_last=true, so fold {' '.join(lost)} has no "
            f"last.pt to go on from; {instead}"
        )
    if not (run.root / _name(had)).exists():  # an earlier call may have removed the results
        refuse_unfinished(run, run.summary)
    return before


def _unfinished(run: RunDir, fold: int, before: Config) -> ConfigError:
    done, epochs = epochs_of(run, fold), before.training.epochs
    return ConfigError(
        f"--extend: fold {fold} of {run.root} has {done} of {epochs} epochs, or its last steps are "
        f"missing, and all folds have to be trained; {to_complete(run.root)}"
    )


def _kept(opened: "Experiment") -> Stand:
    """Keep the run as it is, all of it at once, unless an earlier call has; what is to be known.

    Files have two names where the file system can: none of a run is ever written in place.
    """
    from engine.report.summary import Summary

    root, epochs = opened.dir.root, opened.config.training.epochs
    stand = Stand(epochs=epochs, weights_hash=opened.weights_hash, kept=_name(epochs))
    kept = root / stand.kept
    if not kept.exists():
        temporary = draft(kept)
        apart = shutil.ignore_patterns(*_NOT_KEPT)
        shutil.copytree(root, temporary, ignore=apart, copy_function=_link)
        temporary.replace(kept)
        sync_folder(root)
    # An earlier call may have removed the run's own by now.
    file = RunDir(kept).summary
    scores = Summary.read(file).oof_scores if file.exists() else None
    return stand if scores is None else stand.model_copy(update={"miou": scores.miou})


def _name(epochs: int) -> str:
    """The folder that a run is kept in as it was."""
    return f"epochs{epochs}"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove_results(run: RunDir) -> None:
    """Remove what follows training; first what says that it is finished."""
    derived = [run.seal, run.summary, run.report, run.parity, run.temperature, run.atlas]
    derived += [run.frame_counts, run.worst_frames, run.submission, run.submission_zip]
    derived += [run.submission_csv, run.manifest]
    rest = sorted(run.oof.iterdir()) if run.oof.is_dir() else []
    for path in [*derived, *(path for path in rest if path.suffix != ".sum")]:
        discard(path)


def _tell(opened: "Experiment", config: Config, stand: Stand) -> None:
    """What goes on from what, and where the run as it was is."""
    from engine.training.step import learning_rate

    steps, root = opened.task(0).steps_per_epoch, opened.dir.root
    first = stand.epochs * steps
    rates = (
        learning_rate(opened.config.training, first - 1, steps),
        learning_rate(config.training, first, steps),
    )
    reached = "" if stand.miou is None else f", its OOF mIoU at label resolution {stand.miou:.4f},"
    _log.info(
        "%s goes on from %d to %d epochs a fold, by the schedule of %d: the learning rate goes "
        "from %.2e to %.2e; as it was%s it is kept in %s",
        *(root, stand.epochs, config.training.epochs, config.training.epochs, *rates),
        *(reached, Path(root) / stand.kept),
    )
