"""Parallel kernels in two Python threads at once, beside PyTorch's own threads."""

from collections.abc import Callable

import numba
import pytest
import torch

from kernels.threads import cpu_threads

# One kernel keeps the layer busy while the other is called: without turns, `workqueue` aborts.
TWO_THREADS = """
import threading
import numba, numpy as np, torch
from kernels.threads import cpu_threads

@numba.njit(parallel=True)
def row_sums(a, out):
    for i in numba.prange(a.shape[0]):
        total = 0.0
        for j in range(a.shape[1]):
            total += a[i, j]
        out[i] = total

@numba.njit(parallel=True)
def doubled(a, out):
    for i in numba.prange(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = 2 * a[i, j]

a = np.arange(200_000.0).reshape(200, 1000)
start, wrong = threading.Barrier(3), []

def call(kernel, out, expected):
    start.wait()
    for _ in range(100):
        out.fill(np.nan)
        with cpu_threads(torch.get_num_threads()):
            kernel(a, out)
        if not np.array_equal(out, expected):
            wrong.append(kernel.__name__)

torch.set_num_threads(2)
with cpu_threads(2):
    row_sums(a, np.empty(200))
    doubled(a, np.empty_like(a))
threads = [
    threading.Thread(target=call, args=(row_sums, np.empty(200), a.sum(axis=1))),
    threading.Thread(target=call, args=(doubled, np.empty_like(a), 2 * a)),
]
for thread in threads:
    thread.start()
start.wait()
x = torch.ones(300, 300)
while any(thread.is_alive() for thread in threads):
    assert torch.equal(x @ x, torch.full((300, 300), 300.0))
for thread in threads:
    thread.join()
assert not wrong, wrong
print(numba.threading_layer())
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_two_python_threads_may_call_kernels_at_once_beside_torch(
    layer: str, run_alone: Callable[..., str]
) -> None:
    used = run_alone(TWO_THREADS, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    if layer == "workqueue":
        assert used.strip() == layer


ONE_THREAD = """
import torch
from kernels.threads import cpu_threads

torch.set_num_threads(1)
with cpu_threads(torch.get_num_threads()):
    pass
assert torch.get_num_threads() == 1
"""


def test_the_first_kernel_leaves_the_number_of_threads_of_torch_alone(
    run_alone: Callable[..., str],
) -> None:
    run_alone(ONE_THREAD, NUMBA_NUM_THREADS="2")


@pytest.mark.parametrize("count", [1, 10_000, 0])
def test_the_number_of_threads_is_what_was_asked_for_within_what_numba_has(count: int) -> None:
    before = numba.get_num_threads()
    with cpu_threads(count):
        # Nothing else has lowered the number, so it is all that Numba may start.
        assert numba.get_num_threads() == max(1, min(count, before))
    assert numba.get_num_threads() == before


def test_the_number_of_threads_is_put_back_after_an_error() -> None:
    before = numba.get_num_threads()
    with pytest.raises(ZeroDivisionError), cpu_threads(1):
        raise ZeroDivisionError
    assert numba.get_num_threads() == before


def test_as_a_decorator_it_runs_each_call_on_the_threads_of_torch() -> None:
    before, number = numba.get_num_threads(), cpu_threads()(numba.get_num_threads)
    for count in (1, 2):
        torch.set_num_threads(count)
        assert number() == max(1, min(count, before))
    assert numba.get_num_threads() == before
