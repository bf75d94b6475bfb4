"""The gate stops a ratio that fell by more than its spread, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gate import fallen, main, read_earlier

_SETTINGS = {"size": "lite", "frames": None}


def row(ratio: float, spread: float, name: str = "epoch", rival: str = "plain") -> dict[str, Any]:
    half = spread / 2
    return {"name": name, "rival": rival, "ratio": ratio, "quartiles": [ratio - half, ratio + half]}


@pytest.mark.parametrize(
    ("before", "now", "stops"),
    [
        (row(2.0, 0.1), row(1.95, 0.1), False),
        (row(2.0, 0.1), row(1.8, 0.1), True),
        # Either measurement may be the noisy one.
        (row(2.0, 0.4), row(1.8, 0.01), False),
        (row(2.0, 0.01), row(1.8, 0.4), False),
        (row(2.0, 0.1), row(3.0, 0.1), False),
    ],
)
def test_a_fall_stops_only_beyond_the_spread(
    before: dict[str, Any], now: dict[str, Any], stops: bool
) -> None:
    lines = fallen([before], [now])
    assert bool(lines) == stops
    if stops:
        assert lines == ["epoch against plain: ratio 1.80, was 2.00, spread 0.10"]


def test_rows_are_told_apart_by_rival_and_missing_ones_passed_over() -> None:
    before = [row(2.0, 0.1), row(9.0, 0.1, rival="plain, AMP"), row(5.0, 0.1, name="oof")]
    assert fallen(before, [row(2.0, 0.1), row(8.0, 0.1, rival="plain, AMP")]) == [
        "epoch against plain, AMP: ratio 8.00, was 9.00, spread 0.10"
    ]


def test_nothing_in_common_is_an_error_and_no_pass() -> None:
    with pytest.raises(ValueError, match="no row in common"):
        fallen([row(2.0, 0.1, name="oof")], [row(2.0, 0.1)])


def test_a_file_of_the_same_settings_is_read(tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"rows": [row(2.0, 0.1)], "settings": _SETTINGS}), "utf-8")
    assert read_earlier(path, _SETTINGS) == [row(2.0, 0.1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no rows"),
        ('{"rows": [{"name": "epoch"}]}', "no rows"),
        ('{"rows": [], "settings": {"size": "full", "frames": null}}', "'full', now 'lite'"),
        ("{", "not valid JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        read_earlier(path, _SETTINGS)


def certificate(path: Path, ratio: float, state: str, device: str = "H100") -> str:
    """What `benchmarks.certify` leaves, as far as it is compared."""
    content = {
        "settings": {"device": device},
        "sections": {
            "run": {"state": state, "told": "no submission"},
            "tests": {"state": "failed"},
        },
        "rows": [row(ratio, 0.1)],
    }
    path.write_text(json.dumps(content), "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("ratio", "state", "told"),
    [
        (2.0, "held", ["no ratio fell"]),
        (2.0, "out of time", ["no ratio fell"]),
        (1.8, "held", ["epoch against plain: ratio 1.80, was 2.00, spread 0.10"]),
        (2.0, "failed", ["run: held before, now failed: no submission"]),
    ],
)
def test_two_certificates_are_compared_by_their_rows_and_their_sections(
    ratio: float, state: str, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = certificate(tmp_path / "earlier.json", 2.0, "held")
    now = certificate(tmp_path / "now.json", ratio, state)
    assert main([earlier, now]) == (0 if told == ["no ratio fell"] else 1)
    assert capsys.readouterr().out.splitlines() == told


def test_certificates_of_different_devices_are_not_compared(tmp_path: Path) -> None:
    earlier = certificate(tmp_path / "earlier.json", 2.0, "held")
    now = certificate(tmp_path / "now.json", 2.0, "held", device="A100")
    with pytest.raises(ValueError, match="device 'H100', now 'A100'"):
        main([earlier, now])
