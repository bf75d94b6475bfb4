"""The machine that figures belong to, and the figures as a table."""

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.rundir import write_text
from engine.runtime.environment import describe_environment

_TOO_SHORT_S = 1e-4
"""Below this a phase is only the marks around it."""

_COLUMNS = (
    *("work", "frames", "ours", "floor", "rival", "rival's", "ratio", "quartiles"),
    *("MiB, ours", "rival's", "mIoU, ours", "rival's"),
)
_LOG_WIDTH = 160
"""A log has no width of its own, and no row should be cut there."""


def describe_machine() -> dict[str, Any]:
    """Processor, threads, versions of ours and of the rivals, commit."""
    described = describe_environment(fingerprint="").model_dump(exclude={"dataset_fingerprint"})
    for name in ("opencv-python-headless", "albumentations", "torchmetrics", "scikit-learn"):
        described["versions"][name] = importlib.metadata.version(name)
    return described


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of rows of the JSON: a line a row and rival, phases below theirs."""
    if not rows:
        return
    lines: list[list[str]] = []
    for row in rows:
        ours_mib, rival_mib = _mib(row)
        lines.append(
            [
                row["name"],
                str(row.get("frames", "")),
                _seconds(row["median_s"]),
                f"{row['share_of_floor']:.0%}",
                row["rival"],
                _seconds(row["rival_median_s"]),
                f"{row['ratio']:.2f}",
                "{:.2f} .. {:.2f}".format(*row["quartiles"]),
                ours_mib,
                rival_mib,
                *(f"{row[key]:.4f}" if key in row else "" for key in ("miou", "rival_miou")),
            ]
        )
        for phase, figures in row.get("phases", {}).items():
            ours_s, rival_s = figures["median_s"], figures["rival_median_s"]
            share = f"{ours_s / row['median_s']:.0%} of it"
            ratio = f"{figures['ratio']:.2f}" if ours_s > _TOO_SHORT_S else ""
            lines.append([f"  {phase}", "", _seconds(ours_s), share, "", _seconds(rival_s), ratio])
    _print_table(
        "ratio = rival / ours, median of the rounds; floor: share of our time that this machine's "
        "copy or matrix product would need for the same bytes or operations; MiB: peak beyond what "
        "was there before, mapped files apart",
        _COLUMNS,
        lines,
    )


def print_curves(curves: Sequence[dict[str, Any]]) -> None:
    """Print a table of the costs against work: the points, and the fitted laws below them."""
    for curve in curves:
        fits = (curve["fit"], curve["rival_fit"])
        lines: list[list[str]] = []
        for point in curve["points"]:
            ours_s, rival_s = point["median_s"], point["rival_median_s"]
            times = _seconds(ours_s), _seconds(rival_s), f"{rival_s / ours_s:.2f}"
            lines.append([str(point["work"]), *times, *_mib(point)])
        for title, key in (("exponent", "exponent"), ("off by at most", "worst")):
            lines.append([title, *(f"{fit[key]:.3f}" for fit in fits)])
        for title, key in (("one unit", "constant_s"), ("start-up", "startup_s")):
            lines.append([title, *(_seconds(fit[key]) for fit in fits)])
        _print_table(
            f"{curve['row']} against {curve['unit']}, rival: {curve['rival']}",
            (curve["unit"], "ours", "rival's", "ratio", "MiB, ours", "rival's"),
            lines,
        )


def _mib(figures: dict[str, Any]) -> list[str]:
    """Memory of ours and of the rival, mapped files apart where they were measured."""
    kinds = [kind for kind in ("extra", "mapped") if f"peak_{kind}_mib" in figures]
    return [
        " + ".join(f"{figures[f'{side}peak_{kind}_mib']:.0f}" for kind in kinds)
        for side in ("", "rival_")
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _print_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("work", "rival") else "right")
    for line in lines:
        table.add_row(*line)
    Console(width=None if Console().is_terminal else _LOG_WIDTH).print(table)
