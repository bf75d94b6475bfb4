"""What other programs check: the kernels' tests, and compute-sanitizer on the smallest of them."""

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

from benchmarks.certify.certificate import ROOT, tied
from benchmarks.certify.notes import Notes, NotHereError, need

_DATA = [
    f"tests/data/test_{name}.py" for name in ("sources", "source_life", "uploads", "whole_frames")
]

_INTERPRETED = [f"tests/kernels/test_{name}_op.py" for name in ("boundary", "tta_accumulate")]
"""Without a GPU: some of what Triton's interpreter runs in `make test`."""

_DALI = "tests/data/test_dali_source.py"

_MARKED = [f"tests/{name}" for name in ("runtime", "training", "views", "kernels/test_upsample.py")]

SMALLEST = ["tests/kernels", "-k", "triton and (layout or bfloat16 or off_the_frame)"]
"""A few tests of each operation, of few pixels and odd sides: a kernel is hundreds of times slower
under compute-sanitizer."""

_FULL = ["-m", ""]
"""Those marked `full` too; machine code is quick."""

_SANITIZER = "compute-sanitizer"
_FOUND = 99
"""Exit code by which it says that it found something."""


def tests(notes: Notes) -> None:
    """The kernels' tests by pytest; each is a line of the section's log as soon as it has run."""
    import torch

    _need_tests()
    if not torch.cuda.is_available():
        _pytest(notes, "some of the kernels, interpreted", [*_INTERPRETED, "-k", "triton"])
        return
    _pytest(notes, "kernels as machine code", ["tests/kernels", "-k", "triton"])
    _pytest(notes, "what is marked gpu", [*_MARKED, "-m", "gpu"])
    has_dali = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
    data = [*_DATA, *([_DALI] if has_dali else ["-k", "not dali"])]
    _pytest(notes, "sources" + ("" if has_dali else " (not here: DALI)"), data)


def sanitizer(notes: Notes) -> None:
    """No kernel reads or writes out of bounds, and no two threads race for shared memory."""
    need(gpu=True)
    _need_tests()
    program = shutil.which(_SANITIZER, path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    if program is None:
        raise NotHereError(f"not here: {_SANITIZER}")
    # PyTorch's pool would hide a read beyond a tensor: what lies there was allocated too.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), sys.executable]
        command += ["-m", "pytest", "-q", *_FULL, *SMALLEST]
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        told = {0: "nothing found", _FOUND: "see sanitizer.log"}.get(code, f"exit code {code}")
        notes.check(tool, code == 0, told)


def _need_tests() -> None:
    need("pytest", "hypothesis")
    if not (ROOT / "tests").is_dir():
        raise NotHereError("not here: tests/, of a checkout")


def _pytest(notes: Notes, name: str, asked: list[str]) -> None:
    report = notes.folder / "junit.xml"
    report.unlink(missing_ok=True)
    command = ["-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    code = subprocess.run(tied(*command, *_FULL, *asked), cwd=ROOT, check=False).returncode
    suite = ET.parse(report).getroot()[0]
    told = ", ".join(
        f"{suite.get(key)} {key}" for key in ("tests", "failures", "errors", "skipped")
    )
    faults = [case for case in suite if {"failure", "error"} & {part.tag for part in case}]
    names = [f"{case.get('classname')}.{case.get('name')}" for case in faults]
    notes.check(name, code == 0, ": ".join([told, *names]))
