"""The DeepLabV3+ decoder against that of segmentation_models_pytorch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.model.network import Network, build_network

smp = pytest.importorskip(
    "segmentation_models_pytorch", reason="the oracle: pip install 'roomsmith[test]'"
)

CLASSES = 13


def config(encoder: str, **changes: Any) -> ModelConfig:
    values = {"encoder": encoder, "weights": "none", "decoder": "deeplabv3plus"}
    return ModelConfig.model_validate(values | changes)


def image(*shape: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last)


def oracle(model: ModelConfig) -> nn.Module:
    """The network of smp for the same config, with norms and statistics that are not 1 and 0."""
    torch.manual_seed(0)
    network: nn.Module = smp.DeepLabV3Plus(
        f"tu-{model.encoder}",
        encoder_weights=None,
        in_channels=model.in_channels,
        classes=CLASSES,
        decoder_channels=model.aspp_channels,
        decoder_atrous_rates=model.aspp_rates,
        decoder_aspp_dropout=model.aspp_dropout,
    )
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand_like(tensor))
    return network


def with_weights_of(theirs: nn.Module, model: ModelConfig) -> Network:
    ours = build_network(model, CLASSES)
    result = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys == ["depth_head.0.weight", "depth_head.0.bias"]
    count = sum(p.numel() for p in ours.parameters()) - model.aspp_channels - 1
    assert count == sum(p.numel() for p in theirs.parameters())
    return ours


def upsampled(logits_BChw: Tensor) -> Tensor:
    return F.interpolate(
        logits_BChw,
        scale_factor=4,
        mode="bilinear",
        align_corners=Network.align_corners,
    )


# One of each kind of dilation: a stage's own first convolution, strided blocks, residual layers.
@pytest.mark.parametrize(
    ("encoder", "changes"),
    [
        ("convnext_atto", {}),
        ("convnext_atto", {"input": "rgbd", "aspp_channels": 32}),
        pytest.param("convnext_base", {}, marks=pytest.mark.full),
        ("tf_efficientnet_lite0", {"aspp_channels": 48, "aspp_rates": (1, 2, 5)}),
        ("resnet18", {"aspp_channels": 64, "aspp_rates": (4, 8, 12)}),
    ],
)
def test_logits_equal_those_of_smp(encoder: str, changes: dict[str, Any]) -> None:
    model = config(encoder, **changes)
    theirs = oracle(model).eval()
    ours = with_weights_of(theirs, model).eval()
    frame = image(1, model.in_channels, 64, 96)
    with torch.no_grad():
        expected = theirs(frame)
        found = upsampled(ours(frame).logits_BChw)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_gradients_and_statistics_of_a_training_pass_equal_those_of_smp() -> None:
    model = config("test_efficientnet", aspp_channels=16, aspp_rates=(1, 2, 3), aspp_dropout=0.0)
    theirs = oracle(model).double().train()
    ours = with_weights_of(theirs, model).double().train()
    frames = image(2, 3, 32, 64).double()
    direction = torch.randn(2, CLASSES, 32, 64, dtype=torch.float64)
    torch.autograd.backward(theirs(frames), direction)
    torch.autograd.backward(upsampled(ours(frames).logits_BChw), direction)
    mine = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        # smp keeps blocks after the last feature that the decoder reads without a gradient.
        if parameter.grad is None:
            assert mine[name].grad is None, name
        else:
            torch.testing.assert_close(mine[name].grad, parameter.grad, msg=name)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, msg=name)


def test_dropout_follows_the_pyramid_and_only_acts_in_training() -> None:
    network = build_network(config("test_efficientnet", aspp_dropout=0.5), CLASSES)
    frames = image(2, 3, 64, 64)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(frames).logits_BChw, network(frames).logits_BChw)
        network.eval()
        assert torch.equal(network(frames).logits_BChw, network(frames).logits_BChw)
        values: list[Tensor] = []
        project = network.decoder.get_submodule("aspp.0.project")
        project.register_forward_hook(lambda _part, _inputs, out: values.append(out))
        network.train()
        network(frames)
    # Half of what a ReLU leaves: values, not whole channels.
    assert 0.6 < float((values[0] == 0).float().mean()) < 0.9


def test_an_encoder_that_cannot_be_dilated_is_refused() -> None:
    with pytest.raises(ValueError, match="'vgg11' cannot be dilated to stride 16 .*'fpn'"):
        build_network(config("vgg11"), CLASSES)
