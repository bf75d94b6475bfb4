"""Layers that a CPU trains in kernels of ours: the same network, and the same bytes."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.model.fpn import FpnDecoder
from engine.model.on_cpu import use_kernels

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


def encoder(name: str = "tf_efficientnet_lite0", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, features_only=True, **options)
    return network.to(memory_format=torch.channels_last).train()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 64, 96, generator=generator)
    return image.contiguous(memory_format=torch.channels_last)


def loss_of(network: nn.Module) -> Tensor:
    torch.manual_seed(2)  # of the paths that are dropped
    return torch.stack([level.square().mean() for level in network(images())]).sum()


def train(network: nn.Module) -> Tensor:
    loss = loss_of(network)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def test_a_step_leaves_the_same_bytes() -> None:
    plain = encoder()
    ours = copy.deepcopy(plain)
    done = use_kernels(ours)
    assert done == (48, 16, 0)
    losses = [train(network) for network in (plain, ours)]
    pairs = [(p.grad, o.grad) for p, o in zip(plain.parameters(), ours.parameters(), strict=True)]
    pairs += list(zip(plain.buffers(), ours.buffers(), strict=True))
    for one, other in [*pairs, losses]:
        assert one is not None
        assert other is not None
        if AVX512:
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_weights_load_both_ways_and_evaluation_is_timms() -> None:
    plain, ours = encoder().eval(), encoder()
    use_kernels(ours)
    train(ours)
    plain.load_state_dict(ours.state_dict())
    ours.eval()
    with torch.inference_mode():
        for one, other in zip(plain(images()), ours(images()), strict=True):
            assert torch.equal(one, other)


def test_under_autocast_it_is_as_near_to_float32_as_timms() -> None:
    plain = encoder()
    ours = copy.deepcopy(plain)
    use_kernels(ours)
    truth = loss_of(copy.deepcopy(plain)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found, timms = train(ours), loss_of(plain)
    assert all(p.grad is None or p.grad.isfinite().all() for p in ours.parameters())
    assert (found - truth).abs() <= 2 * (timms - truth).abs() + 0.02 * truth.abs()


def test_what_does_otherwise_stays_timms() -> None:
    silu = encoder("efficientnet_b0")
    norms = sum(type(part).__name__ == "BatchNormAct2d" for part in silu.modules())
    done = use_kernels(silu)
    # Only the norms without an activation.
    assert 0 < done.norms < norms
    dilated = encoder(output_stride=16)
    use_kernels(dilated)
    skipping = [p for p in dilated.modules() if isinstance(p, nn.Conv2d) and p.dilation != (1, 1)]
    assert skipping
    assert all(type(part) is nn.Conv2d for part in skipping)


@pytest.mark.parametrize("name", ["convnext_atto"])
def test_a_convnext_has_its_depthwise_convolutions(name: str) -> None:
    plain = encoder(name)
    ours = copy.deepcopy(plain)
    assert use_kernels(ours).convolutions == 12
    for network in (plain, ours):
        train(network)
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_whole_fpn_leaves_the_same_bytes(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    config = ModelConfig(pyramid_channels=64, segmentation_channels=64)
    plain = FpnDecoder((24, 40, 112, 320), config).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    assert use_kernels(ours).group_norms == 7
    generator = torch.Generator().manual_seed(1)
    features = [
        torch.randn(2, width, 192 // stride, 256 // stride, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        for width, stride in zip((24, 40, 112, 320), (4, 8, 16, 32), strict=True)
    ]
    for network in (plain, ours):
        torch.manual_seed(2)  # of dropout
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            coarse, fine = network(features)
        (coarse.float().square().mean() + fine.float().square().mean()).backward()
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        if AVX512:
            assert torch.equal(one.grad, other.grad)
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)
