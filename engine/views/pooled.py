"""Layers that look at all of what passes them, made to see a whole view that passes in tiles.

A convolution sees what is around a cell: a tile with enough around it tells what the whole tells.
Some layers see more: a group norm and a channel attention take statistics over all cells, and an
upsampling with aligned corners places what it makes by where a cell lies between the first and the
last. In a tile they would see another frame. So a view passes twice: first its tiles tell what they
are made of, cell by cell as many as each has; then every such layer takes the statistics of all.
Statistics of layers behind such a layer are those of tiles that normed themselves, which differ
little: in tiles of 512 a second round moved the share of 960 x 1280 pixels that differ from the
whole from 1.44 to 1.45 %.

Axes: B is 1, C channels, G groups, h w cells of a tile, H W of the view.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_COMPOSITE = _aten.group_norm.default, _aten.adaptive_avg_pool2d.default
"""Made of those that `Pooled` looks at; inference mode hands them on as they are."""

_UPSAMPLE = _aten.upsample_bilinear2d.default, _aten.upsample_bilinear2d.vec

Size = tuple[int, int]


@dataclass
class _Moments:
    """Sums over the cells of all tiles, of what one call of a layer took."""

    cells: int
    first: Tensor
    second: Tensor
    """(1, G), of group norms alone: of the squares."""

    def add(self, other: "_Moments") -> None:
        self.cells += other.cells
        self.first = self.first + other.first
        self.second = self.second + other.second


class Pooled(TorchDispatchMode):
    """The statistics of one view under one network, and what makes layers take them.

    Used around a pass of a tile that `at` has placed: until `known` is set it gathers, then it
    gives. Layers are told apart by the order of their calls, which is that of every pass.
    """

    def __init__(self, view_hw: Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = False
        self._view_hw, self._top_left, self._tile_hw = view_hw, (0, 0), view_hw
        self._moments: list[_Moments] = []
        self._calls = 0

    def at(self, top_left: Size, tile_hw: Size) -> "Pooled":
        """Itself, for a pass of the tile there; all in pixels, multiples of the last stride."""
        self._top_left, self._tile_hw, self._calls = top_left, tile_hw, 0
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _COMPOSITE:
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if func is _aten.native_group_norm.default:
            return self._group_norm(*args)
        if func is _aten.mean.dim and self._spans(args[0], args[1]):
            mean, cells = (
                func(*args, **(kwargs or {})),
                math.prod(args[0].shape[axis] for axis in args[1]),
            )
            total, cells = self._of_all(mean.double() * cells, cells)
            return (total / cells).to(mean.dtype)
        if func is _aten.linalg_vector_norm.default and self._is_root(*args):
            norm = func(*args, **(kwargs or {}))
            total, _ = self._of_all(norm.double().square(), 1)
            return total.sqrt().to(norm.dtype)
        if func in _UPSAMPLE and args[2] and self._stride(args[0].shape[2:]):
            x_BChw, size = args[:2]
            size = size or [int(n * by) for n, by in zip(x_BChw.shape[2:], args[3], strict=True)]
            return self._upsample(x_BChw, size)
        return func(*args, **(kwargs or {}))

    def _group_norm(self, x_BChw: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        weight_C, bias_C, _, C, cells, groups, eps = given
        if not self.known:
            out, mean_BG, rstd_BG = _aten.native_group_norm(x_BChw, *given)
            mean = mean_BG.double()
            square = rstd_BG.double() ** -2 - eps + mean**2
            self._take(_Moments(cells, mean * cells, square * cells))
            return out, mean_BG, rstd_BG
        of_all = self._give()
        mean = of_all.first / of_all.cells
        rstd = (of_all.second / of_all.cells - mean**2).clamp_min(0).add(eps).rsqrt()
        scale_C, shift_C = rstd.repeat_interleave(C // groups), -mean * rstd
        shift_C = shift_C.repeat_interleave(C // groups)
        if weight_C is not None:
            scale_C, shift_C = scale_C * weight_C, shift_C * weight_C
        if bias_C is not None:
            shift_C = shift_C + bias_C
        scale_C, shift_C = (of_C.to(x_BChw.dtype)[:, None, None] for of_C in (scale_C, shift_C))
        return torch.addcmul(shift_C, x_BChw, scale_C), mean.float(), rstd.float()

    def _of_all(self, own: Tensor, cells: int) -> tuple[Tensor, int]:
        """A sum over the cells of all tiles and their number, for those of one."""
        if not self.known:
            self._take(_Moments(cells, own, own.new_zeros(())))
            return own, cells
        of_all = self._give()
        return of_all.first, of_all.cells

    def _take(self, own: _Moments) -> None:
        if self._calls == len(self._moments):
            self._moments.append(own)
        else:
            self._moments[self._calls].add(own)
        self._calls += 1

    def _give(self) -> _Moments:
        self._calls += 1
        return self._moments[self._calls - 1]

    def _is_root(
        self, x: Tensor, order: float = 2, dims: Sequence[int] | None = None, *_: Any
    ) -> bool:
        """Whether a norm is the root of a sum of squares over a tile."""
        return order == 2 and dims is not None and self._spans(x, dims)

    def _spans(self, x: Tensor, dims: Sequence[int] | None) -> bool:
        """Whether these axes are both sides of a tile, in (B, C, h, w) or (B, h, w, C)."""
        axes = sorted(axis % x.ndim for axis in dims or ())
        if x.ndim != 4 or axes not in ([1, 2], [2, 3]):
            return False
        return bool(self._stride([x.shape[axis] for axis in axes]))

    def _stride(self, hw: Sequence[int]) -> int:
        """Pixels of a cell in each direction where so many make up a tile; else 0."""
        (height, width), (h, w) = self._tile_hw, hw
        fits = height % h == 0 and height * w == width * h
        return height // h if fits else 0

    def _upsample(self, x_BChw: Tensor, hw: Sequence[int]) -> Tensor:
        stride, out = self._stride(x_BChw.shape[2:]), x_BChw.permute(0, 2, 3, 1)
        for axis in (0, 1):
            cells, made = out.shape[1 + axis], hw[axis]
            whole, first = self._view_hw[axis] // stride, self._top_left[axis] // stride
            factor = made // cells
            at = torch.arange(made, device=out.device) + first * factor
            # As `interpolate` places them with aligned corners, by whole numbers.
            numerator, denominator = at * (whole - 1), max(whole * factor - 1, 1)
            above = numerator // denominator
            part = ((numerator - above * denominator) / denominator).to(out.dtype)
            near, far = ((above + k - first).clamp(0, cells - 1) for k in (0, 1))
            part = part.view(-1, *[1] * (2 - axis))
            out = torch.lerp(
                out.index_select(1 + axis, near), out.index_select(1 + axis, far), part
            )
        return out.permute(0, 3, 1, 2)
