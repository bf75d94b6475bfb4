"""One thing bent in a data folder, a finished run or a config: see `tests.fuzzing`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("cases", "processes"), [(12, 1), pytest.param(300, 2, marks=pytest.mark.full)]
)
def test_what_is_bent_is_refused_by_name_or_changes_nothing_unsaid(
    cases: int, processes: int
) -> None:
    each, running = cases // processes, []
    for first in range(0, cases, each):
        command = [sys.executable, "-m", "tests.fuzzing", f"--from={first}"]
        running.append(
            subprocess.Popen(
                [*command, f"--count={first + each}"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes, "\n".join(said)
