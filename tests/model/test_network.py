from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from engine.config import ModelConfig
from engine.model.network import Network, Prediction, build_network

smp = pytest.importorskip(
    "segmentation_models_pytorch", reason="the oracle: pip install 'roomsmith[test]'"
)

CLASSES = 13

both_decoders = pytest.mark.parametrize("decoder", ["fpn", "deeplabv3plus"])


def config(encoder: str = "test_efficientnet", **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "encoder": encoder,
        "weights": "none",
        "pyramid_channels": 96,
        "segmentation_channels": 64,
        "aspp_channels": 64,
    }
    return ModelConfig.model_validate(values | changes)


def channels_last(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def oracle(model: ModelConfig) -> torch.nn.Module:
    """The network of smp for the same config, with norms that are not all 1 and 0."""
    torch.manual_seed(0)
    network: torch.nn.Module = smp.FPN(
        f"tu-{model.encoder}",
        encoder_weights=None,
        in_channels=model.in_channels,
        classes=CLASSES,
        decoder_pyramid_channels=model.pyramid_channels,
        decoder_segmentation_channels=model.segmentation_channels,
        decoder_dropout=model.dropout,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def with_weights_of(theirs: torch.nn.Module, model: ModelConfig) -> Network:
    ours = build_network(model, CLASSES)
    result = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys == ["depth_head.0.weight", "depth_head.0.bias"]
    count = sum(p.numel() for p in ours.parameters()) - model.segmentation_channels - 1
    assert count == sum(p.numel() for p in theirs.parameters())
    return ours


def upsampled(logits_BChw: torch.Tensor) -> torch.Tensor:
    return F.interpolate(
        logits_BChw,
        scale_factor=4,
        mode="bilinear",
        align_corners=Network.align_corners,
    )


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [
        ("convnext_atto", "rgb"),
        ("convnext_atto", "rgbd"),
        ("tf_efficientnet_lite0", "rgb"),
        pytest.param("convnext_base", "rgbd", marks=pytest.mark.full),
    ],
)
def test_logits_equal_those_of_smp(encoder: str, channels: str) -> None:
    model = config(encoder, input=channels)
    theirs = oracle(model).eval()
    ours = with_weights_of(theirs, model).eval()
    image = channels_last(2, model.in_channels, 64, 96)
    with torch.no_grad():
        expected = theirs(image)
        found = upsampled(ours(image).logits_BChw)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# resnet18 has a feature of stride 2 that is left out, test_mambaout returns NHWC.
@pytest.mark.parametrize("widths", [(256, 128), (8, 32)])
@pytest.mark.parametrize("encoder", ["resnet18", "test_mambaout", "test_convnext"])
def test_other_encoders_and_widths_equal_smp(encoder: str, widths: tuple[int, int]) -> None:
    model = config(encoder, pyramid_channels=widths[0], segmentation_channels=widths[1])
    theirs = oracle(model).eval()
    ours = with_weights_of(theirs, model).eval()
    image = channels_last(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            upsampled(ours(image).logits_BChw), theirs(image), rtol=0, atol=1e-4
        )


def test_gradients_and_statistics_of_a_training_pass_equal_those_of_smp() -> None:
    model = config("tf_efficientnet_lite0", dropout=0.0)
    theirs = oracle(model).double().train()
    ours = with_weights_of(theirs, model).double().train()
    image = channels_last(2, 3, 32, 64).double()
    direction = torch.randn(2, CLASSES, 32, 64, dtype=torch.float64)
    torch.autograd.backward(theirs(image), direction)
    torch.autograd.backward(upsampled(ours(image).logits_BChw), direction)
    mine = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        # smp keeps blocks after the last feature that the decoder reads without a gradient.
        if parameter.grad is None:
            assert mine[name].grad is None, name
        else:
            torch.testing.assert_close(mine[name].grad, parameter.grad, msg=name)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, msg=name)


@both_decoders
def test_depth_head_reads_the_same_features_as_the_segmentation_head(decoder: str) -> None:
    network = build_network(config(decoder=decoder), 1).eval()
    network.depth_head.load_state_dict(network.segmentation_head.state_dict())
    prediction = network(channels_last(2, 3, 64, 96))
    assert prediction.depth_Bhw.shape == (2, 16, 24)
    torch.testing.assert_close(prediction.depth_Bhw, prediction.logits_BChw[:, 0])


@both_decoders
def test_output_is_channels_last_for_both_layouts_of_the_input(decoder: str) -> None:
    network = build_network(config(decoder=decoder), CLASSES).eval()
    image = channels_last(2, 3, 64, 96)
    for view in (image, image.contiguous()):
        logits = network(view).logits_BChw
        assert logits.shape == (2, CLASSES, 16, 24)
        assert logits.is_contiguous(memory_format=torch.channels_last)


def test_dropout_drops_whole_channels_and_keeps_the_mean() -> None:
    model = config(dropout=0.5, segmentation_channels=128)
    decoder = build_network(model, CLASSES).decoder
    features = [
        channels_last(4, width, 64 // stride, 64 // stride)
        for width, stride in zip((24, 32, 48, 64), (1, 2, 4, 8), strict=True)
    ]
    with torch.no_grad():
        coarse, fine = decoder.eval()(features)
        dropped_coarse, dropped_fine = decoder.train()(features)
    kept = dropped_fine.abs().amax(dim=(2, 3)) > 0
    assert 0.3 < kept.float().mean() < 0.7
    mask = 2.0 * kept[..., None, None]
    torch.testing.assert_close(dropped_fine, fine * mask)
    torch.testing.assert_close(dropped_coarse, coarse * mask)


def test_drop_path_reaches_the_encoder_and_only_acts_in_training() -> None:
    network = build_network(config("test_convnext", drop_path=0.5, dropout=0.0), CLASSES)
    rates = [part.drop_prob for part in network.encoder.modules() if isinstance(part, DropPath)]
    assert max(rates) == pytest.approx(0.5)
    image = channels_last(2, 3, 64, 64)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(image).logits_BChw, network(image).logits_BChw)
        network.eval()
        assert torch.equal(network(image).logits_BChw, network(image).logits_BChw)


@both_decoders
def test_random_weights_have_the_spread_that_smp_gives_them(decoder: str) -> None:
    if decoder == "fpn":
        options = {"decoder_pyramid_channels": 96, "decoder_segmentation_channels": 64}
        theirs = smp.FPN("tu-test_efficientnet", encoder_weights=None, classes=CLASSES, **options)
    else:
        theirs = smp.DeepLabV3Plus(
            "tu-test_efficientnet", encoder_weights=None, classes=CLASSES, decoder_channels=64
        )
    ours = build_network(config(decoder=decoder), CLASSES).state_dict()
    for name, tensor in theirs.state_dict().items():
        # Uniform within a bound, which tensors of this size come close to.
        if tensor.ndim == 4 and tensor.numel() > 100 and not name.startswith("encoder."):
            bound = float(tensor.abs().max())
            assert float(ours[name].abs().max()) == pytest.approx(bound, rel=0.1), name


@both_decoders
def test_a_seed_fixes_the_random_weights(decoder: str) -> None:
    def state() -> dict[str, torch.Tensor]:
        torch.manual_seed(7)
        return build_network(config(decoder=decoder), CLASSES).state_dict()

    first, second = state(), state()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_size_that_is_no_multiple_of_32_is_refused() -> None:
    network = build_network(config(), CLASSES)
    with pytest.raises(ValueError, match="image is 64 x 80; both must be multiples of 32"):
        network(torch.zeros(1, 3, 64, 80))


def test_groups_of_one_value_become_their_bias() -> None:
    # At stride 32 a view of 32 x 32 pixels has one cell, and 32 channels make groups of one.
    config = ModelConfig(encoder="test_efficientnet", weights="none", segmentation_channels=32)
    network = build_network(config, 5).eval()
    norms = [part for part in network.modules() if isinstance(part, torch.nn.GroupNorm)]
    for norm in norms:
        torch.nn.init.uniform_(norm.bias)
        value_BCHW = torch.rand(1, 32, 1, 1)
        # The mean of one value rounds, and the deviation is the square root of 1e-5.
        expected = norm.bias[None, :, None, None]
        torch.testing.assert_close(norm(value_BCHW), expected, rtol=0, atol=1e-4)
        # Of more values it is PyTorch's own.
        wide_BCHW = torch.rand(2, 32, 3, 4)
        expected = F.group_norm(wide_BCHW, 32, norm.weight, norm.bias, norm.eps)
        assert torch.equal(norm(wide_BCHW), expected)
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 32, 32)).logits_BChw.shape == (1, 5, 8, 8)


def test_a_segmentation_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        config(segmentation_channels=48)


@both_decoders
def test_the_network_compiles_whole_and_gives_the_same_values(decoder: str) -> None:
    model = config("test_convnext", decoder=decoder, dropout=0.0, aspp_dropout=0.0)
    network = build_network(model, CLASSES).train()
    image = channels_last(2, 3, 64, 64)
    # The graph is what fullgraph is about; generating C++ for it would take a minute.
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    expected, found = network(image), compiled(image)
    torch.testing.assert_close(found.logits_BChw, expected.logits_BChw)
    torch.testing.assert_close(found.depth_Bhw, expected.depth_Bhw)
    torch.autograd.backward(found.logits_BChw.sum())
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())
    torch._dynamo.reset()


def test_every_group_norm_reads_a_convolution() -> None:
    # pytorch issue 189488: inductor fuses an upsampling that a GroupNorm reads into its reduction.
    producers: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        producers.extend(
            str(node.args[0].target)
            for node in graph.graph.nodes
            if "group_norm" in str(node.target) and isinstance(node.args[0], torch.fx.Node)
        )
        return graph.forward

    network = build_network(config("test_mambaout"), CLASSES)
    torch.compile(network, fullgraph=True, backend=backend)(channels_last(1, 3, 64, 64))
    torch._dynamo.reset()
    assert len(producers) == 7
    assert all("conv2d" in producer for producer in producers), producers


@both_decoders
def test_the_forward_pass_runs_on_fake_cuda_tensors_in_bf16(decoder: str) -> None:
    model = config("convnext_atto", input="rgbd", decoder=decoder)
    network = build_network(model, CLASSES)
    convolutions: set[torch.dtype] = set()
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda _part, _inputs, out: convolutions.add(out.dtype))
    real = network.state_dict()
    with FakeTensorMode():
        state = {
            name: torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda"
            )
            for name, tensor in real.items()
        }
        image = torch.empty(2, 4, 64, 96, device="cuda", memory_format=torch.channels_last)
        # torch.autocast turns itself off without a GPU; the switches beneath it do not.
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            prediction: Prediction = functional_call(network, state, image)
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()
    logits, depth = prediction
    assert logits.device.type == depth.device.type == "cuda"
    # The layout is not asked for: a fake convolution keeps it only where cuDNN is at hand.
    # Autocast interpolates and normalises in float32, so sums with an upsampled part are float32.
    assert convolutions == {torch.bfloat16}
    assert logits.dtype == depth.dtype
    assert logits.dtype == (torch.float32 if decoder == "fpn" else torch.bfloat16)
    assert logits.shape == (2, CLASSES, 16, 24)


@both_decoders
@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_convnext"])
def test_an_input_in_bf16_is_what_autocast_makes_of_one_in_float32(
    encoder: str, decoder: str
) -> None:
    network = build_network(config(encoder, decoder=decoder), CLASSES).train()
    image_BCHW = channels_last(2, 3, 64, 64)
    results = []
    for given_BCHW in (image_BCHW, image_BCHW.to(torch.bfloat16)):
        torch.manual_seed(0)  # of dropout
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            prediction = network(given_BCHW)
        sum(part.float().square().mean() for part in prediction).backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        results.append([*prediction, *(one for one in gradients if one is not None)])
    assert all(torch.equal(full, rounded) for full, rounded in zip(*results, strict=True))
