"""The machine that figures belong to, and the figures as a table."""

from typing import Any

from rich.console import Console
from rich.table import Table

from engine.runtime.environment import describe_environment


def describe_machine() -> dict[str, Any]:
    """Processor, threads, versions of ours and of the rivals, commit."""
    import importlib.metadata

    described = describe_environment(fingerprint="")
    described.pop("dataset_fingerprint")
    for name in ("opencv-python-headless", "albumentations", "torchmetrics", "scikit-learn"):
        described["versions"][name] = importlib.metadata.version(name)
    return described


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a table of medians, ratios with quartiles, and memory."""
    table = Table(
        title="ratio = rival / ours, median of the rounds; floor: share of our time that this "
        "machine's copy or matrix product would need for the same bytes or operations"
    )
    for column, side in (
        ("operation", "left"),
        ("ours", "right"),
        ("floor", "right"),
        ("rival", "left"),
        ("rival's", "right"),
        ("ratio", "right"),
        ("quartiles", "right"),
        ("extra MiB, ours", "right"),
        ("rival's", "right"),
    ):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for row in rows:
        low, high = row["quartiles"]
        table.add_row(
            row["name"],
            f"{1000 * row['median_s']:.1f} ms",
            f"{row['share_of_floor']:.0%}",
            row["rival"],
            f"{1000 * row['rival_median_s']:.1f} ms",
            f"{row['ratio']:.2f}",
            f"{low:.2f} .. {high:.2f}",
            f"{row['peak_extra_mib']:.1f}",
            f"{row['rival_peak_extra_mib']:.1f}",
        )
    # A log has no width of its own, and no row should be cut there.
    Console(width=None if Console().is_terminal else 120).print(table)


def print_stages(rows: list[dict[str, Any]]) -> None:
    """Print a table of `benchmarks.throughput`: a line a row and rival, phases below theirs."""
    if not rows:
        return
    table = Table(
        title="ratio = rival / ours, median of the rounds; floor: share of our time that this "
        "machine's copy or matrix product would need for the same bytes or operations; MiB: peak "
        "beyond the bare process, workers included, mapped files apart"
    )
    for column in ("work", "frames", "ours", "floor", "rival", "rival's", "ratio", "quartiles"):
        table.add_column(column, justify="left" if column in ("work", "rival") else "right")
    for column in ("MiB, ours", "rival's", "mIoU, ours", "rival's"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            str(row["frames"]),
            _seconds(row["median_s"]),
            f"{row['share_of_floor']:.0%}",
            row["rival"],
            _seconds(row["rival_median_s"]),
            f"{row['ratio']:.2f}",
            "{:.2f} .. {:.2f}".format(*row["quartiles"]),
            f"{row['peak_extra_mib']:.0f} + {row['peak_mapped_mib']:.0f}",
            f"{row['rival_peak_extra_mib']:.0f} + {row['rival_peak_mapped_mib']:.0f}",
            f"{row['miou']:.4f}" if "miou" in row else "",
            f"{row['rival_miou']:.4f}" if "miou" in row else "",
        )
        for phase, figures in row.get("phases", {}).items():
            table.add_row(
                f"  {phase}",
                "",
                _seconds(figures["median_s"]),
                f"{figures['median_s'] / row['median_s']:.0%} of it",
                "",
                _seconds(figures["rival_median_s"]),
                f"{figures['ratio']:.2f}" if figures["median_s"] > _TOO_SHORT_S else "",
            )
    _print(table)


def print_curves(curves: list[dict[str, Any]]) -> None:
    """Print a table of the costs against work: the points, and the fitted laws below them."""
    for curve in curves:
        table = Table(title=f"{curve['row']} against {curve['unit']}, rival: {curve['rival']}")
        for column in (curve["unit"], "ours", "rival's", "ratio", "MiB, ours", "rival's"):
            table.add_column(column, justify="right")
        for point in curve["points"]:
            table.add_row(
                str(point["work"]),
                _seconds(point["median_s"]),
                _seconds(point["rival_median_s"]),
                f"{point['rival_median_s'] / point['median_s']:.2f}",
                f"{point['peak_extra_mib']:.0f} + {point['peak_mapped_mib']:.0f}",
                f"{point['rival_peak_extra_mib']:.0f} + {point['rival_peak_mapped_mib']:.0f}",
            )
        fits = (curve["fit"], curve["rival_fit"])
        for title, key in (("exponent", "exponent"), ("off by at most", "worst")):
            table.add_row(title, *(f"{fit[key]:.3f}" for fit in fits))
        for title, key in (("one unit", "constant_s"), ("start-up", "startup_s")):
            table.add_row(title, *(_seconds(fit[key]) for fit in fits))
        _print(table)


_TOO_SHORT_S = 1e-4
"""Below this a phase is only the marks around it."""


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _print(table: Table) -> None:
    # A log has no width of its own, and no row should be cut there.
    Console(width=None if Console().is_terminal else 160).print(table)
