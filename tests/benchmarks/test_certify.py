"""A certificate outlives whatever its sections do; made-up ones stand for them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from benchmarks.certify.__main__ import main
from benchmarks.certify.certificate import _BURIAL_S, ROOT, certify, tied
from benchmarks.certify.sections import SECTIONS, Section
from benchmarks.certify.table import print_certificate

_MADE_UP = """
import os, signal, subprocess, sys, time
from benchmarks.certify.notes import NotHereError

def holds(notes):
    notes.note("found", 1)
    notes.check("checked", True, "as it should be")

def fails(notes):
    notes.check("checked", False, "seen otherwise")
    notes.note("found", 2)

def raises(notes):
    notes.note("found", 3)
    raise RuntimeError("no such thing")

def crashes(notes):
    notes.note("found", 4)
    os.kill(os.getpid(), signal.SIGSEGV)

def lacks(notes):
    notes.note("found", 5)
    raise NotHereError("no GPU")

def hangs(notes):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    notes.note("pids", [os.getpid(), child.pid])
    time.sleep(600)

def hangs_after_a_fault(notes):
    notes.check("checked", False, "seen otherwise")
    time.sleep(600)
"""

_LIMIT_S = 60


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; `section` finds functions in a module that the sections' processes can import."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "made_up.py").write_text(_MADE_UP, "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(modules), str(ROOT)]))
    return tmp_path / "out"


@pytest.fixture
def impatient(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section's time is up as soon as it has found something, however slow the machine is."""
    wait = subprocess.Popen.wait

    def wait_for_a_finding(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        asks = timeout is not None and timeout > _BURIAL_S
        while asks and self.poll() is None:
            if any(
                json.loads(file.read_text("utf-8"))["found"] for file in made_up.glob("h*.json")
            ):
                raise subprocess.TimeoutExpired("a section", 0.0)
            time.sleep(0.02)
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_a_finding)


def section(name: str) -> Section:
    return Section(name, "nothing", f"made_up:{name}", _LIMIT_S)


def later(seconds: float = 10 * _LIMIT_S) -> float:
    return time.monotonic() + seconds


def read(folder: Path, name: str = "certificate") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return content


def has_found(file: Path) -> bool:
    return file.exists() and bool(json.loads(file.read_text("utf-8"))["found"])


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or does soon: a zombie does nothing any more."""

    def gone() -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("ascii")
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    return eventually(gone)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within a minute; nothing here takes more than some seconds."""
    for _ in range(3000):
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_what_ends_a_section_ends_that_section_only(made_up: Path) -> None:
    sections = [section(name) for name in ("raises", "crashes", "fails", "lacks", "holds")]
    assert certify(sections, made_up, later()) == 1
    found = read(made_up)["sections"]
    ends = {name: (content["state"], content["told"]) for name, content in found.items()}
    assert ends == {
        "raises": ("failed", "RuntimeError: no such thing"),
        "crashes": ("failed", "signal 11"),
        "fails": ("failed", ""),
        "lacks": ("not here", "no GPU"),
        "holds": ("held", ""),
    }
    assert [content["found"]["found"] for content in found.values()] == [4, 2, 1, 5, 3]
    assert found["holds"]["found"]["checked"] == {"holds": True, "told": "as it should be"}


def test_what_held_or_cannot_run_here_is_no_failure(made_up: Path) -> None:
    assert certify([section("holds"), section("lacks")], made_up, later()) == 0


@pytest.mark.usefixtures("impatient")
def test_a_section_that_hangs_is_killed_with_its_children_and_has_failed(made_up: Path) -> None:
    assert certify([section("hangs")], made_up, later()) == 1
    found = read(made_up)["sections"]["hangs"]
    assert (found["state"], found["told"]) == ("failed", f"killed after {_LIMIT_S} s, its limit")
    assert all(is_gone(pid) for pid in found["found"]["pids"])


@pytest.mark.usefixtures("impatient")
def test_a_section_whose_time_was_cut_short_has_not_failed(made_up: Path) -> None:
    assert certify([section("hangs")], made_up, later(_LIMIT_S / 2)) == 0
    found = read(made_up)["sections"]["hangs"]
    assert found["state"] == "out of time"
    assert len(found["found"]["pids"]) == 2


@pytest.mark.usefixtures("impatient")
def test_a_check_that_does_not_hold_fails_a_section_that_had_no_time_to_end(made_up: Path) -> None:
    assert certify([section("hangs_after_a_fault")], made_up, later(_LIMIT_S / 2)) == 1
    assert read(made_up)["sections"]["hangs_after_a_fault"]["state"] == "failed"


def test_a_section_without_time_is_not_begun(made_up: Path) -> None:
    assert certify([section("holds")], made_up, later(0)) == 0
    found = read(made_up)["sections"]["holds"]
    assert (found["state"], found["found"]) == ("out of time", {})


def test_killed_at_any_moment_it_leaves_what_was_found(made_up: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; "
        "from benchmarks.certify.certificate import certify; "
        "from benchmarks.certify.sections import Section; "
        "made = [Section(n, '', f'made_up:{n}', 600) for n in ('holds', 'hangs')]; "
        "certify(made, Path(sys.argv[1]), time.monotonic() + 600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(made_up)], cwd=ROOT)
    there = eventually(lambda: has_found(made_up / "hangs.json") or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert there
    assert read(made_up)["sections"]["holds"]["state"] == "held"
    hanging = read(made_up, "hangs")
    assert hanging["state"] == "running"
    # The section's own process does not work on for nobody.
    assert is_gone(hanging["found"]["pids"][0])


def test_a_later_call_adds_its_sections_and_replaces_those_of_the_same_name(made_up: Path) -> None:
    assert certify([section("fails"), section("holds")], made_up, later()) == 1
    assert certify([section("holds")], made_up, later()) == 0
    assert set(read(made_up)["sections"]) == {"fails", "holds"}


def test_a_process_that_is_tied_ends_with_its_parent() -> None:
    sleeps = tied("-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    program = f"import subprocess, time; subprocess.Popen({sleeps!r}); time.sleep(600)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert is_gone(pid)


def test_every_section_is_there_and_named_as_its_function() -> None:
    for one in SECTIONS:
        assert callable(resolve_name(one.function))
        assert one.function.endswith(f":{one.name}")
    assert len({one.name for one in SECTIONS}) == len(SECTIONS)


def test_the_command_runs_what_is_asked_for_and_prints_it(
    made_up: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "benchmarks.certify.__main__.SECTIONS", (section("fails"), section("holds"))
    )
    assert main(["--out", str(made_up), "--only", "holds"]) == 0
    assert main(["--out", str(made_up)]) == 1
    printed = capsys.readouterr().out
    assert "checked: holds: as it should be" in printed
    assert "checked: DOES NOT HOLD: seen otherwise" in printed


@pytest.mark.parametrize(
    "arguments", [[], ["--out", "a", "--carry", "b"], ["--out", "a", "--only", "x"]]
)
def test_a_mistake_on_the_command_line_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)


def test_rows_and_long_findings_have_a_line_in_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {
        "name": "a kernel",
        "rival": "eager",
        "ratio": 6.1,
        "median_s": 2e-4,
        "share_of_floor": 0.1,
    }
    found = {"longest": [{"kernel": "x" * 300}], "rates": {"copy": 1.0}}
    sections = {"step": {"state": "held", "told": "", "seconds": 1.5, "found": found}}
    print_certificate({"settings": {"device": "H100"}, "sections": sections, "rows": [row]})
    printed = capsys.readouterr().out
    assert "certificate of H100" in printed
    assert "6.10 x faster than eager; 0.200 ms, 10% of its floor" in printed
    assert "rates: copy 1.0" in printed
    assert "x" * 100 not in printed
