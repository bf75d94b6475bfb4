"""Faults planted in depthwise_norm's kernels, each of which the comparison with float64 finds.

None of them reads outside its arrays.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.kernels.depthwise_norm_truth import add_twice, eager_sum, make, too_far

FOLDER = Path(__file__).resolve().parent.parent.parent / "kernels" / "depthwise_norm"
FILES = ("triton", "triton_backward")
SHAPE = (1, 12, 4, 9)
"""Two tiles, the second with one column; channels that fill no block."""
EPS = 0.01
"""Not little beside a variance of about .1."""

MUTANTS = {
    "the halo above is a row short": (
        "y = line + ky - REACH",
        "y = tl.where(ky == 0, -1, line + ky - REACH)",
    ),
    "tiles do not see the one before": ("has &= left > 0", "has &= left < 0"),
    "the last column is not read": ("has &= left + (j - REACH) < W", "has &= left + j - 2 < W"),
    "rows and columns of taps are swapped": ("(SIDE * ky + kx) * C", "(SIDE * kx + ky) * C"),
    "taps are not reversed": ("(TAPS - 1 - SIDE * ky - kx) * C", "(SIDE * ky + kx + 0) * C"),
    "the mean is not subtracted": ("offset = tile - tl.sum(", "offset = tile - 0 * tl.sum("),
    "the mean is over the block": (
        "tl.sum(tile, 1, keep_dims=True) * (1.0 / C)",
        "tl.sum(tile, 1, keep_dims=True) * (1.0 / BLOCK)",
    ),
    "eps is dropped": ("variance + EPS", "variance + 0.0"),
    "the bias has no gradient": ("bias += d\n", "bias += 0.0 * d\n"),
    "the gradient's mean stays": ("g - mean - n * along", "g - n * along"),
    "the gradient along the normal stays": ("g - mean - n * along", "g - mean"),
    "gamma is left out of the gradient": ("g = gamma * dy", "g = dy"),
    "gamma's gradient lacks the normal": ("by_gamma += dy * n", "by_gamma += dy"),
    "the residual has no gradient": ("out += (tl.load(residual", "out += (0 * tl.load(residual"),
    "the residual is shifted": ("residual + place + i * C", "residual + place"),
    "a step of rows is forgotten": ("top + steps * LINES, H)", "top + steps * LINES - LINES, H)"),
    "taps' gradients are mirrored": ("(TAPS - first - i) * C", "(first + i) * C"),
    "the last row has no part in them": (
        "else (line < H) & (c < C)\n        centre",
        "else (line < H - 1) & (c < C)\n        centre",
    ),
}


# At least one of each of the three kernels, and of the residual.
ALWAYS = {
    "the halo above is a row short",
    "tiles do not see the one before",
    "taps are not reversed",
    "the mean is over the block",
    "eps is dropped",
    "the gradient along the normal stays",
    "the residual is shifted",
    "the last row has no part in them",
}
FAULTS = [
    pytest.param(fault, marks=[] if fault in ALWAYS else [pytest.mark.full]) for fault in MUTANTS
]


def test_without_a_fault_none_is_found(
    operation: Callable[[str, str], ModuleType], device_of: Callable[[str], torch.device]
) -> None:
    device = device_of("triton")
    form = add_twice(operation("depthwise_norm", "triton").depthwise_norm_with_residual)
    inputs, grad = make(SHAPE, torch.float32)
    moved = [tensor.to(device) for tensor in inputs]
    assert too_far(form, moved, grad, EPS, eager_sum) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    fault: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    right, wrong = MUTANTS[fault]
    sources = {name: (FOLDER / f"{name}.py").read_text("utf-8") for name in FILES}
    found = sum(source.count(right) for source in sources.values())
    assert found == 1, f"{right!r} is there {found} times"
    device = device_of("triton")
    form = add_twice(operation("depthwise_norm", "triton").depthwise_norm_with_residual)
    inputs, grad = make(SHAPE, torch.float32)
    inputs = [tensor.to(device) for tensor in inputs]
    for name, source in sources.items():  # in this order: the second imports the first
        file = tmp_path / f"{name}.py"  # Triton reads a kernel's source from its file
        file.write_text(source.replace(right, wrong), "utf-8")
        module = f"kernels.depthwise_norm.{name}"
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None
        assert spec.loader is not None
        mutant = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module, mutant)
        spec.loader.exec_module(mutant)
    assert too_far(form, inputs, grad, EPS, eager_sum) != []
