"""The small form of `tests/storm.py`: a run killed, opened twice, put to sleep, shared."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_under_storm_a_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    amounts = ["--kills", "5", "--openings", "1", "--sleepers", "1", "--copies", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.storm", tmp_path / "storm", *amounts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs compared" in done.stdout
