"""What a page tells of a finished run or blend, read from the small files of its folder.

Axes: N frames, C class (truth by prediction).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.data.folds import FoldsFile
from engine.epochs import last_epoch
from engine.mistakes import ConfigError
from engine.report.atlas_report import Atlas
from engine.report.counts import read_counts
from engine.report.environment import told_apart
from engine.report.parity_report import Parity
from engine.report.summary import Summary
from engine.rundir import RunDir, load_run, refuse_unfinished, refuse_unscored
from engine.runtime.recorded import Environment
from engine.selection.blend_search import Blend
from engine.selection.records import TemperatureChoice
from engine.selection.statistics import Intervals, bootstrap
from engine.training.checkpoint import read_metrics
from engine.training.records import EpochLine


class Changed(NamedTuple):
    """A field of a config that is not at its default."""

    name: str
    """Section and field."""
    value: Any
    default: Any


class Counted(NamedTuple):
    """What was counted of the frames of a finished run or blend, and how sure it is."""

    run: RunDir
    name: str
    summary: Summary
    atlas: Atlas
    count_NCC: NDArray[np.uint32]
    """(N, C, C) pixels of each frame at the labels' resolution, of the stored probabilities."""
    intervals: Intervals
    """Of them: mIoU at store resolution."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The C names."""
        return tuple(self.atlas.classes)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C) pixels of all frames."""
        total_CC: NDArray[np.int64] = self.count_NCC.sum(axis=0, dtype=np.int64)
        return total_CC


class RunContents(NamedTuple):
    """What a page of a run tells."""

    counted: Counted
    config: Config
    folds: FoldsFile
    environment: Environment
    temperature: TemperatureChoice
    curves: Mapping[int, list[EpochLine]]
    """By fold; empty where the lines of training are gone."""
    parity: Parity | None
    """None of an older run."""
    apart: Sequence[str]
    """What was computed otherwise than the first fold's first step, a line each."""


class BlendContents(NamedTuple):
    """What a page of a blend tells."""

    counted: Counted
    blend: Blend


def is_blend(run: RunDir) -> bool:
    """Whether a folder is a blend's."""
    return run.blend.exists()


def read_counted(run: RunDir) -> Counted:
    """The figures of a finished run or blend.

    Raises:
        ConfigError: it is neither, or it is not finished.
        ValueError: a file is damaged.
    """
    if not is_blend(run):
        if not run.config.is_file():
            told = f"{run.root} is not a run folder: it has neither {run.config.name} nor"
            raise ConfigError(f"{told} {run.blend.name}")
        refuse_unscored(run, "it has no figures to be shown beside others'")
        refuse_unfinished(run, run.summary, run.atlas, run.frame_counts)
    elif missing := [f for f in (run.summary, run.atlas, run.frame_counts) if not f.exists()]:
        told = f"{run.root} is not finished: it has no {missing[0].name}"
        raise ConfigError(f"{told}; run the same engine.blend again")
    summary, atlas = Summary.read(run.summary), Atlas.read(run.atlas)
    count_NCC = read_counts(run, atlas)
    of_N, kind = np.array(atlas.groups.of), atlas.groups.kind
    intervals = bootstrap(count_NCC, of_N, groups_of=kind)
    name = run.root.resolve().name
    return Counted(run, name, summary, atlas, count_NCC, intervals)


def read_run(run: RunDir) -> RunContents:
    """All that a page of a run tells but its pictures; raises as `read_counted`."""
    counted = read_counted(run)
    refuse_unfinished(run, run.folds, run.environment, run.temperature)
    config = load_run(run)
    return RunContents(
        counted,
        config,
        FoldsFile.read(run.folds),
        Environment.read(run.environment),
        TemperatureChoice.read(run.temperature),
        curves_of(run, config),
        Parity.read(run.parity) if run.parity.exists() else None,
        told_apart(run, config.networks),
    )


def read_blend(run: RunDir) -> BlendContents:
    """All that a page of a blend tells but its pictures; raises as `read_counted`."""
    return BlendContents(read_counted(run), Blend.read(run.blend))


def changed_fields(config: Config, default: Config | None = None) -> list[Changed]:
    """The fields of a config that differ from another one's, by default the defaults.

    What only runs an experiment, [runtime] and [report], comes last.
    """
    ours, others = config.model_dump(mode="json"), (default or Config()).model_dump(mode="json")
    changed = [
        Changed(f"{section}.{name}", value, others[section][name])
        for section, values in ours.items()
        for name, value in values.items()
        if value != others[section][name]
    ]
    return sorted(changed, key=lambda one: one.name.startswith(("runtime.", "report.")))


def curves_of(run: RunDir, config: Config) -> dict[int, list[EpochLine]]:
    """The lines of each fold's epochs; of weights taken as they are none."""
    curves = {}
    for fold in range(config.networks):
        path: Path = run.metrics(fold)
        if config.training.epochs and path.exists():
            curves[fold] = read_metrics(path, last_epoch(run, fold, config.training))
    return curves
