"""python -m engine.compare: two finished runs on the same frames -> difference, interval, p."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli import ConfigError, run_main
from engine.rundir import RunDir, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from engine.selection.statistics import Difference


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and compare; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.compare",
        description="Compare the out-of-fold predictions of two finished runs frame by frame: the "
        "difference in mIoU and in each class's IoU (first minus second), with 95 % interval and "
        "p-value of a paired bootstrap over scenes, or blocks of neighbouring frames.",
        allow_abbrev=False,
    )
    parser.add_argument("first", type=Path, metavar="RUN", help="run folder of engine.train")
    parser.add_argument("second", type=Path, metavar="RUN", help="the run it is compared with")
    parser.add_argument("--resamples", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    options = parser.parse_args(arguments)
    compare(RunDir(options.first), RunDir(options.second), options.resamples, options.seed)
    return 0


def compare(first: RunDir, second: RunDir, resamples: int, seed: int) -> None:
    """Print how two runs differ.

    Raises:
        ConfigError: a run is not finished, or they do not share frames, classes and folds.
        ValueError: they were scored on other labels.
    """
    from rich.console import Console

    Console().print(comparison_table(first, second, resamples, seed))


def comparison_table(first: RunDir, second: RunDir, resamples: int, seed: int) -> "Table":
    """What `compare` prints."""
    from rich.table import Table

    from engine.selection.statistics import class_differences, paired_bootstrap
    from kernels.confusion import class_iou, mean_iou

    shared = shared_frames(first, second)
    counts = shared.count_a_NCC, shared.count_b_NCC
    table = Table(
        title=f"out-of-fold, {len(shared.group_N)} frames, {shared.folds['kind']} folds, "
        f"leakage {shared.folds['leakage']:.1%}; groups: {shared.group_kind}s\n"
        f"A: {first.root}\nB: {second.root}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("A", "B", "A - B", "95 % interval", "p", "groups"):
        table.add_column(name, justify="right")
    totals = [count_NCC.sum(axis=0, dtype="int64") for count_NCC in counts]
    whole = paired_bootstrap(*counts, shared.group_N, resamples=resamples, seed=seed)
    rows: list[Any] = [("mIoU", *map(mean_iou, totals), whole)]
    by_class = class_differences(*counts, shared.group_N, resamples=resamples, seed=seed)
    rows += zip(shared.classes, *map(class_iou, totals), by_class, strict=True)
    for name, a, b, difference in rows:
        scores = ("-" if math.isnan(score) else f"{score:.4f}" for score in (a, b))
        table.add_row(name, *scores, *_cells(difference), end_section=name == "mIoU")
    return table


def _cells(found: "Difference | None") -> tuple[str, str, str, str]:
    """Difference, interval, p-value and groups."""
    if found is None:
        return "-", "-", "-", "-"
    difference, groups = f"{found.difference:+.4f}", str(found.groups)
    if found.low is None or found.high is None or found.p is None:
        return difference, "too few groups", "-", groups
    return difference, f"{found.low:+.4f} .. {found.high:+.4f}", f"{found.p:.3f}", groups


@dataclass(frozen=True, eq=False)
class SharedFrames:
    """Two runs' counts on the same frames.

    Axes: N frames, C class (truth by prediction).
    """

    classes: Sequence[str]
    folds: dict[str, Any]
    """`folds.json`, the same of both."""
    group_kind: str
    """What the groups are: scene or block."""
    group_N: "NDArray[np.int64]"
    """(N,) the group, for the bootstrap, of each frame."""
    count_a_NCC: "NDArray[np.uint32]"
    count_b_NCC: "NDArray[np.uint32]"


def shared_frames(first: RunDir, second: RunDir) -> SharedFrames:
    """Check that two runs can be compared, and read their counts.

    Raises:
        ConfigError: a run is not finished, or they do not share frames, classes and folds.
    """
    import numpy as np

    atlases, counts = zip(*(_counts(run) for run in (first, second)), strict=True)
    folds = [read_json(run.folds) for run in (first, second)]
    for what, found in (
        ("classes", [list(atlas["classes"]) for atlas in atlases]),
        ("training frames", [list(fold["fold_of"]) for fold in folds]),
        ("folds", folds),
        ("scenes", [atlas["groups"] for atlas in atlases]),
    ):
        if found[0] != found[1]:
            raise ConfigError(
                f"{first.root} and {second.root} have other {what}; compare runs with the same "
                "data.root, data.classes and data.fold_* settings"
            )
    groups = atlases[0]["groups"]
    group_N = np.array(groups["of"], np.int64)
    return SharedFrames(list(atlases[0]["classes"]), folds[0], groups["kind"], group_N, *counts)


def _counts(run: RunDir) -> tuple[dict[str, Any], Any]:
    import numpy as np

    if not run.config.exists():
        raise ConfigError(f"{run.root} is not a run folder: it has no {run.config.name}")
    for path in (run.folds, run.atlas, run.frame_counts):
        if not path.exists():
            raise ConfigError(f"{run.root} has no {path.name}; complete it with engine.train first")
    atlas = read_json(run.atlas)
    try:
        count_NCC = np.load(run.frame_counts, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigError(
            f"{run.frame_counts} is damaged ({error}); delete it and run engine.train again"
        ) from error
    classes = len(atlas["classes"])
    expected = (len(atlas["groups"]["of"]), classes, classes)
    if count_NCC.shape != expected:
        raise ConfigError(
            f"{run.frame_counts} holds {count_NCC.shape}, {run.atlas.name} says {expected}; "
            "delete it and run engine.train again"
        )
    return atlas, count_NCC


if __name__ == "__main__":
    run_main(main)
