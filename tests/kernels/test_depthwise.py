"""Depthwise convolutions: the weights' gradient against oneDNN's bytes and against float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.depthwise import cpu, depthwise_conv, reference

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether oneDNN's kernel is the one whose order of sums ours has."""

# Batch, channels, height, width, taps, stride, padding: rows of one, two and three blocks, and
# those that oneDNN cuts otherwise because little is left; channels that no vector divides, of one
# vector and of three; images smaller than the taps; strides, without padding as timm's "same".
CASES = [
    (2, 16, 5, 8, 5, 1, 2),
    (1, 24, 4, 32, 5, 1, 2),
    (2, 40, 3, 29, 5, 1, 2),
    (1, 48, 2, 64, 5, 1, 2),
    (1, 32, 3, 57, 5, 1, 2),
    (3, 33, 3, 2, 5, 1, 2),
    (2, 24, 11, 13, 5, 2, 0),
    (2, 24, 9, 7, 7, 1, 3),
]


# Rows of one block, of several with little and with nothing left, many rows; padded and not; more
# taps than rows between them.
STRIDED = [
    (2, 24, 11, 13, 5, 2, 0),
    (2, 48, 33, 67, 3, 2, 0),
    (1, 16, 73, 91, 3, 2, 0),
    (3, 33, 9, 61, 3, 2, 0),
    (2, 24, 9, 8, 3, 2, 1),
    (1, 40, 13, 17, 7, 3, 3),
]


def gradients_of(
    convolve: Callable[..., Tensor],
    case: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    bias: bool = False,
) -> tuple[Tensor, ...]:
    """Result, then gradients of input, weights and perhaps biases."""
    B, C, H, W, side, stride, pad = case
    generator = torch.Generator().manual_seed(sum(case))
    x = torch.randn(B, C, H, W, generator=generator).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(C, 1, side, side, generator=generator).to(dtype).requires_grad_()
    biases = torch.randn(C, generator=generator).to(dtype).requires_grad_() if bias else None
    y = convolve(x, weight, biases, stride, pad)
    slope = torch.randn(y.shape, generator=generator).to(dtype)
    asked = (x, weight) if biases is None else (x, weight, biases)
    return y.detach(), *torch.autograd.grad(y, asked, slope)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """The operation, whose weights' gradient must be its own."""
    called: list[int] = []
    gradient = cpu.weight_gradient

    def counted(*given: object) -> Tensor:
        called.append(1)
        return gradient(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu, "weight_gradient", counted)

    def convolve(*given: object) -> Tensor:
        y = depthwise_conv(*given)  # type: ignore[arg-type]
        assert "DepthwiseConv" in str(y.grad_fn)
        return y

    return convolve


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_its_gradients_have_the_bytes_of_pytorch(
    ours: Callable[..., Tensor], case: tuple[int, ...], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found, expected = (gradients_of(each, case) for each in (ours, reference.depthwise_conv))
    torch.set_num_threads(before)
    for one, other in zip(found, expected, strict=True):
        if AVX512:
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_errs_no_more_than_twice_as_much_as_pytorch(
    ours: Callable[..., Tensor], case: tuple[int, ...]
) -> None:
    found, expected, truth = (
        gradients_of(reference.depthwise_conv if other else ours, case, dtype)[2].double()
        for other, dtype in ((0, torch.float32), (1, torch.float32), (1, torch.float64))
    )
    assert (found - truth).abs().max() <= 2 * (expected - truth).abs().max() + 1e-6


@pytest.mark.parametrize("case", [*CASES, (2, 24, 9, 8, 3, 2, 1)], ids=str)
def test_in_bfloat16_it_is_float32_rounded(
    ours: Callable[..., Tensor], case: tuple[int, ...]
) -> None:
    low = torch.bfloat16

    def wide(x: Tensor, weight: Tensor, *given: object) -> Tensor:
        return F.conv2d(x.float(), weight.float(), *given, groups=x.shape[1]).to(low)  # type: ignore[call-overload, no-any-return]

    found, expected = gradients_of(ours, case, low), gradients_of(wide, case, low)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == low
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", STRIDED, ids=str)
def test_of_strides_in_bfloat16_it_has_the_bytes_of_float32_rounded(
    case: tuple[int, ...], threads: int
) -> None:
    low = torch.bfloat16

    def wide(x: Tensor, weight: Tensor, *given: object) -> Tensor:
        return F.conv2d(x.float(), weight.float(), *given, groups=x.shape[1]).to(low)  # type: ignore[call-overload, no-any-return]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found, expected = gradients_of(depthwise_conv, case, low), gradients_of(wide, case, low)
    torch.set_num_threads(before)
    for one, other in zip(found[1:], expected[1:], strict=True):
        if AVX512:
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-2)
    assert found[1].is_contiguous(memory_format=torch.channels_last)


def test_of_strides_what_is_no_number_stays_none() -> None:
    x = torch.zeros(1, 16, 5, 5, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(16, 1, 3, 3, dtype=torch.bfloat16)
    y = depthwise_conv(x.requires_grad_(), weight, None, 2, 0)
    slope = torch.ones_like(y)
    slope[0, 3, 0, 0] = torch.nan
    (of_x,) = torch.autograd.grad(y, x, slope)
    assert of_x[0, 3, :3, :3].isnan().all()
    assert of_x.isnan().sum() == 9


def test_biases_have_a_gradient(ours: Callable[..., Tensor]) -> None:
    found = gradients_of(ours, CASES[0], bias=True)
    expected = gradients_of(reference.depthwise_conv, CASES[0], bias=True)
    torch.testing.assert_close(found, expected)


def test_what_asks_for_no_gradient_gets_none(ours: Callable[..., Tensor]) -> None:
    x, weight = torch.randn(1, 16, 6, 6), torch.randn(16, 1, 5, 5)
    x = x.contiguous(memory_format=torch.channels_last)
    y = ours(x, weight.requires_grad_(), None, 1, 2)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    weight = weight.detach()
    y = ours(x.requires_grad_(), weight, None, 1, 2)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


def test_layouts_that_are_not_channels_last_are_taken(ours: Callable[..., Tensor]) -> None:
    case = (2, 16, 6, 9, 5, 1, 2)
    expected = gradients_of(reference.depthwise_conv, case)

    def planar(x: Tensor, *given: object) -> Tensor:
        return ours(x.contiguous(), *given)

    torch.testing.assert_close(gradients_of(planar, case), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "side", "stride", "dtype"),
    [
        (16, 3, 1, torch.float32),
        (16, 3, 2, torch.float32),
        (16, 3, 1, torch.bfloat16),
        (8, 5, 1, torch.float32),
        (16, 5, 1, torch.float64),
    ],
)
def test_where_pytorch_is_fast_or_alone_it_is_run(
    channels: int, side: int, stride: int, dtype: torch.dtype
) -> None:
    x = torch.randn(1, channels, 7, 7, dtype=dtype, requires_grad=True)
    weight = torch.randn(channels, 1, side, side, dtype=dtype)
    assert "Convolution" in str(depthwise_conv(x, weight, None, stride, 1).grad_fn)
