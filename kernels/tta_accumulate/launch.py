"""How the Triton kernels of this folder are launched: tables of taps, form, grid and constants.

Axes: as in op.py. K corners of views, R and S their distinct rows and columns.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels import gpu
from kernels.cpu import ONE, Taps, taps
from kernels.tta_accumulate.reference import View
from kernels.tta_accumulate.tables import row_taps

PIXELS, LAUNCH = 64, {"num_warps": 2}
"""Of a program of `add_views`, and its launch: a thread a pixel."""
SUMS = 52
"""Classes times temperatures of a thread, so that 128 registers hold all: 13 at 4."""
MOST_CLASSES = 32
"""Of a thread. With logits and exponentials of as many, more leave too few threads, then spill."""
TILE = 512
"""Classes times pixels of a program of `add_views_of_many_classes`: one warp needs no barrier."""

_GEOMETRIES = 16
"""Sets of views whose tables are kept, about 400 KB of the GPU for ten of one frame size."""


class Form(NamedTuple):
    """What a number of classes and temperatures is launched as.

    Attributes:
        name: of the kernel.
        constants: of it.
        options: of the launch.
        temperatures: of a program.
    """

    name: str
    constants: dict[str, Any]
    options: dict[str, Any]
    temperatures: int


class Tables(NamedTuple):
    """What `add_views` reads but for the logits; its docstring says what they hold."""

    corner_K4: Tensor
    row_R4H: Tensor
    column_S4W: Tensor
    inverse_T: Tensor


def accumulate(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    views: Sequence[View],
) -> None:
    """Add views to the total, in place, in one launch; see `op.tta_accumulate`."""
    from kernels.tta_accumulate import triton

    B, T, C, H, W = total_BTCHW.shape
    shapes = tuple(tuple(logits_BChw.shape) for logits_BChw in logits)
    # Views repeat from frame to frame; what their geometry needs is copied once, in the order of
    # the stream that it will be read on.
    asked = shapes, tuple(views), (H, W), tuple(temperatures)
    tables = _tables(asked, total_BTCHW.device, gpu.stream(total_BTCHW))
    flat = [logits_BChw.contiguous().view(-1) for logits_BChw in logits]
    packed = torch.cat(flat) if len(flat) > 1 else flat[0]
    form = choose_form(C, T)
    grid = (-(-W // form.constants["L"]) * H, B, T // form.temperatures)
    sizes = len(tables.corner_K4), H, W, *total_BTCHW.stride()
    kernel = getattr(triton, form.name)
    kernel[grid](total_BTCHW, packed, *tables, *sizes, **form.constants, **form.options)


def choose_form(classes: int, temperatures: int) -> Form:
    """A thread a pixel while its registers hold the classes, else a warp for a few pixels."""
    if classes > MOST_CLASSES:
        padded = gpu.power_of_two(classes)
        constants = {"CLASSES": classes, "C": padded, "L": max(TILE // padded, 1)}
        # A thread holds 16 classes, or 32 of more than 512: a few thousand take a warp each.
        warps = max(1, padded // 1024)
        return Form("add_views_of_many_classes", constants, {"num_warps": warps}, 1)
    # As many as divide all of them, so that no program has fewer.
    most = min(max(1, SUMS // classes), temperatures)
    each = next(count for count in range(most, 0, -1) if temperatures % count == 0)
    constants = {"CLASSES": classes, "G": each, "L": PIXELS}
    return Form("add_views", constants, LAUNCH, each)


_Asked = tuple[tuple[tuple[int, ...], ...], tuple[View, ...], tuple[int, int], tuple[float, ...]]
"""Shapes of the logits, their views, size of the base, temperatures."""


@lru_cache(_GEOMETRIES)
def _tables(asked: _Asked, device: torch.device, _stream: int) -> Tables:
    shapes, views, (H, W), temperatures = asked
    row_of: dict[bytes, int] = {}
    column_of: dict[bytes, int] = {}
    corners: list[tuple[int, int, int, int]] = []
    start = 0
    for (B, C, h, w), view in zip(shapes, views, strict=True):
        (_, X), align_corners = view.hw, view.align_corners
        across = taps(X, w, np.float32, align_corners=align_corners)
        # Mirroring back is free: the view's pixels are numbered from its other end.
        across = Taps(*(each[::-1] for each in across)) if view.flipped else across
        view_V, base_H = row_taps(view, h, H)
        rows = _sides(base_H, view_V, stride=w)
        columns = _sides(taps(W, X, np.float32), across, stride=1)
        # Mirrored views share the rows of the others, and all networks look at the same views.
        pairs = product(_numbers(row_of, rows), _numbers(column_of, columns))
        corners += [(start, h * w, row, column) for row, column in pairs]
        start += B * C * h * w
    hosts = (
        np.array(corners, np.int64),
        np.frombuffer(b"".join(row_of), np.int32).reshape(-1, 4, H).copy(),
        np.frombuffer(b"".join(column_of), np.int32).reshape(-1, 4, W).copy(),
        np.reciprocal(np.array(temperatures, np.float32)),
    )
    return Tables(*(gpu.upload(torch.from_numpy(host), device) for host in hosts))


def _sides(base: Taps, view: Taps, stride: int) -> list[bytes]:
    """Along one axis, the tables (4, pixels) of the view's pixels on both sides of the base's.

    Of a view of the base's size there is one: the other has no weight anywhere.
    """
    return [
        b"".join(
            (
                (view.first[at] * stride).astype(np.int32).tobytes(),
                (view.second[at] * stride).astype(np.int32).tobytes(),
                view.part[at].tobytes(),
                weight.tobytes(),
            )
        )
        for at, weight in ((base.first, ONE - base.part), (base.second, base.part))
        if weight.any()
    ]


def _numbers(known: dict[bytes, int], tables: list[bytes]) -> list[int]:
    """The numbers of tables among those known, to which they are added."""
    return [known.setdefault(table, len(known)) for table in tables]
