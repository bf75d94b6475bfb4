"""The small form of `tests/storm.py`: a run killed, opened twice, put to sleep, shared."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.full)])
def test_under_storm_a_run_ends_with_the_same_bytes(kills: int, tmp_path: Path) -> None:
    amounts = ["--kills", str(kills), "--openings", "1", "--sleepers", "1", "--copies", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.storm", tmp_path / "storm", *amounts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs compared" in done.stdout
