"""Bytes of operations by hand, of ours by the interpreter's accesses, and of a whole step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kernels.depthwise_norm
import kernels.group_norm_relu
import kernels.scaled_weight
from benchmarks import step_bytes, step_trace
from benchmarks.op_bytes import (
    CASTS,
    DEPTHWISE,
    MOVED,
    NORMS,
    OPTIMISER,
    POINTWISE,
    REDUCTIONS,
    MovedBytes,
    nbytes,
)
from engine.config import Config
from kernels import gpu
from kernels.adamw import Constants, State, Update, launch
from kernels.group_norm_relu import GroupNorm
from tests.kernels.accesses import noted

KIB = 1024


def bytes_of(act: Callable[[], object]) -> dict[str, int]:
    with MovedBytes() as moved:
        act()
    return dict(moved.bytes)


def test_operations_read_their_arguments_once_and_write_their_results() -> None:
    one, low = torch.ones(KIB), torch.ones(KIB, dtype=torch.bfloat16)
    assert bytes_of(lambda: one + one) == {POINTWISE: 8 * KIB}
    assert bytes_of(lambda: one.mul_(2)) == {POINTWISE: 8 * KIB}
    assert bytes_of(lambda: one.add_(low)) == {POINTWISE: 10 * KIB}
    assert bytes_of(one.bfloat16) == {CASTS: 6 * KIB}
    assert bytes_of(lambda: low.copy_(one)) == {CASTS: 6 * KIB}
    assert bytes_of(one.zero_) == {POINTWISE: 4 * KIB}
    assert bytes_of(one.sum) == {REDUCTIONS: 4 * KIB + 4}
    assert bytes_of(lambda: torch._foreach_lerp_([one], [one.clone()], 0.5))[OPTIMISER] == 12 * KIB


def test_views_and_memory_that_nobody_fills_move_nothing_and_repeated_axes_count_once() -> None:
    one = torch.ones(4, KIB)
    views = (one.t, lambda: one.view(-1), lambda: one[1:], lambda: torch.empty(KIB))
    assert [bytes_of(view) for view in views] == [{}] * 4
    # What PyTorch views a folded product by does not say that it is a view.
    left, right = torch.ones(2, 3, 4), torch.ones(4, 5)
    assert set(bytes_of(lambda: left @ right)) == {"matrix products"}
    assert nbytes(torch.ones(1, KIB).expand(4, KIB)) == 4 * KIB
    assert nbytes(torch.ones(0, 3)) == 0


def test_kinds_of_convolutions_and_norms_are_told_apart() -> None:
    x = torch.ones(1, 8, 4, 4)
    dense, apart = nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False)
    assert set(bytes_of(lambda: dense(x))) == {"convolutions"}
    assert set(bytes_of(lambda: apart(x))) == {DEPTHWISE}
    assert set(bytes_of(lambda: nn.GroupNorm(2, 8)(x))) >= {NORMS}
    assert set(bytes_of(lambda: torch.ones(2, 3) @ torch.ones(3, 2))) >= {"matrix products"}


def adamw(clip_norm: float) -> Callable[[], object]:
    """A step of three tensors."""
    shapes = ((3000,), (40, 50), (7,))
    made = [[torch.ones(shape) for shape in shapes] for _ in range(5)]
    step = [torch.zeros(()) for _ in shapes]
    state = State._make([*made[:4], step])
    constants = Constants([0.1] * 3, 0.9, 0.999, 1e-8, clip_norm)
    update = Update(state, [torch.tensor(0.1)] * 3, constants)
    return lambda: update(made[4], torch.tensor(0.5))


def depthwise_norm(backward: bool, residual: bool = False) -> Callable[[], object]:
    """An image through the block's beginning, or its gradient, and a residual's if wanted."""
    x = torch.randn(1, 64, 12, 16, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    x.requires_grad_()
    taps, (bias, gamma, beta) = torch.randn(64, 1, 7, 7), torch.ones(3, 64)

    def forward() -> tuple[Tensor, Tensor]:
        begin = kernels.depthwise_norm.depthwise_norm_with_residual
        return begin(x, taps, bias, gamma, beta, 1e-6)

    if not backward:
        return forward
    results = forward()[: 2 if residual else 1]
    grads = [torch.ones_like(result) for result in results]
    return lambda: torch.autograd.grad(results, x, grads)


def group_norm_relu(doubled: bool, added: bool, backward: bool) -> Callable[[], object]:
    """A norm of two images, or its gradient."""
    norm = GroupNorm(torch.ones(32), torch.ones(32), 8, 1e-5)
    x = torch.randn(2, 32, 16, 12).to(memory_format=torch.channels_last).requires_grad_(backward)
    more = torch.randn(2, 32, 16, 12).to(memory_format=torch.channels_last) if added else None

    def forward() -> Tensor:
        return kernels.group_norm_relu.group_norm_relu(x, norm, doubled=doubled, added_BCHW=more)

    if not backward:
        return forward
    y = forward()
    grad = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, x, grad)


def scaled_weight(backward: bool) -> Callable[[], object]:
    """The weights of a layer, or their gradient."""
    weight = torch.ones(24, 96, requires_grad=True)
    bias, gamma = (torch.ones(24, requires_grad=True) for _ in range(2))

    def forward() -> tuple[Tensor, ...]:
        return kernels.scaled_weight.scaled_weight(weight, bias, gamma, torch.bfloat16)

    if not backward:
        return forward
    made = forward()
    return lambda: torch.autograd.grad(made, (weight, bias, gamma), made)


OURS: dict[str, list[Callable[[], Callable[[], object]]]] = {
    "roomsmith::adamw": [lambda: adamw(0.0), lambda: adamw(1.0)],
    "roomsmith::depthwise_norm": [lambda: depthwise_norm(False)],
    "roomsmith::depthwise_norm_backward": [
        lambda: depthwise_norm(True),
        lambda: depthwise_norm(True, residual=True),
    ],
    "roomsmith::group_norm_relu": [
        lambda: group_norm_relu(False, False, False),
        lambda: group_norm_relu(False, True, False),
        lambda: group_norm_relu(True, False, False),
    ],
    "roomsmith::group_norm_relu_backward": [
        lambda: group_norm_relu(False, False, True),
        lambda: group_norm_relu(True, False, True),
    ],
    "roomsmith::scaled_weight": [lambda: scaled_weight(False)],
    "roomsmith::scaled_weight_backward": [lambda: scaled_weight(True)],
}
"""For each operation in the table of bytes, calls of it at small shapes, in the forms it has."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts what the interpreter accesses")
@pytest.mark.parametrize("name", MOVED)
def test_an_operation_of_ours_counts_what_its_kernels_touch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "uses_triton", lambda _: True)
    monkeypatch.setattr(launch, "SUMS", 16)
    for make in OURS[name]:
        call = make()
        with noted() as accesses, MovedBytes() as moved:
            call()
        assert accesses.read > 0
        # What tables, statistics and sums of parts come to is left out.
        own = sum(count for (_, op), count in moved.by_name.items() if name.endswith(f"::{op}"))
        # Statistics and sums of parts are left out.
        assert own == pytest.approx(accesses.moved, rel=0.05)


def test_a_step_is_counted_in_every_form_and_its_parts_as_by_hand(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = {form: step_trace.count(tiny_config, form) for form in step_bytes.FORMS}
    plain, one_pass = counted["plain"], counted["one-pass"]
    parameters = sum(step_trace.parameters_of(tiny_config))
    # Norm 1, clipping 2, AdamW 7, average 3; in one pass the gradients twice, four of eight more.
    for moved, times in ((plain, 13), (one_pass, 10)):
        assert moved.bytes[OPTIMISER] == pytest.approx(times * 4 * parameters, rel=0.05)
    for kind in (CASTS, NORMS, POINTWISE, "convolutions"):
        assert plain.bytes[kind] == pytest.approx(one_pass.bytes[kind], rel=0.05), kind
        assert plain.bytes[kind] > 0
    told = step_trace.table(counted)
    assert "100.0 %" in told
    assert all(kind in told for kind in plain.bytes)


def test_the_command_writes_what_it_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, root = tmp_path / "figures.json", Path(step_bytes.CONFIG).parent
    flags = ["--model.encoder", "test_efficientnet", "--model.weights", "none"]
    config = ["--config", str(root / "exp093_2.toml"), str(root / "lite.toml")]
    assert step_bytes.main([*config, *flags, "--forms", "plain", "--json", str(path)]) == 0
    content = json.loads(path.read_text())
    assert {row["form"] for row in content["rows"]} == {"plain"}
    assert content["network"]["parameters"] > 0
    assert "convolutions" in capsys.readouterr().out


def test_norms_take_float32_as_on_a_gpu() -> None:
    x, norm = torch.ones(2, 8), nn.LayerNorm(8)
    with torch.autocast("cpu", torch.bfloat16), step_trace._GpuCasts():
        found: Tensor = norm(x.bfloat16())
    assert found.dtype == torch.float32
