"""How the Numba kernels of all folders share the CPU with one another and with PyTorch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import numba
import torch
from numba.np.ufunc.parallel import threading_layer

from kernels.compiling import COMPILING

_MOST: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined] # set when Numba starts
_ONE_AT_A_TIME = threading.RLock()

# TBB comes first by Numba's own order, and is there as soon as another library brings it: then the
# layer would change with what is installed, and Numba's TBB speaks up at every fork.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # type: ignore[attr-defined]


@contextmanager
def cpu_threads(count: int | None = None) -> Iterator[None]:
    """Run Numba's parallel kernels on `count` threads, safely from any Python thread.

    As a decorator it does so for every call of a function that runs such kernels.

    Numba takes the first threading layer that loads: OpenMP, TBB, its own `workqueue`. The first
    two may be entered from several Python threads at once. `workqueue`, which is what is left
    where no OpenMP library is installed (slim containers, macOS), aborts the process in that case
    (Numba's manual, "The Threading Layers"), so there the kernels take turns. All wait for kernels
    that another process compiles.

    Args:
        count: threads to use, at least 1; None is `torch.get_num_threads()`, so that one setting
            governs all work on the CPU. More than Numba may start are not used.

    Yields:
        Nothing. Kernels called inside, from this Python thread, use that many threads.
    """
    COMPILING.wait()
    with _ONE_AT_A_TIME if start_threads() == "workqueue" else nullcontext():
        before = numba.get_num_threads()
        wanted = torch.get_num_threads() if count is None else count
        numba.set_num_threads(max(1, min(wanted, _MOST)))
        try:
            yield
        finally:
            numba.set_num_threads(before)


@cache
def start_threads() -> str:
    """Start Numba's threading layer and name it; before any kernel is loaded from the cache.

    Its OpenMP layer, when it starts, sets the number of threads of the runtime that PyTorch loaded
    before (Numba 0.68, `omppool.cpp`): from then on PyTorch would run on all cores.
    """
    before = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(before)
    name: str = threading_layer()  # type: ignore[no-untyped-call]
    return name
