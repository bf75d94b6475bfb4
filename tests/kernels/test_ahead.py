"""Kernels that other processes compile while this one does what needs none of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kernels import ahead, compiling
from kernels.compiling import Compiling
from kernels.threads import cpu_threads

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import json, sys
from engine import train
assert train.main(sys.argv[1:]) == 0
from kernels.ahead import GROUPS

def told(kernel, types):
    return f"{kernel.py_func.__module__}.{kernel.py_func.__name__}{types}"

kernels = {
    value
    for name, module in list(sys.modules.items())
    if name.startswith("kernels.")
    for value in vars(module).values()
    if getattr(value, "targetoptions", {}).get("parallel")
}
called = {told(kernel, types) for kernel in kernels for types in kernel.signatures}
listed = {told(kernel, types) for group in GROUPS for kernel, types in group}
print(json.dumps([sorted(called), sorted(listed)]))
"""

COMPILE = """
from kernels import ahead
ahead.GROUPS = ahead.batch_norm.SPECIALISATIONS[1:2], ()  # the quickest to compile
assert not ahead._is_cached(ahead.GROUPS[0])
assert ahead.main() == 0
assert ahead._is_cached(ahead.GROUPS[0])
kernel, _ = ahead.GROUPS[0][0]
assert not kernel.signatures, "compiled by another process"
"""

LEAVE = """
from kernels import ahead
ahead.compile_ahead()
print(ahead.COMPILING._compiler.pid)
"""


def run(*words: object, **environment: str) -> str:
    """What a Python process prints."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def compilers() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """`compilers(code)`: a process that runs Python code; it is gone after the test."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True))
        return begun[-1]

    yield begin
    for compiler in begun:
        ahead._end(compiler)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernels say."""
    lines: list[str] = []
    monkeypatch.setattr(compiling._log, "info", lambda line, *parts: lines.append(line % parts))
    return lines


def test_what_is_compiled_ahead_is_what_a_training_calls(tiny_toml: Path, tmp_path: Path) -> None:
    # An encoder with batch norms and 5 x 5 taps.
    encoder = "--model.encoder", "tf_efficientnet_lite0"
    arguments = "--config", tiny_toml, "--out", tmp_path / "run", "--training.epochs", 1, *encoder
    said = run("-c", TRAIN, *arguments, "--runtime.source", "resident").splitlines()
    called, listed = json.loads(said[-1])
    # Those of `kernels.png`, which run on one thread, are called before any process were ready.
    assert called == listed


def test_what_another_process_compiled_is_found(tmp_path: Path) -> None:
    run("-c", COMPILE, NUMBA_CACHE_DIR=str(tmp_path))


def test_looking_into_the_cache_leaves_the_number_of_threads_of_torch_alone() -> None:
    few = "from kernels import ahead; ahead.GROUPS = (ahead.confusion.SPECIALISATIONS[-1:],)\n"
    run("-c", f"{few}assert ahead.main() == 0")
    program = (
        # PyTorch sets its number once more where it is first asked for.
        "import torch; torch.set_num_threads(1); torch.get_num_threads()\n"
        "ahead.compile_ahead()\n"
        "assert ahead.COMPILING._compiler is None, 'it is not found in the cache'\n"
        "assert torch.get_num_threads() == 1"
    )
    run("-c", few + program)


def test_processes_that_compile_at_once_cache_no_function_in_common() -> None:
    cached = [
        {function for kernel, _ in group for function in _called(kernel)} for group in ahead.GROUPS
    ]
    assert all(len(functions) > 2 for functions in cached)
    assert len(set().union(*cached)) == sum(map(len, cached))


def _called(kernel: Any) -> set[Any]:
    """A compiled function, and all of ours that it calls."""
    if not hasattr(kernel, "py_func"):
        return set()
    code, names = kernel.py_func.__code__, kernel.py_func.__globals__
    used = [names.get(name) for name in code.co_names]
    modules = [module for module in used if isinstance(module, ModuleType)]
    used += [vars(module).get(name) for module in modules for name in code.co_names]
    return {kernel.py_func}.union(*map(_called, used))


def test_nothing_is_begun_where_all_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_is_cached", lambda group: True)
    monkeypatch.setattr(subprocess, "Popen", None)
    ahead.compile_ahead()


def test_where_no_process_can_be_begun_kernels_are_compiled_when_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "_is_cached", lambda group: False)
    monkeypatch.setattr("kernels.ahead.COMPILING", own := Compiling())
    monkeypatch.setattr(sys, "executable", str(ROOT / "nothing"))
    ahead.compile_ahead()
    own.wait()
    assert own.seconds() == 0


def test_a_process_ends_with_the_one_that_it_compiles_for(tmp_path: Path) -> None:
    compiler = int(run("-c", LEAVE, NUMBA_CACHE_DIR=str(tmp_path)))
    with pytest.raises(ProcessLookupError):
        os.killpg(compiler, 0)


def test_the_first_call_of_a_kernel_waits_which_counts_as_compiling(
    monkeypatch: pytest.MonkeyPatch,
    compilers: Callable[[str], subprocess.Popen[bytes]],
    told: list[str],
) -> None:
    monkeypatch.setattr("kernels.threads.COMPILING", own := Compiling())
    own.expect(compiler := compilers("pass"))
    assert told == ["compiling kernels (once per machine)"]
    assert own.seconds() == 0, "until it is waited for"
    with cpu_threads():
        assert compiler.returncode == 0
    waited_s = own.seconds()
    assert waited_s > 0
    with cpu_threads():
        assert own.seconds() == waited_s
    assert len(told) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [("raise SystemExit(3)", "ended with code 3"), ("import time; time.sleep(60)", "is not done")],
)
def test_a_process_that_fails_or_hangs_is_told_and_waited_for_once(
    code: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    compilers: Callable[[str], subprocess.Popen[bytes]],
    told: list[str],
) -> None:
    own = Compiling()
    if "sleep" in code:
        monkeypatch.setattr(compiling, "LONGEST_S", 0.0)
    own.expect(compilers(code))
    for _ in range(2):
        own.wait()
    assert told[1:] == [f"kernels are compiled one by one: the process that compiles ahead {why}"]
