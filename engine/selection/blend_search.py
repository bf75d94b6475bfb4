"""From several runs to `blend.json`: search the weights, count, describe.

Axes: M runs, K counted systems (the runs, the blend, the honest blend), N samples, C class (truth
by prediction), F folds.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.frames.index import Dataset
from engine.rundir import Record
from engine.selection.blend import Method, PlainSearch, fit_weights, maximise_plainly
from engine.selection.blend_calibration import blend_calibration
from engine.selection.calibration import Calibration
from engine.selection.members import Member, Told, open_pixels
from engine.selection.pixels import frame_confusions
from engine.selection.records import Figure, FoldScore, OofScores, Scores
from engine.selection.scores import by_class, group_of, score, score_folds
from engine.selection.statistics import Difference, paired_bootstrap
from engine.selection.sweep import Sweep
from kernels.compiling import work_s
from kernels.metrics import class_iou, mean_iou

Weight = float | dict[str, float]
"""A run's weight: one number where all classes share it, else by class."""


class BlendedRun(Record):
    """A run alone, and its part in the blend."""

    run: str
    """Its folder."""
    miou: float
    pixel_acc: float
    temperature: float
    weight: Weight


class HonestScores(Scores):
    """What the blend reaches if each fold is scored with weights found without it."""

    gain: Difference
    """On the best run."""
    weights: list[list[Weight]]
    """By fold and run."""


class BlendIou(Record):
    """A class's IoU before and after."""

    members: list[Figure]
    blend: Figure


class BlendCurve(Record):
    """The exact mIoU of two runs by the second's share."""

    share: list[float]
    miou: list[float]
    peak: dict[str, float]
    """The highest "miou", the ends "from" and "to" of the widest stretch that has it, and the
    "share" that was taken: the middle."""


class BlendReach(Record):
    """The part of a blend's `summary.json` that follows from its counts."""

    oof: OofScores
    folds: list[FoldScore]


class Blend(Record):
    """`blend.json`."""

    key: str
    """Hash of everything that the blend is made from."""
    leakage: float
    """Share of frames with a neighbour among the training frames of their fold."""
    method: Method
    per_class: bool
    members: list[BlendedRun]
    oof: Scores
    best_member: int
    gain: Difference
    """On the best run alone."""
    honest: HonestScores
    iou: dict[str, BlendIou]
    curve: BlendCurve | None
    """Of two runs with shared weights that were searched for."""
    soft_weights: list[float] | None
    """Where the soft mIoU is highest, if that was looked for."""
    plain_slsqp: PlainSearch | None
    seconds: dict[str, float]
    """By stage."""
    summary: BlendReach
    calibration: Calibration | None = None
    """Of the blend, on the stores; left out where it was not measured, as by older releases."""

    def weights_of(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """(M, C) float64 weights of the classes of those names."""
        given = (run.weight for run in self.members)
        by_name = (w if isinstance(w, dict) else dict.fromkeys(classes, w) for w in given)
        return np.array([[weight[name] for name in classes] for weight in by_name], np.float64)


class BlendSearch(NamedTuple):
    """How the weights of a blend are found.

    Attributes:
        method: see `fit_weights`.
        per_class: likewise.
        compare: run SciPy's SLSQP on the mIoU itself, too.
    """

    method: Method
    per_class: bool
    compare: bool

    def key(self, members: Sequence[Member | Told]) -> str:
        """Hash of everything that a blend of these runs is made from."""
        settings = [self.method, str(self.per_class), str(self.compare)]
        parts = "\n".join([*(member.manifest.key for member in members), *settings])
        return hashlib.sha256(parts.encode()).hexdigest()


def search_blend(
    members: Sequence[Member], dataset: Dataset, search: BlendSearch, prepare_s: float
) -> Blend:
    """Find the weights of a blend and what they gain.

    Args:
        members: M runs.
        dataset: theirs; its training frames are counted.
        search: how.
        prepare_s: seconds that opening the runs and the data took.
    """
    pixels, classes = open_pixels(members, dataset), members[0].manifest.classes
    seconds, start_s = {"prepare": prepare_s}, work_s()

    def note(stage: str) -> None:
        nonlocal start_s
        now_s = work_s()
        seconds[stage], start_s = round(now_s - start_s, 3), now_s

    fit = fit_weights(pixels, search.method, per_class=search.per_class)
    note("search")
    # By frame, so that the bootstrap can draw frames again; their sums are the scores.
    count_KNCC = frame_confusions(pixels, fit.systems)
    note("count")
    measured = blend_calibration(pixels, fit.weight_MC, _temperature(members))
    note("calibration")
    plain = maximise_plainly(pixels) if search.compare else None
    if plain:
        note("plain_slsqp")
    total_KCC, groups = count_KNCC.sum(axis=1), group_of(dataset.train.samples)
    # The last two systems are the blend and the honest blend, before them stand the runs.
    *alone, blended, honest = map(score, total_KCC)
    best = max(range(len(alone)), key=lambda m: alone[m].miou)
    iou_CK = np.stack([class_iou(count_CC) for count_CC in total_KCC[:-1]], axis=1).tolist()

    def gain(count_NCC: NDArray[np.int64]) -> Difference:
        found = paired_bootstrap(count_NCC, count_KNCC[best], np.array(groups.of))
        return found.miou.model_copy(update={"groups_of": groups.kind})

    def weight(weight_C: NDArray[np.float64]) -> Weight:
        same = (weight_C == weight_C[0]).all()
        return float(weight_C[0]) if same else by_class(classes, weight_C)

    return Blend(
        key=search.key(members),
        leakage=members[0].leakage,
        method=search.method,
        per_class=search.per_class,
        members=[
            BlendedRun(
                run=str(member.run.root),
                **dict(scores),
                temperature=member.manifest.temperature,
                weight=weight(weight_C),
            )
            for member, scores, weight_C in zip(members, alone, fit.weight_MC, strict=True)
        ],
        oof=blended,
        best_member=best,
        gain=gain(count_KNCC[-2]),
        honest=HonestScores(
            **dict(honest),
            gain=gain(count_KNCC[-1]),
            weights=[[weight(weight_C) for weight_C in w_MC] for w_MC in fit.honest_FMC],
        ),
        iou={
            name: BlendIou(members=iou_K[:-1], blend=iou_K[-1])
            for name, iou_K in zip(classes, iou_CK, strict=True)
        },
        curve=None if fit.curve is None else _curve(fit.curve),
        soft_weights=None if fit.soft_M is None else fit.soft_M.tolist(),
        plain_slsqp=plain,
        seconds=seconds,
        summary=_reach(members, count_KNCC[-2]),
        **({} if measured is None else {"calibration": measured}),
    )


def _curve(found: Sweep) -> BlendCurve:
    peak = found.peaks[0]
    stretch = {"share": peak.share, "from": peak.low, "to": peak.high, "miou": peak.miou}
    return BlendCurve(share=found.share_J.tolist(), miou=found.miou_J.tolist(), peak=stretch)


def _reach(members: Sequence[Member], blend_NCC: NDArray[np.int64]) -> BlendReach:
    fold_of_N = np.array(members[0].manifest.folds)
    counts = {int(fold): blend_NCC[fold_of_N == fold].sum(axis=0) for fold in np.unique(fold_of_N)}
    folds = [FoldScore(fold=fold, miou=mean_iou(count)) for fold, count in counts.items()]
    oof = score_folds(counts, members[0].manifest.classes, _temperature(members))
    return BlendReach(oof=oof, folds=folds)


def _temperature(members: Sequence[Member]) -> float | None:
    """The one that all runs share; runs of different ones have none."""
    temperatures = {member.manifest.temperature for member in members}
    return temperatures.pop() if len(temperatures) == 1 else None
