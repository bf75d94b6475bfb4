"""Numba kernels compiled ahead of their first call, while data is read.

Numba compiles one kernel at a time in a process. So others compile what training on a CPU will call
and leave it in the cache of machine code, where this process finds it. What is not listed, and all
where such a process fails, is compiled when it is called.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from atexit import register
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba

from kernels.batch_norm import cpu as batch_norm
from kernels.boundary_ce import cpu as boundary_ce
from kernels.compiling import COMPILING
from kernels.confusion import cpu as confusion
from kernels.crop_resize import cpu as crop_resize
from kernels.depthwise import cpu as depthwise
from kernels.group_norm import cpu as group_norm
from kernels.threads import start_threads
from kernels.tta_accumulate import cpu as tta_accumulate

Group = tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...]
"""Kernels, and the types of their arguments in Numba's words."""

GROUPS: tuple[Group, ...] = (
    boundary_ce.SPECIALISATIONS + group_norm.SPECIALISATIONS,
    crop_resize.SPECIALISATIONS,
    tta_accumulate.SPECIALISATIONS + confusion.SPECIALISATIONS,
    batch_norm.SPECIALISATIONS + depthwise.SPECIALISATIONS,
)
"""What each process compiles: about as much as the others.

Kernels that call the same function of `kernels.cpu`, each with its own types, are in one group: of
two processes that cache it at once, one could give the other's machine code its own name.
"""

_RUN = "from kernels.ahead import main; raise SystemExit(main())"


def compile_ahead() -> None:
    """Begin to compile what is not in the cache; the first call of a kernel waits for it.

    Python kernels run as Python (NUMBA_DISABLE_JIT), so then nothing is done.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return
    start_threads()
    if all(map(_is_cached, GROUPS)):
        return
    folder, kept = Path(__file__).parent, numba.config.CACHE_DIR  # type: ignore[attr-defined]
    named = {"NUMBA_CACHE_DIR": str(Path(kept).absolute().parent)} if kept else {}
    try:
        # Of its own session, so that all of its processes can be ended together.
        compiler = subprocess.Popen(
            [sys.executable, "-c", _RUN],
            cwd=folder.parent,
            env={**os.environ, **named},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return
    register(_end, compiler)
    COMPILING.expect(compiler)


def _is_cached(group: Group) -> bool:
    # What Numba itself asks before it compiles; it has no other way to ask. It reads and links what
    # it finds, so it is not asked for what this process has.
    return all(
        types in kernel.overloads  # type: ignore[attr-defined]
        or kernel._cache.load_overload(types, kernel.targetctx) is not None  # type: ignore[attr-defined]
        for kernel, types in group
    )


def _end(compiler: subprocess.Popen[bytes]) -> None:
    """Do not outlive the process that it compiles for."""
    if compiler.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(compiler.pid, signal.SIGKILL)
        compiler.wait()


def _compile(group: Group) -> None:
    for kernel, types in group:
        kernel.compile(types)  # type: ignore[attr-defined]


def main() -> int:
    """Compile all groups at once, in a process begun for it; its exit code, 1 if one failed."""
    # Forked, they need not load PyTorch and Numba again: 3 s for each.
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_compile, args=(group,)) for group in GROUPS]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))
