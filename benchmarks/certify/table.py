"""A certificate as one table."""

import json
from typing import Any

from benchmarks.certify.certificate import ending
from benchmarks.figures import Figures
from benchmarks.report import print_table
from engine.report.tables import Row

_LONGEST = 96
"""Characters of a finding; the JSON holds all of it."""


def print_certificate(certificate: Figures) -> None:
    """Print a line a section, then one for each of its findings and rows."""
    lines: list[Row] = []
    for name, content in certificate["sections"].items():
        lines += [(), (name, ending(content), f"{content.get('seconds', '')}")]
        lines += [("", f"{key}: {_told(value)}", "") for key, value in content["found"].items()]
    if certificate["rows"]:
        lines += [()]
    for row in certificate["rows"]:
        against = f"{row['ratio']:.2f} x faster than {row['rival']}"
        ours = f"{1000 * row['median_s']:.3f} ms, {row['share_of_floor']:.0%} of its floor"
        lines.append((row["name"], f"{against}; {ours}", ""))
    device = certificate["settings"]["device"]
    print_table(f"certificate of {device or 'this machine'}", ("section", "found", "s"), lines)


def _told(value: Any) -> str:
    if isinstance(value, dict) and "holds" in value:
        return f"{'holds' if value['holds'] else 'DOES NOT HOLD'}: {value['told']}"
    if isinstance(value, dict):
        value = ", ".join(f"{key} {part}" for key, part in value.items())
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
