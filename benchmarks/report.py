"""The machine that figures belong to, and the figures as a table."""

from typing import Any

from rich.console import Console
from rich.table import Table

from engine.environment import describe_environment


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
