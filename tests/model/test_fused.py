"""Fused forms of ConvNeXt and the FPN: the same network, to rounding, and reversible."""

import copy
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm import LayerNorm
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from engine.config import ModelConfig
from engine.model.fused import Fused, Fusions, fuse
from engine.model.network import Network, build_network
from kernels import gpu
from tests.kernels.depthwise_norm_truth import round_to_nearest

OFF = Fusions()
PARTS = tuple(field.name for field in fields(Fusions))
ONE_EACH = [replace(OFF, **{name: True}) for name in PARTS]
ALL = Fusions(**dict.fromkeys(PARTS, True))

each_form = pytest.mark.parametrize("form", [*ONE_EACH, ALL], ids=[*PARTS, "all"])


def make_network(encoder: str = "test_convnext", classes: int = 5, **changes: Any) -> Network:
    """Random weights: scales of order 1 and norms that are not all 1 and 0."""
    torch.manual_seed(0)
    values = {"encoder": encoder, "weights": "none", "pyramid_channels": 32, "dropout": 0.0}
    config = ModelConfig.model_validate(values | {"segmentation_channels": 32} | changes)
    network = build_network(config, classes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.copy_(0.5 + torch.rand_like(parameter))
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif ".mlp." in name or ".conv_dw." in name:
                parameter.mul_(5)  # timm's start is so small that a branch hardly shows
    return network


def image(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def results(network: nn.Module, x: Tensor, low: torch.dtype | None = None) -> dict[str, Tensor]:
    """Output, gradient of the input and of every parameter, by name."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", low, enabled=low is not None):
        out = network(x)
    out = torch.cat([part.flatten() for part in out]) if isinstance(out, tuple) else out
    # As a low sum hands it back: nothing of it is lost on the way in.
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    named = dict(network.named_parameters())
    wanted = [x, *named.values()]
    grads = torch.autograd.grad(out, wanted, direction.to(out), allow_unused=True)
    found = dict(zip(("x", *named), grads, strict=True)) | {"out": out.detach()}
    return {name: grad for name, grad in found.items() if grad is not None}


@pytest.fixture(autouse=True)
def _compile_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_block() -> ConvNeXtBlock:
    block = make_network().encoder.get_submodule("model.stages_1.blocks.0")
    assert isinstance(block, ConvNeXtBlock)
    return block


@each_form
def test_in_float64_nothing_but_the_order_of_sums_differs(form: Fusions) -> None:
    network, x = make_network().double(), image(2, 3, 64, 64).double()
    expected = results(network, x)
    done = fuse(network, form)
    assert done.left == {}
    found = results(network, x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10, msg=name)


@each_form
def test_a_fused_block_has_timms_gradients_in_float64(form: Fusions) -> None:
    block = make_block().double()
    fuse(block, form)
    x = image(1, 32, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(block, x, fast_mode=True)


@pytest.mark.parametrize("low", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@each_form
def test_a_fused_block_is_at_most_twice_as_far_from_float64_as_timms(
    form: Fusions, low: torch.dtype | None
) -> None:
    block = make_block()
    x = image(2, 32, 12, 16).bfloat16().float()
    exact = results(copy.deepcopy(block).double(), x.double())

    def errors() -> dict[str, float]:
        # As the next block's convolution reads it, low.
        found = results(block, x, low)
        found["out"] = found["out"].to(low or torch.float32)
        return {
            name: float((value.double() - exact[name]).norm() / exact[name].norm())
            for name, value in found.items()
        }

    theirs = errors()
    fuse(block, form)
    ours = errors()
    assert {
        name: (ours[name], error) for name, error in theirs.items() if ours[name] > 2 * error
    } == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the interpreter, with tensors of the CPU")
@pytest.mark.parametrize("low", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_so_is_one_whose_weights_go_through_our_kernels(
    low: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "uses_triton", lambda _: True)
    round_to_nearest(monkeypatch)
    test_a_fused_block_is_at_most_twice_as_far_from_float64_as_timms(
        Fusions(layer_scale=True, weight_gradient=True), low
    )


def test_all_off_is_timms_network_to_the_byte() -> None:
    network, x = make_network(), image(1, 3, 32, 32)
    expected = results(network, x)
    assert fuse(network, OFF) == Fused(0, 0, 0, {})
    fuse(network, ALL)
    assert fuse(network, OFF) == Fused(0, 0, 0, {})
    found = results(network, x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert {type(part) for part in network.modules() if isinstance(part, LayerNorm)} == {LayerNorm}


def test_what_was_fused_is_counted() -> None:
    network = make_network()
    # Nine blocks, whose norms are counted by themselves as are the stem's and three others.
    assert fuse(network, ALL) == Fused(blocks=9, norms=13, group_norms=7, left={}, heads=2)
    assert fuse(network, Fusions(heads=True)) == Fused(0, 0, 0, {}, heads=2)
    assert fuse(network, Fusions(norm=True)) == Fused(0, 13, 0, {})
    assert fuse(network, Fusions(group_norm=True)) == Fused(0, 0, 7, {})
    assert fuse(network, Fusions(residual=True)) == Fused(9, 0, 0, {})


@pytest.mark.parametrize(
    ("encoder", "blocks", "left"),
    [
        # One kernel of 7 x 7, two of 5 x 5, one of 3 x 3; SiLU.
        ("test_convnext3", 1, {"its convolution is not 7 x 7 of stride 1": 3}),
        ("convnext_atto", 0, {"its MLP is not two linear layers": 12}),
        ("convnextv2_tiny", 0, {"its MLP is not two linear layers": 18}),
        ("test_efficientnet", 0, {}),
    ],
)
def test_blocks_that_do_not_fit_stay_timms(encoder: str, blocks: int, left: dict[str, int]) -> None:
    with torch.device("meta"):
        network = timm.create_model(encoder, features_only=True)
    assert fuse(network, Fusions(layer_scale=True)) == Fused(blocks, 0, 0, left)


def test_blocks_without_scale_or_with_another_norm_stay_timms() -> None:
    with torch.device("meta"):
        bare = ConvNeXtBlock(8, ls_init_value=None)
        normed = ConvNeXtBlock(8, norm_layer=nn.LayerNorm)
        strided = ConvNeXtBlock(8, 16)
    for block, why in (
        (bare, "no layer scale"),
        (normed, "its norm is not timm's LayerNorm"),
        (strided, "its convolution is not depthwise with a bias"),
    ):
        assert fuse(block, Fusions(residual=True)).left == {why: 1}
        assert type(block) is ConvNeXtBlock


def test_weights_go_both_ways_under_the_same_names() -> None:
    plain, fused, back = (make_network().double() for _ in range(3))
    names = list(plain.state_dict())
    fuse(fused, ALL)
    assert list(fused.state_dict()) == names
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.1)
    fused.load_state_dict(plain.state_dict())
    back.load_state_dict(fused.state_dict())
    x = image(1, 3, 64, 64).double()
    expected = plain(x).logits_BChw
    assert torch.equal(back(x).logits_BChw, expected)
    torch.testing.assert_close(fused(x).logits_BChw, expected, rtol=1e-9, atol=1e-9)


def test_a_copy_is_fused_too_and_has_its_own_weights() -> None:
    network = make_network()
    fuse(network, ALL)
    average = copy.deepcopy(network).eval()
    x = image(1, 3, 32, 32)
    before = average(x).logits_BChw
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(average(x).logits_BChw, before)


def test_drop_path_stays() -> None:
    network, x = make_network(drop_path=0.5).double(), image(4, 3, 64, 64).double()
    logits: list[Tensor] = []
    for form in (OFF, ALL, ALL):
        assert fuse(network, form).left == {}
        torch.manual_seed(3 + len(logits) // 2)
        logits.append(network(x).logits_BChw)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(logits[2], logits[0])  # another draw


@pytest.mark.parametrize("classes", [5, 7])  # with the depth, 6 outputs to fill up, and 8
def test_dropout_in_the_heads_weights_is_that_of_the_features(classes: int) -> None:
    network, x = make_network(dropout=0.5, classes=classes).double(), image(3, 3, 64, 64).double()
    found = list[dict[str, Tensor]]()
    for form in (OFF, Fusions(heads=True), OFF):
        fuse(network, form)
        torch.manual_seed(3 if len(found) < 2 else 4)
        found.append(results(network, x))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    assert not torch.allclose(found[2]["out"], found[0]["out"])  # another draw


@pytest.mark.parametrize("form", [OFF, ALL], ids=["off", "all"])
def test_it_compiles_without_a_break_as_often_as_timms(form: Fusions) -> None:
    network = make_network("test_convnext2")
    fuse(network, form)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(network, fullgraph=True, backend=counter)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            out = compiled(image(1, 3, 64, 32)).logits_BChw
        out.float().sum().backward()
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("form", "stage_is_low", "norm_is_low"),
    [
        (OFF, False, False),
        (Fusions(layer_scale=True), False, False),
        (Fusions(norm=True), False, True),
        (Fusions(residual=True, norm=True), True, True),
        (ALL, True, True),
    ],
)
def test_under_autocast_the_parts_that_say_so_are_low(
    form: Fusions, stage_is_low: bool, norm_is_low: bool
) -> None:
    network, seen = make_network(), list[torch.dtype]()
    fuse(network, form)
    for name in ("stages_0", "stages_1.downsample.0"):
        part = network.encoder.get_submodule(f"model.{name}")
        part.register_forward_hook(lambda part, given, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(image(1, 3, 32, 32))
    assert [dtype == torch.bfloat16 for dtype in seen] == [stage_is_low, norm_is_low]
