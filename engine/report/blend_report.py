"""`blend.json` and the summary of a blend, and the tables that show them.

Axes: M models, N samples, C class (truth by prediction), F folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from engine.runtime.progress import duration
from engine.selection.blend import Fit
from engine.selection.statistics import Difference, Groups, paired_bootstrap
from kernels.confusion import class_iou, mean_iou, pixel_accuracy

GAIN_COLUMN = "on the best run, 95 % interval"


def describe_blend(
    runs: Sequence[tuple[str, float]],
    classes: Sequence[str],
    fit: Fit,
    count_KNCC: NDArray[np.int64],
    groups: Groups,
) -> dict[str, Any]:
    """What a blend is and what it gains.

    Args:
        runs: M names and temperatures.
        classes: class names.
        fit: the weights.
        count_KNCC: what `frame_confusions` returned: the runs, the blend, the honest blend.
        groups: the frames that a bootstrap draws together.

    Returns:
        The part of `blend.json` that follows from the counts: `members`, `oof`, `gain` over the
        best member with its paired interval, `honest`, `iou` of each class before and after,
        `curve` and `soft_weights`.
    """
    *member_counts, blend_CC, honest_CC = count_KNCC.sum(axis=1)
    members = [
        {
            "run": run,
            **_figures(count_CC),
            "temperature": temperature,
            "weight": _weight(weight_C, classes),
        }
        for (run, temperature), count_CC, weight_C in zip(
            runs, member_counts, fit.weight_MC, strict=True
        )
    ]
    mious = [mean_iou(count_CC) for count_CC in member_counts]
    best = int(np.argmax(mious))
    ious = [_named_iou(count_CC, classes) for count_CC in (*member_counts, blend_CC)]
    return {
        "members": members,
        "oof": _figures(blend_CC),
        "best_member": best,
        "gain": _gain(count_KNCC[-2], count_KNCC[best], groups),
        "honest": {
            **_figures(honest_CC),
            "gain": _gain(count_KNCC[-1], count_KNCC[best], groups),
            "weights": [[_weight(w_C, classes) for w_C in w_MC] for w_MC in fit.honest_FMC],
        },
        "iou": {
            name: {"members": [iou[name] for iou in ious[:-1]], "blend": ious[-1][name]}
            for name in classes
        },
        "curve": _curve(fit),
        "soft_weights": None if fit.soft_M is None else fit.soft_M.tolist(),
    }


def summarise_blend(
    blend: Mapping[str, Any],
    classes: Sequence[str],
    fold_of_N: NDArray[np.int64],
    blend_NCC: NDArray[np.int64],
) -> dict[str, Any]:
    """The part of a blend's `summary.json` that follows from its counts, shaped as a run's.

    Args:
        blend: what `describe_blend` returned.
        classes: class names.
        fold_of_N: (N,) the fold of each frame.
        blend_NCC: (N, C, C) counts of the blend.
    """
    count_CC = blend_NCC.sum(axis=0)
    temperatures = {member["temperature"] for member in blend["members"]}
    return {
        "oof": {
            **_figures(count_CC),
            # Runs of different temperatures have no common one.
            "temperature": temperatures.pop() if len(temperatures) == 1 else None,
            "iou": _named_iou(count_CC, classes),
            "confusion": count_CC.tolist(),
        },
        "folds": [
            {"fold": int(fold), "miou": mean_iou(blend_NCC[fold_of_N == fold].sum(axis=0))}
            for fold in np.unique(fold_of_N)
        ],
    }


def blend_tables(blend: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Table]:
    """Members and blend, classes and seconds as tables."""
    leakage = f"{summary['leakage']:.1%}"
    rows = Table(
        title=f"blend ({blend['method']}): OOF mIoU {blend['oof']['miou']:.4f}, "
        f"{blend['gain']['difference']:+.4f} on the best run; leakage {leakage}",
        title_justify="left",
        caption="blend: weights found on the frames that it is scored on; honest: each fold scored "
        "with the weights found without it",
        caption_justify="left",
    )
    rows.add_column("run", overflow="fold")
    for column in ("OOF mIoU", "pixel accuracy", "T", "weight", "leakage", GAIN_COLUMN):
        rows.add_column(column, justify="right")
    for member in blend["members"]:
        weight = member["weight"]
        shown = "by class" if isinstance(weight, dict) else f"{weight:.4f}"
        rows.add_row(*_cells(member["run"], member), f"{member['temperature']:g}", shown, leakage)
    for name, figures, gain in (
        ("blend", blend["oof"], blend["gain"]),
        ("blend, honest", blend["honest"], blend["honest"]["gain"]),
    ):
        rows.add_row(*_cells(name, figures), "", "", leakage, _shown_gain(gain))
    plain = blend["plain_slsqp"]
    if plain:
        shown = " ".join(f"{weight:.4f}" for weight in plain["weights"])
        name = f"plain SLSQP, {plain['evaluations']} passes"
        rows.add_row(name, f"{plain['miou']:.4f}", "", "", shown, leakage)
    classes = Table(title="IoU by class", title_justify="left")
    classes.add_column("class")
    for member in blend["members"]:
        classes.add_column(member["run"], justify="right")
    classes.add_column("blend", justify="right")
    for name, iou in blend["iou"].items():
        values = (*iou["members"], iou["blend"])
        classes.add_row(name, *("-" if value is None else f"{value:.4f}" for value in values))
    seconds = Table(title="time by stage", title_justify="left")
    seconds.add_column("stage")
    seconds.add_column("time", justify="right")
    for stage, value in summary["seconds"].items():
        seconds.add_row(stage, duration(value))
    return [rows, classes, seconds]


def weights_by_class(
    weight: float | Mapping[str, float], classes: Sequence[str]
) -> NDArray[np.float64]:
    """(C,) weights of a member from its `weight` in `blend.json`."""
    values = weight if isinstance(weight, float | int) else [weight[name] for name in classes]
    return np.broadcast_to(np.array(values, np.float64), len(classes)).copy()


def _figures(count_CC: NDArray[np.int64]) -> dict[str, float]:
    return {"miou": mean_iou(count_CC), "pixel_acc": pixel_accuracy(count_CC)}


def _gain(
    count_NCC: NDArray[np.int64], best_NCC: NDArray[np.int64], groups: Groups
) -> dict[str, Any]:
    """What is gained on the best member, with the interval of a paired bootstrap."""
    return {"groups_of": groups.kind, **asdict(paired_bootstrap(count_NCC, best_NCC, groups.of_N))}


def _shown_gain(gain: Mapping[str, Any]) -> str:
    values = {key: value for key, value in gain.items() if key != "groups_of"}
    return str(Difference(**values)).replace("groups", f"{gain['groups_of']}s")


def _cells(name: str, figures: Mapping[str, float]) -> tuple[str, str, str]:
    return name, f"{figures['miou']:.4f}", f"{figures['pixel_acc']:.4f}"


def _named_iou(count_CC: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float | None]:
    values = class_iou(count_CC).tolist()
    return {
        name: None if np.isnan(value) else value
        for name, value in zip(classes, values, strict=True)
    }


def _weight(weight_C: NDArray[np.float64], classes: Sequence[str]) -> float | dict[str, float]:
    """One number where all classes share it."""
    if (weight_C == weight_C[0]).all():
        return float(weight_C[0])
    return dict(zip(classes, weight_C.tolist(), strict=True))


def _curve(fit: Fit) -> dict[str, Any] | None:
    """For two runs, the exact mIoU by the second's share."""
    if fit.curve is None:
        return None
    peak = fit.curve.peaks[0]
    return {
        "share": fit.curve.share_J.tolist(),
        "miou": fit.curve.miou_J.tolist(),
        "peak": {"share": peak.share, "from": peak.low, "to": peak.high, "miou": peak.miou},
    }
