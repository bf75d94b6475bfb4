"""Checkpoints as segmentation_models_pytorch saves them, loaded unchanged as starting weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from engine.config import ModelConfig
from engine.model.network import Network, build_network
from engine.model.sources import check_source

smp = pytest.importorskip(
    "segmentation_models_pytorch", reason="the oracle: pip install 'roomsmith[test]'"
)

ENCODER = "test_efficientnet"
CLASSES = 5
SMP: dict[str, tuple[str, dict[str, Any]]] = {
    "fpn": ("FPN", {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}),
    "deeplabv3plus": (
        "DeepLabV3Plus",
        {"decoder_channels": 16, "decoder_atrous_rates": (2, 4, 6)},
    ),
}


def config(weights: Path | str, decoder: str = "fpn", **changes: Any) -> ModelConfig:
    values = {
        "encoder": ENCODER,
        "weights": str(weights),
        "decoder": decoder,
        "pyramid_channels": 16,
        "segmentation_channels": 32,
        "aspp_channels": 16,
        "aspp_rates": (2, 4, 6),
    }
    return ModelConfig.model_validate(values | changes)


def made_with_smp(decoder: str, encoder: str = f"tu-{ENCODER}", **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    model, options = SMP[decoder]
    network: nn.Module = getattr(smp, model)(
        encoder, encoder_weights=None, classes=CLASSES, **(options | changes)
    )
    return network.eval()


def save(network: nn.Module, path: Path) -> Path:
    if path.suffix == ".pt":
        torch.save(network.state_dict(), path)
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(network.state_dict(), path)
    else:
        network.save_pretrained(path)  # type: ignore[operator]
    return path


def logits(network: Network, image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(
        network(image).logits_BChw, scale_factor=4.0, mode="bilinear", align_corners=True
    )


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "folder"])
@pytest.mark.parametrize("decoder", SMP)
@torch.no_grad()
def test_a_network_of_smp_goes_on_where_it_was(decoder: str, name: str, tmp_path: Path) -> None:
    theirs = made_with_smp(decoder)
    path = save(theirs, tmp_path / name)
    image = torch.randn(1, 3, 64, 64)
    ours = build_network(config(path, decoder), CLASSES).eval()
    torch.testing.assert_close(logits(ours, image), theirs(image), rtol=0, atol=1e-4)
    # Four channels: a fourth that is worth the mean of the others' weights.
    wide = build_network(config(path, decoder, input="rgbd"), CLASSES).eval()
    flat = torch.cat([image, torch.zeros(1, 1, 64, 64)], dim=1)
    torch.testing.assert_close(logits(wide, flat), theirs(image), rtol=0, atol=1e-4)
    stem = ours.encoder.model.get_parameter("conv_stem.weight")
    found = wide.encoder.model.get_parameter("conv_stem.weight")
    assert torch.equal(found[:, 3], stem.mean(dim=1))


@pytest.mark.parametrize(
    ("decoder", "changes", "fault"),
    [
        ("deeplabv3plus", {}, "_model_class is 'FPN', not 'DeepLabV3Plus' (model.decoder"),
        ("fpn", {"encoder": "resnet18"}, "'tu-test_efficientnet', not 'tu-resnet18' (model.enc"),
        ("fpn", {"pyramid_channels": 24}, "is 16, not 24 (model.pyramid_channels)"),
        ("fpn", {"segmentation_channels": 64}, "is 32, not 64 (model.segmentation_channels)"),
    ],
)
def test_a_folder_of_another_network_is_refused_with_every_difference(
    decoder: str, changes: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = save(made_with_smp("fpn"), tmp_path / "folder")
    with pytest.raises(ValueError, match="do not fit the network") as caught:
        check_source(config(path, decoder, **changes))
    assert fault in str(caught.value)


# None of these shows in the names or shapes of the weights.
@pytest.mark.parametrize(
    ("decoder", "option", "fault"),
    [
        ("deeplabv3plus", {"decoder_atrous_rates": (1, 2, 3)}, "[1, 2, 3], not [2, 4, 6]"),
        ("deeplabv3plus", {"encoder_output_stride": 8}, "encoder_output_stride is 8, not 16"),
        ("fpn", {"decoder_interpolation": "bilinear"}, "'bilinear', not 'nearest'"),
    ],
)
def test_a_folder_tells_what_its_weights_do_not(
    decoder: str, option: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = save(made_with_smp(decoder, **option), tmp_path / "folder")
    with pytest.raises(ValueError, match="do not fit the network") as caught:
        build_network(config(path, decoder), CLASSES)
    assert fault in str(caught.value)


def test_a_pretrained_tag_does_not_matter(tmp_path: Path) -> None:
    path = save(made_with_smp("fpn", f"tu-{ENCODER}.r160_in1k"), tmp_path / "folder")
    build_network(config(path), CLASSES)


def test_a_file_of_the_other_decoder_is_refused(tmp_path: Path) -> None:
    path = save(made_with_smp("deeplabv3plus"), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"decoder\.aspp\.0\.convs\..* has no place in it"):
        build_network(config(path), CLASSES)


def test_an_encoder_of_smps_own_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = save(made_with_smp("fpn", "resnet18"), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"encoder\.bn1\.bias.* of smp's own; .*'tu-'"):
        build_network(config(path, encoder="resnet18"), CLASSES)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_named(name: str, tmp_path: Path) -> None:
    path = save(made_with_smp("fpn"), tmp_path / "folder")
    (path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"folder lacks {name}; name a folder that smp's"):
        check_source(config(path))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_description_is_named(text: str, tmp_path: Path) -> None:
    path = save(made_with_smp("fpn"), tmp_path / "folder")
    (path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"config\.json (is not JSON|holds a list)"):
        check_source(config(path))


def test_an_option_that_an_older_smp_did_not_have_is_not_asked_for(tmp_path: Path) -> None:
    path = save(made_with_smp("fpn"), tmp_path / "folder")
    description = json.loads((path / "config.json").read_text(encoding="utf-8"))
    assert description.pop("decoder_interpolation") == "nearest"
    (path / "config.json").write_text(json.dumps(description), encoding="utf-8")
    check_source(config(path))
