"""python -m benchmarks.gate EARLIER NOW: did a ratio fall between two measurements?

Both are files that `--json` of one benchmark wrote, or certificates (`benchmarks.certify`), of the
same settings. Exit code: 1 if a ratio fell by more than the spread of the two, or if a section that
had held failed.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures
from engine.command import run_main


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, compare and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("earlier", type=Path, metavar="EARLIER")
    parser.add_argument("now", type=Path, metavar="NOW")
    options = parser.parse_args(arguments)
    now = _read(options.now)
    earlier = read_earlier(options.earlier, now.get("settings", {}))
    lines = [*fallen(earlier, now["rows"]), *failed(_read(options.earlier), now)]
    print("\n".join(lines) or "no ratio fell")
    return 1 if lines else 0


def read_earlier(path: Path, settings: Mapping[str, Any]) -> list[Figures]:
    """The rows of an earlier measurement.

    Args:
        path: the file.
        settings: of this benchmark; the earlier one must have measured the same thing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or was measured with other settings.
    """
    content = _read(path)
    earlier = content.get("settings", {})
    other = {key for key in settings if earlier.get(key) != settings[key]}
    if other:
        told = "; ".join(f"{key} {earlier.get(key)!r}, now {settings[key]!r}" for key in other)
        raise ValueError(f"{path} was measured with {told}; measure anew or leave out what differs")
    return list(content["rows"])


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


def failed(earlier: Figures, now: Figures) -> list[str]:
    """A line for every section of a certificate that held in the earlier one and has failed now."""
    before = earlier.get("sections", {})
    return [
        f"{name}: held before, now {section['state']}: {section['told']}"
        for name, section in now.get("sections", {}).items()
        if section["state"] == "failed" and before.get(name, {}).get("state") == "held"
    ]


def _read(path: Path) -> Figures:
    """The content of a file of figures."""
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
    return dict(content)


if __name__ == "__main__":
    run_main(main)
