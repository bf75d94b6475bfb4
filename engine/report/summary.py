"""`summary.json`: what a run reached, and the tables that show it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from engine.runtime.progress import duration
from kernels.confusion import class_iou, mean_iou, pixel_accuracy


def summarise(
    classes: Sequence[str],
    predicted: Mapping[str, Mapping[str, Any]],
    temperature: Mapping[str, Any],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    leakage: float,
) -> dict[str, Any]:
    """The run's out-of-fold figures.

    Args:
        classes: class names.
        predicted: the store's state by fold: `confusion` (T, C, C) and `elapsed_s`.
        temperature: what `choose_temperature` returned.
        metrics: the epoch lines of each fold.
        leakage: share of validation frames with a neighbour among the fold's training frames.

    Returns:
        The part of `summary.json` that does not depend on the submission.
    """
    t = temperature["index"]
    count_by_fold = {
        int(fold): np.array(state["confusion"], np.int64)[t] for fold, state in predicted.items()
    }
    count_CC = np.sum(list(count_by_fold.values()), axis=0)
    iou = {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(classes, class_iou(count_CC), strict=True)
    }
    folds = []
    for fold, fold_CC in sorted(count_by_fold.items()):
        best = max((m for m in metrics[fold] if "miou" in m), key=lambda m: m["miou"])
        folds.append(
            {
                "fold": fold,
                "miou": mean_iou(fold_CC),
                "best_epoch": best["epoch"],
                "validation_miou": best["miou"],
            }
        )
    lines = [line for fold_lines in metrics.values() for line in fold_lines]
    return {
        "oof": {
            "miou": mean_iou(count_CC),
            "pixel_acc": pixel_accuracy(count_CC),
            "temperature": temperature["best"],
            "iou": iou,
            "confusion": count_CC.tolist(),
        },
        "folds": folds,
        "seconds": {
            "training": sum(line["train_s"] for line in lines),
            "validation": sum(line["validation_s"] for line in lines),
            "oof": sum(state["elapsed_s"] for state in predicted.values()),
        },
        "leakage": leakage,
    }


def summary_tables(summary: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Folds, temperatures, classes and seconds of a `summary.json` as tables."""
    oof = summary["oof"]
    folds = Table(
        title=f"OOF mIoU {oof['miou']:.4f}, pixel accuracy {oof['pixel_acc']:.4f} at "
        f"T = {oof['temperature']:g}; leakage {summary['leakage']:.1%}",
        title_justify="left",
    )
    for column in ("fold", "OOF mIoU", "best epoch", "single-view mIoU"):
        folds.add_column(column, justify="right")
    for fold in summary["folds"]:
        folds.add_row(
            str(fold["fold"]),
            f"{fold['miou']:.4f}",
            str(fold["best_epoch"]),
            f"{fold['validation_miou']:.4f}",
        )
    temperatures = Table(title="temperatures", title_justify="left")
    for column in ("T", "OOF mIoU", "pixel accuracy"):
        temperatures.add_column(column, justify="right")
    for score in scores:
        temperatures.add_row(
            f"{score['temperature']:g}", f"{score['miou']:.4f}", f"{score['pixel_acc']:.4f}"
        )
    classes = Table(title="IoU by class", title_justify="left")
    classes.add_column("class")
    classes.add_column("IoU", justify="right")
    for name, value in oof["iou"].items():
        classes.add_row(name, "-" if value is None else f"{value:.4f}")
    seconds = Table(title="time by stage", title_justify="left")
    seconds.add_column("stage")
    seconds.add_column("time", justify="right")
    for stage, value in summary["seconds"].items():
        seconds.add_row(stage, duration(value))
    return [folds, temperatures, classes, seconds]
