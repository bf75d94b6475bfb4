"""Frames that end where readable memory ends: a tap beyond the last pixel kills the process.

What lies there would have no weight, so no value shows such a tap.
"""

from collections.abc import Callable

import pytest

AT_THE_END_OF_MEMORY = """
import ctypes, mmap, sys
import torch
from kernels import crop_resize, gpu

gpu.uses_triton = lambda tensor: sys.argv[1] == "triton"
libc = ctypes.CDLL(None, use_errno=True)
kept = []

def before_a_guard(values):
    page, size = mmap.PAGESIZE, values.numel() * values.element_size()
    memory = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + page), page, 0) == 0
    kept.append(memory)
    end = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=page - size)
    return end.copy_(values.flatten()).view(values.shape)

for height, width in ((1, 1), (1, 8), (9, 1), (3, 5)):
    pixels = height * width
    frames = crop_resize.Frames(
        before_a_guard(torch.full((pixels, 3), 9, dtype=torch.uint8)),
        before_a_guard(torch.full((pixels,), 9, dtype=torch.uint16)),
        before_a_guard(torch.full((pixels,), 9, dtype=torch.uint8)),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([[height, width]]),
    )
    for mirrored in (0, 1):
        draw = torch.tensor([[0, -0.5, -0.5, height + 1, width + 1, mirrored, 1, 0]]).double()
        encoding = crop_resize.Encoding([9.0] * 3, [1.0] * 3, (1.0, 9.0), 4)
        crop_resize.crop_resize(frames, draw, (6, 7), encoding)
print("all read")
"""


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_nothing_is_read_beyond_the_last_frame(backend: str, run_alone: Callable[..., str]) -> None:
    assert run_alone(AT_THE_END_OF_MEMORY, backend, TRITON_INTERPRET="1") == "all read\n"
