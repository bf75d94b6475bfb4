"""Whether ratios fell behind those of an earlier benchmark of the same settings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_earlier(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier `--json` file.

    Args:
        path: the file.
        settings: of this benchmark; the earlier one must have measured the same thing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or was measured with other settings.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}; give a file that --json wrote"
        ) from error
    rows = content.get("rows") if isinstance(content, dict) else None
    needed = {"name", "rival", "ratio", "quartiles"}
    if not isinstance(rows, list) or not all(needed <= set(row) for row in rows):
        raise ValueError(f"{path} holds no rows of a benchmark; give a file that --json wrote")
    earlier = content.get("settings", {})
    other = {key for key in settings if earlier.get(key) != settings[key]}
    if other:
        told = "; ".join(f"{key} {earlier.get(key)!r}, now {settings[key]!r}" for key in other)
        raise ValueError(f"{path} was measured with {told}; ratios can only be held to the same")
    return rows


def fallen(earlier: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every row whose ratio fell by more than the spread of the two measurements.

    The spread is the larger of their interquartile ranges.

    Raises:
        ValueError: they have no row in common, so that nothing was compared.
    """
    before = {(row["name"], row["rival"]): row for row in earlier}
    common = [row for row in now if (row["name"], row["rival"]) in before]
    if not common:
        raise ValueError("the earlier file and this run have no row in common; choose other --rows")
    lines = []
    for row in common:
        old = before[row["name"], row["rival"]]
        spread = max(high - low for low, high in (old["quartiles"], row["quartiles"]))
        if old["ratio"] - row["ratio"] > spread:
            lines.append(
                f"{row['name']} against {row['rival']}: ratio {row['ratio']:.2f}, "
                f"was {old['ratio']:.2f}, spread {spread:.2f}"
            )
    return lines
