"""What the kernel tests share: one operation, three implementations, one way to name them.

`reference` is the folder's plain PyTorch, `cpu` its Numba loops, `triton` its Triton kernels: on
the GPU where there is one, else in Triton's interpreter on CPU tensors (tests/conftest.py turns
that on before anything imports Triton). The last two go through the folder's operations; for
them `kernels.gpu.uses_triton(tensor)` decides, and a test that asks for `triton` overrules it.
"""

import functools
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kernels import gpu

ROOT = Path(__file__).resolve().parent.parent.parent
BACKENDS = ("reference", "cpu", "triton")


@pytest.fixture(scope="session", autouse=True)
def _taken_over_once() -> Iterator[None]:
    """A function that a kernel calls finds `triton.language` as the kernel's launch left it.

    Triton's interpreter (3.8) takes over each operation of the language at a launch, and looks
    through them all again at every call of a function below it: a third of a kernel's time. It is
    left to do so where there is anything left to take over.
    """
    if torch.cuda.is_available():
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    take_over = interpreter._patch_lang
    nothing: Any = getattr(interpreter, "_LangPatchScope", None)  # not in older ones

    @functools.cache
    def languages(function: Callable[..., Any]) -> list[Any]:
        named = (value for value in function.__globals__.values() if inspect.ismodule(value))
        return [module for module in named if module in (tl, tl.core)]

    def what_is_left(function: Callable[..., Any]) -> Any:
        own = (
            part for module in languages(function) for part in (module.load, module.tensor.__add__)
        )
        return take_over(function) if any(map(tl.core.is_builtin, own)) else nothing()

    with pytest.MonkeyPatch.context() as patch:
        if nothing is not None:
            patch.setattr(interpreter, "_patch_lang", what_is_left)
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the three implementations in turn."""
    name: str = request.param
    return name


@pytest.fixture(params=BACKENDS[1:])
def fused(request: pytest.FixtureRequest) -> str:
    """Each of the two fused implementations in turn."""
    name: str = request.param
    return name


@pytest.fixture
def device_of() -> Callable[[str], torch.device]:
    """`device_of(backend)`: where its tensors live."""

    def device(backend: str) -> torch.device:
        cuda = backend == "triton" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    return device


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """`operation(folder, backend)`: the module whose functions run on that implementation."""

    def module(folder: str, backend: str) -> ModuleType:
        if backend == "reference":
            return importlib.import_module(f"kernels.{folder}.reference")
        monkeypatch.setattr(gpu, "uses_triton", lambda tensor: backend == "triton")
        if backend == "triton" and not torch.cuda.is_available():
            assert_interpreting()
        return importlib.import_module(f"kernels.{folder}")

    return module


@pytest.fixture
def run_alone() -> Callable[..., str]:
    """`run_alone(program, *arguments, NAME="value")`: what it prints in a process of its own.

    The names are variables of its environment, such as Numba and Triton read once, on import.
    """

    def run(program: str, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
        return done.stdout

    return run


def assert_interpreting() -> None:
    """Triton, if it was imported at all, was imported as the interpreter."""
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    came = sorted(name for name in sys.modules if name.split(".")[0] == "triton")
    assert isinstance(standard.sum, InterpretedFunction), (
        f"Triton was imported before TRITON_INTERPRET was set ({len(came)} of its modules are "
        "loaded): set it in tests/conftest.py before whatever imports Triton"
    )
