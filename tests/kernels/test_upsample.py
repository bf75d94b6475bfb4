"""The gathered gradient is that of `F.interpolate`, and where nothing is asked nothing changes."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.upsample import Gathered, upsample

# Twice and four times, as the decoders do, and what is no multiple; a single row or column has no
# corners to align.
SIZES = [((6, 10), (12, 20)), ((3, 5), (12, 20)), ((7, 4), (11, 9)), ((1, 3), (4, 6))]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def cells(hw: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x_BChw = torch.randn(2, 3, *hw, generator=generator, dtype=torch.float64)
    return x_BChw.to(dtype, memory_format=torch.channels_last).requires_grad_()


def gathered(x_BChw: Tensor, hw: tuple[int, int], align_corners: bool = True) -> Tensor:
    out_BCHW: Tensor = Gathered.apply(x_BChw, hw, align_corners)
    return out_BCHW


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("hw", "size"), SIZES)
def test_the_gradient_is_the_transposed_interpolation(
    hw: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> None:
    x_BChw = cells(hw)
    ours_BCHW = gathered(x_BChw, size, align_corners)
    theirs_BCHW = F.interpolate(x_BChw, size, mode="bilinear", align_corners=align_corners)
    assert torch.equal(ours_BCHW, theirs_BCHW)
    assert ours_BCHW.stride() == theirs_BCHW.stride()
    grad_BCHW = torch.randn(theirs_BCHW.shape, dtype=torch.float64)
    (ours,) = torch.autograd.grad(ours_BCHW, x_BChw, grad_BCHW)
    (theirs,) = torch.autograd.grad(theirs_BCHW, x_BChw, grad_BCHW)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_bf16_is_added_up_in_float32_under_any_autocast(layout: torch.memory_format) -> None:
    x_BChw = cells((16, 24), torch.bfloat16)
    grad_BCHW = torch.randn(2, 3, 64, 96).to(torch.bfloat16, memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16):
        (ours,) = torch.autograd.grad(gathered(x_BChw, (64, 96)), x_BChw, grad_BCHW)
    exact_BChw = x_BChw.detach().double().requires_grad_()
    wide_BCHW = F.interpolate(exact_BChw, (64, 96), mode="bilinear", align_corners=True)
    (exact,) = torch.autograd.grad(wide_BCHW, exact_BChw, grad_BCHW.double())
    assert ours.dtype == torch.bfloat16
    # Half a unit in the last of the 8 bits in which the sum is returned, and float32's own error.
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8 + 1e-5, atol=1e-5)


# PyTorch 2.11's own tracer makes an object of the class.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_gradient_is_had_compiled_too() -> None:
    x_BChw, grad_BCHW = cells((6, 10)), torch.randn(2, 3, 12, 20, dtype=torch.float64)
    compiled = torch.compile(lambda x: gathered(x, (12, 20)), fullgraph=True, backend="aot_eager")
    (ours,) = torch.autograd.grad(compiled(x_BChw), x_BChw, grad_BCHW)
    (eager,) = torch.autograd.grad(gathered(x_BChw, (12, 20)), x_BChw, grad_BCHW)
    assert torch.equal(ours, eager)


@pytest.mark.usefixtures("deterministic")
def test_a_cpu_is_deterministic_and_keeps_its_gradient() -> None:
    x_BChw = cells((6, 10), torch.float32)
    by_size = upsample(x_BChw, (12, 20), align_corners=True)
    by_factor = upsample(x_BChw, scale_factor=2.0, align_corners=True)
    for out_BCHW in (by_size, by_factor):
        assert out_BCHW.shape == (2, 3, 12, 20)
        assert out_BCHW.grad_fn is not None
        assert out_BCHW.grad_fn.name() == "UpsampleBilinear2DBackward0"


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_bytes_are_the_same_each_time(dtype: torch.dtype) -> None:
    # The segmentation head's, at full size.
    x_BChw = torch.randn(4, 13, 72, 96, device="cuda").to(dtype, memory_format=torch.channels_last)
    x_BChw.requires_grad_()
    grad_BCHW = torch.randn(4, 13, 144, 192, device="cuda").to(dtype)
    out_BCHW = upsample(x_BChw, scale_factor=2.0, align_corners=True)
    plain_BCHW = torch.ops.aten.upsample_bilinear2d(x_BChw, (144, 192), True)
    assert torch.equal(out_BCHW, plain_BCHW)
    gradients = [
        torch.autograd.grad(out_BCHW, x_BChw, grad_BCHW, retain_graph=True)[0] for _ in range(5)
    ]
    assert all(torch.equal(gradients[0], again) for again in gradients[1:])
    exact_BChw = x_BChw.detach().double().cpu().requires_grad_()
    wide_BCHW = F.interpolate(exact_BChw, (144, 192), mode="bilinear", align_corners=True)
    (exact,) = torch.autograd.grad(wide_BCHW, exact_BChw, grad_BCHW.double().cpu())
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(gradients[0].double().cpu(), exact, rtol=rounding, atol=1e-4)
