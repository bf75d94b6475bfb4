"""The tables and the picture show every figure that was measured."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.report import draw_curves, print_curves, print_rows

_COMPARED: dict[str, Any] = {
    "median_s": 0.25,
    "rival_median_s": 1.5,
    "ratio": 6.0,
    "quartiles": [5.5, 6.5],
    "share_of_floor": 0.4,
    "peak_extra_mib": 123.4,
    "rival_peak_extra_mib": 456.7,
    "peak_mapped_mib": 78.0,
    "rival_peak_mapped_mib": 9.0,
}
_ROWS = [
    {"name": "validation", "rival": "plain", "frames": 40, "miou": 0.5, "rival_miou": 0.51}
    | _COMPARED,
    {"name": "train step", "rival": "plain, AMP", "frames": 8}
    | _COMPARED
    | {"phases": {"forward": {"median_s": 0.1, "rival_median_s": 0.2, "ratio": 2.0}}},
]


def curve(name: str, unit: str) -> dict[str, Any]:
    law = {"exponent": 1.0, "constant_s": 0.01, "startup_s": 0.5, "worst": 0.02}
    figures = {key: value for key, value in _COMPARED.items() if key.endswith(("_mib", "_s"))}
    points = [
        figures | {"work": n, "median_s": 0.5 + 0.01 * n, "rival_median_s": 1 + 0.05 * n}
        for n in (50, 100, 795)
    ]
    slower = law | {"constant_s": 0.05, "startup_s": 1.0}
    return {
        "name": name,
        "row": "epoch",
        "unit": unit,
        "rival": "plain",
        "points": points,
        "fit": law,
        "rival_fit": slower,
    }


def test_every_row_rival_and_phase_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(_ROWS)
    shown = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    assert {"250.0 ms", "1.50 s", "6.00", "5.50 .. 6.50", "40%", "0.5000", "0.5100"} <= {
        cell.strip() for cell in lines["validation"].split("│")
    }
    assert "123 + 78.0" in lines["validation"]
    assert "457 + 9.0" in lines["validation"]
    assert "plain, AMP" in lines["train step"]
    assert "40% of it" in lines["forward"]
    assert "2.00" in lines["forward"]


def test_a_curve_shows_points_exponents_and_constants(capsys: pytest.CaptureFixture[str]) -> None:
    print_curves([curve("frames", "frames")])
    shown = capsys.readouterr().out
    for text in ("795", "8.45 s", "40.75 s", "4.82", "1.000", "10.0 ms", "50.0 ms", "500.0 ms"):
        assert text in shown, text


def test_the_picture_has_a_panel_a_curve_with_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw_curves([curve("frames", "frames"), curve("crops", "crop area")], path)
    with Image.open(path) as image:
        width, height = image.size
        assert width == 2 * height
        for panel in (0, 1):
            part = image.convert("RGB").crop((panel * height, 0, (panel + 1) * height, height))
            colours = {colour for _, colour in part.getcolors(1 << 20) or ()}
            assert {(0, 102, 204), (204, 85, 0)} <= colours
