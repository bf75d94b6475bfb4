"""What benchmarks.scale fits and adds up, and a stage that really runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from engine.mistakes import ConfigError


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of half a second and a millisecond a frame, every second run twice as long."""
    calls: list[tuple[str, str]] = []

    def run(stage: str, data: Path, work: Path) -> dict[str, float]:
        calls.append((stage, data.name))
        frames = int(data.name.removeprefix("frames"))
        cpu_s = (0.5 + 1e-3 * frames) * (2 - calls.count(calls[-1]) % 2)
        return {"wall_s": cpu_s, "cpu_s": cpu_s, "peak_mib": frames / 100, "before_mib": 1.0}

    monkeypatch.setattr(scale, "_run", run)
    monkeypatch.setattr(scale, "_make", lambda data, count: data.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(scale, "_MOST_MIB", 300)


def measured(out: Path, *words: object) -> int:
    work = out.parent / "work"
    return scale.main([*map(str, words), "--json", str(out), "--work", str(work)])


def test_the_fit_tells_start_up_from_growth_over_several_calls(
    tmp_path: Path, pretended: None
) -> None:
    out = tmp_path / "scale.json"
    stages = "--stages", "check", "leakage"
    assert measured(out, "--frames", 300, 3000, *stages) == 0
    assert measured(out, "--frames", 10_000, 30_000, 3000, *stages) == 0
    found = json.loads(out.read_text())
    assert [row["frames"] for row in found["rows"]] == 2 * [300, 3000, 10_000, 30_000]
    fit = found["fits"]["check"]
    assert fit["exponent"] == pytest.approx(1, abs=0.006)
    assert fit["startup_s"] == pytest.approx(0.5, rel=0.02)
    # Few frames are compared in another way.
    assert found["fits"]["leakage"]["startup_s"] == 0


def test_too_much_memory_is_an_exit_code_and_other_machines_are_not_mixed(
    tmp_path: Path, pretended: None
) -> None:
    out = tmp_path / "scale.json"
    assert measured(out, "--frames", 29_000, "--stages", "check", "loader") == 0
    assert measured(out, "--frames", 31_000, "--stages", "check", "loader") == 1
    content: dict[str, Any] = json.loads(out.read_text())
    content["machine"]["python"] = "another"
    out.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="of another machine or other versions"):
        measured(out, "--frames", 300, "--stages", "check")


def test_a_stage_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "frames100"
    scale._make(data, 100)
    found = scale._run("index", data, tmp_path)
    assert 0 < found["cpu_s"] < 5
    assert 10 < found["before_mib"] <= found["peak_mib"] < 200
