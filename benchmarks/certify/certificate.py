"""Sections run one after another, each in a process of its own, and what came of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.certify.notes import Notes
from benchmarks.certify.sections import SECTIONS, Section
from benchmarks.command import write_json
from benchmarks.figures import Figures, say

ROOT = Path(__file__).resolve().parents[2]
"""Of the project: where commands are run."""

CERTIFICATE = "certificate.json"

_LEAST_S = 5.0
"""Seconds that must be left for a section to be begun: importing PyTorch alone takes them."""

_BURIAL_S = 5.0
"""How long a killed process may take to be gone; one that hangs in a driver never is."""

_TIED = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""PR_SET_PDEATHSIG (man 2 prctl) outlives the exec: no process works on for a killed parent."""

_CHILD = "import sys; from benchmarks.certify.child import main; main(*sys.argv[1:])"


def tied(*arguments: str) -> list[str]:
    """The command `python *arguments`, which is killed when its parent ends."""
    return [sys.executable, "-c", _TIED, sys.executable, *arguments]


def certify(sections: Sequence[Section], folder: Path, deadline_s: float) -> int:
    """Run the sections until the deadline and print what they found; returns the exit code.

    Args:
        sections: in this order.
        folder: where NAME.json and NAME.log of each go, and the certificate of all that are there.
        deadline_s: a moment of `time.monotonic`.

    Returns:
        1 if a section failed, else 0: all held, could not run here, or had no time.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        say(f"{section.name}: {section.proves}")
        content = _run(section, folder, deadline_s)
        say(f"{section.name}: {ending(content)} after {content['seconds']} s")
        write_json(folder / CERTIFICATE, gathered(folder))
    states = [json.loads(_file(section, folder).read_text("utf-8")) for section in sections]
    return int(any(content["state"] == "failed" for content in states))


def gathered(folder: Path) -> Figures:
    """The certificate: every section that has left something in the folder, and all their rows."""
    names = [section.name for section in SECTIONS]
    found = sorted(file for file in folder.glob("*.json") if file.name != CERTIFICATE)
    found.sort(key=lambda file: names.index(file.stem) if file.stem in names else len(names))
    contents = {file.stem: json.loads(file.read_text("utf-8")) for file in found}
    device = next((c["device"] for c in contents.values() if "device" in c), None)
    return {
        "settings": {"device": device},
        "rows": [row for content in contents.values() for row in content.pop("rows", [])],
        "sections": contents,
    }


def ending(content: Figures) -> str:
    """How a section ended, in words."""
    state, told = content["state"], content["told"]
    return told if state == "not here" else f"{state}: {told}" if told else str(state)


def _file(section: Section, folder: Path) -> Path:
    return folder / f"{section.name}.json"


def _run(section: Section, folder: Path, deadline_s: float) -> Figures:
    """Run one section; what its file holds afterwards."""
    path, start_s = _file(section, folder), time.monotonic()
    path.unlink(missing_ok=True)
    Notes(path).close("running", f"since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    limit_s = min(float(section.limit_s), deadline_s - start_s)
    state, told = "out of time", ""
    if limit_s >= _LEAST_S:
        state, told = _watched(section, path, start_s + limit_s)
        if state == "killed":
            late = limit_s < section.limit_s
            state = "out of time" if late else "failed"
            told = f"killed after {limit_s:.0f} s" + ("" if late else ", its limit")
    notes = Notes(path)
    notes.content["date"] = f"{datetime.now(UTC):%Y-%m-%d}"
    notes.content["seconds"] = round(time.monotonic() - start_s, 1)
    notes.close(state or notes.content["state"], told or ("" if state else notes.content["told"]))
    return notes.content


def _watched(section: Section, path: Path, deadline_s: float) -> tuple[str, str]:
    """State and words of a section's process that did not end well; empty if it did."""
    child = "-c", _CHILD, section.function, str(path), str(deadline_s)
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            tied(*child), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(deadline_s - time.monotonic())
        except subprocess.TimeoutExpired:
            return "killed", ""
        finally:
            # Its children too, however it ended: they are of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_BURIAL_S)
    if code == 0:
        return "", ""
    lines = path.with_suffix(".log").read_text("utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "failed", f"signal {-code}" if code < 0 else last
