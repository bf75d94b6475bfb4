"""Dropout of a batch that several processes, or several passes, share: each row has its own mask.

Whether a value is dropped is a function of (step's seed, layer, row of the batch, place in the row)
and nothing else, so a mask does not depend on which process computes a row, nor with which others.
It is a hash instead of a generator's next number; on a GPU and a CPU it is the same one.

B: rows of a part.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

_WORD = 0xFFFFFFFF
_ODD = 0x45D9F3B
"""Of Thomas Mueller's mixer of 32 bits; a product with it fits 63."""
_GOLDEN = 0x61C88647
"""2^32 / golden ratio, from below 2^31: neighbouring numbers are far apart after it."""


class Rows:
    """Which rows of which step's batch pass the network now."""

    def __init__(self, device: torch.device) -> None:
        # Tensors, for a step that is recorded or compiled reads them anew.
        self.seed, self.first = torch.zeros(2, dtype=torch.int64, device=device)
        self.numbers: Tensor | None = None
        """of those that pass now, where they do not follow each other"""

    def begin(self, seed: int) -> None:
        """Begin a step, by its seed of 63 bits."""
        self.seed.fill_((seed ^ (seed >> 32)) & _WORD)

    def at(self, first: int) -> None:
        """From here on, the rows from number `first` of the global batch on pass."""
        self.first.fill_(first)

    def these(self, numbers: Tensor) -> None:
        """From here on, the rows of these numbers of the global batch pass, int64."""
        self.numbers = numbers


def share_masks(network: nn.Module, rows: Rows) -> int:
    """Let every layer that drops take its masks from `rows`; how many there are.

    In place; parameters and state-dict keys are untouched, and evaluation is as it was. A layer of
    another kind that drops is a ValueError.
    """
    layers = 0
    for module in network.modules():
        drops = getattr(module, "drop_prob" if isinstance(module, DropPath) else "p", 0.0)
        if not isinstance(module, DropPath | nn.modules.dropout._DropoutNd) or not drops:
            continue
        kind: type[nn.Module] = type(module)
        if kind not in _SHARED:
            raise ValueError(f"a {kind.__name__} cannot drop by rows; set training.parts = 1")
        module.__class__ = _SHARED[kind]  # type: ignore[assignment]
        module.rows, module.layer = rows, layers  # type: ignore[assignment]
        layers += 1
    return layers


def mask(rows: Rows, layer: int, shape: Sequence[int], drops: float) -> Tensor:
    """float32 of `shape`, (B, ...): 0 with probability `drops`, else 1; independent for each."""
    count, device = math.prod(shape[1:]), rows.seed.device
    number_B = rows.numbers
    if number_B is None:
        number_B = rows.first + torch.arange(shape[0], device=device)
    key_B = _mixed(_mixed((rows.seed + layer * _GOLDEN) & _WORD) ^ (number_B * _GOLDEN & _WORD))
    place_K = _mixed(torch.arange(count, device=device))
    bits_BK = _mixed(key_B[:, None] ^ place_K)
    return (bits_BK >= round(drops * (_WORD + 1))).view(*shape).float()


def _mixed(words: Tensor) -> Tensor:
    """Each bit of the result depends on each of a word, of 32 bits."""
    for _ in range(2):
        words = ((words >> 16) ^ words) * _ODD & _WORD
    return (words >> 16) ^ words


class _Shared(nn.Module):
    """What the three have in common."""

    rows: Rows
    layer: int

    def drop(self, x: Tensor, drops: float, axes: int, *, scaled: bool = True) -> Tensor:
        """Drop along the first `axes`, the others as a whole."""
        if not self.training:
            return x
        shape = *x.shape[:axes], *[1] * (x.ndim - axes)
        kept = mask(self.rows, self.layer, shape, drops)
        return x * (kept / (1 - drops) if scaled else kept).to(x.dtype)


class _SharedDropout(_Shared, nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name for it
        return self.drop(input, self.p, input.ndim)


class _SharedDropout2d(_Shared, nn.Dropout2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name for it
        return self.drop(input, self.p, 2)


class _SharedDropPath(_Shared, DropPath):
    def forward(self, x: Tensor) -> Tensor:
        drops = float(self.drop_prob or 0)
        return self.drop(x, drops, 1, scaled=bool(self.scale_by_keep))


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: _SharedDropout,
    nn.Dropout2d: _SharedDropout2d,
    DropPath: _SharedDropPath,
}
