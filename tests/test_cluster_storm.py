"""The small form of `tests/cluster_storm.py`: a sweep on Ray whose nodes are not left in peace."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.bench("ray")
def test_a_sweep_on_a_cluster_under_storm_ends_with_the_bytes_of_a_calm_one(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster_storm", tmp_path / "storm", "--small"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 runs and blends of the same bytes" in done.stdout
    assert "1 driver killed" in done.stdout
