"""What the labels hold for every class and fold, told before an hour is spent on them.

Axes: N training frames, C classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.data.folds import Folds, cut_folds
from engine.frames.index import Dataset
from engine.frames.samples import hw_of
from engine.labels import likely_table, named
from engine.nyuv2 import CLASSES, IGNORE_INDEX
from engine.report.depth_check import depth_notes

_log = logging.getLogger(__name__)

_SHOWN = 5
"""Names of classes, folds or frames in a line; how many more there are is said."""


@dataclass(frozen=True)
class Census:
    """What is to be said of labels: lines of notes, and why training is refused, else empty."""

    notes: list[str]
    refusal: str


def judge_data(config: Config, dataset: Dataset, folds: Folds, chosen: Sequence[int]) -> None:
    """Log what the labels lack for the `chosen` folds, and what is odd in the depth that they use.

    Raises:
        ValueError: one of the folds has fewer than two classes to train on.
    """
    census = take_census(dataset, folds, config.data.classes, chosen)
    notes = list(census.notes)
    if config.needs_depth or config.training.depth_weight:
        notes += depth_notes(dataset.train, config.data.depth_scale)
    for note in notes:
        _log.warning("%s", note)
    if census.refusal and config.training.epochs:
        raise ValueError(census.refusal)


def check_notes(config: Config, dataset: Dataset) -> list[str]:
    """All that `judge_data` would say, and refuse, of all folds, if the config's can be made."""
    data, samples = config.data, dataset.train.samples
    try:
        folds = cut_folds(config, samples)
        census = take_census(dataset, folds, data.classes, range(data.folds))
    except ValueError:  # the table of folds says why
        folds = Folds(data.fold_kind, np.zeros(len(samples), np.int64), 0.0)
        census = take_census(dataset, folds, data.classes, [])
    refused = [f"engine.train refuses: {census.refusal}"] if census.refusal else []
    return [*census.notes, *refused, *depth_notes(dataset.train, data.depth_scale)]


def take_census(
    dataset: Dataset, folds: Folds, classes: Sequence[str], chosen: Sequence[int]
) -> Census:
    """What training frames, and those of the `chosen` folds, lack of the labels' classes."""
    reports, samples = dataset.train.reports, dataset.train.samples
    pixels_NC = np.array([report.class_pixels for report in reports], np.int64)
    held_C, labelled_N = pixels_NC.sum(axis=0) > 0, pixels_NC.sum(axis=1) > 0
    notes, meant = [], _likely_meaning(dataset, classes, held_C)
    refusal = _refusal(pixels_NC, folds, classes, chosen)
    if not held_C.all():
        absent = _listed([name for name, held in zip(classes, held_C, strict=True) if not held])
        count = f"{int((~held_C).sum())} of {len(classes)} classes"
        hint = "" if refusal else meant
        notes.append(f"no training frame has a labelled pixel of {count}: {absent}{hint}")
    if not labelled_N.all():
        stems = [samples[n].stem for n in np.flatnonzero(~labelled_N).tolist()]
        count = f"{len(stems)} of {len(samples)} training frames"
        notes.append(f"{count} have no labelled pixel: {_listed(stems)}")
    held_out = [fold for fold in chosen if len(folds.validation(fold))]
    void = [fold for fold in held_out if not labelled_N[folds.validation(fold)].any()]
    if void:
        told = f"fold{'s' * (len(void) > 1)} {_listed(list(map(str, void)))}"
        notes.append(f"{told}: no validation frame has a labelled pixel, so none of it is scored")
    for what, frames_of in (("to train on", folds.training), ("to validate", folds.validation)):
        lacking = []
        for fold in chosen:
            inside_C = pixels_NC[frames_of(fold)].sum(axis=0) > 0
            # A fold without any is told by itself.
            if inside_C.any() and (held_C & ~inside_C).any():
                names = [classes[index] for index in np.flatnonzero(held_C & ~inside_C).tolist()]
                lacking.append(f"fold {fold}: {_listed(names)}")
        if lacking:
            notes.append(f"classes without a labelled pixel {what}: {_listed(lacking, '; ')}")
    return Census(notes, refusal + meant if refusal else "")


def _refusal(
    pixels_NC: NDArray[np.int64], folds: Folds, classes: Sequence[str], chosen: Sequence[int]
) -> str:
    """Why nothing can be learnt in a fold; empty where something can in all."""
    for fold in chosen:
        training = folds.training(fold)
        held = [classes[i] for i in np.flatnonzero(pixels_NC[training].sum(axis=0)).tolist()]
        if len(held) > 1:
            continue
        what = f"pixels of {held[0]} alone" if held else "no labelled pixel"
        told = f"fold {fold} cannot be trained: its {len(training)} training frames have {what}"
        if np.count_nonzero(pixels_NC.sum(axis=0)) < 2:
            return f"{told}, as all frames do; label at least two classes"
        cut = 'data.fold_kind = "random", or more data.blocks_per_fold'
        return f"{told}; cut the folds otherwise ({cut}), or label more of its frames"
    return ""


def _likely_meaning(dataset: Dataset, classes: Sequence[str], held_C: NDArray[np.bool_]) -> str:
    """What else the labels may mean where classes have no pixel, to be appended."""
    reports, samples = dataset.train.reports, dataset.train.samples
    held = np.flatnonzero(held_C).tolist()
    ignored = sum(report.ignored_pixels for report in reports)
    if samples[0].reading.labels or held_C.all():
        return ""
    unnamed = tuple(classes) == CLASSES
    if held == [0] and ignored and (unnamed or len(classes) == 2):
        pixels = int(hw_of(samples).prod(axis=1).sum())
        told = f"; {IGNORE_INDEX}, in {100 * ignored / pixels:.1f} % of the pixels, is unlabelled"
        what = "a second class" if unnamed else classes[1]
        typed = likely_table({0, IGNORE_INDEX}, classes[:2]) + (f" and {named(2)}" * unnamed)
        return f"{told}: if it is {what}, type {typed}"
    if unnamed and len(held) > 1 and held[-1] < len(classes) - 1:
        told = f"; the classes are NYU Depth v2's, and the labels hold 0..{held[-1]} only"
        return f"{told}: for other classes type {named(held[-1] + 1)}"
    return ""


def _listed(names: Sequence[str], joint: str = ", ") -> str:
    more = f"{joint}and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return joint.join(names[:_SHOWN]) + more
