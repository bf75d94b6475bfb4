import pytest
import torch

from engine.model.encoder import STRIDES, Encoder


# One of each kind: features from stride 4, from stride 2, from stride 1, returned as NHWC, and a
# transformer that has to be told that any size may come.
@pytest.mark.parametrize(
    "name",
    ["test_convnext", "resnet18", "vgg11", "test_mambaout", "swin_s3_tiny_224", "pvt_v2_b0"],
)
def test_features_have_the_four_strides_and_the_stated_widths(name: str) -> None:
    encoder = Encoder(name, 4).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 4, 64, 96).contiguous(memory_format=torch.channels_last))
    assert [tuple(feature.shape) for feature in features] == [
        (1, width, 64 // stride, 96 // stride)
        for width, stride in zip(encoder.channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", ["test_convnext", "tf_efficientnet_lite0", "resnet18"])
def test_a_dilated_encoder_keeps_stride_16_and_its_weights(name: str) -> None:
    plain, dilated = Encoder(name, 3).eval(), Encoder(name, 3, output_stride=16).eval()
    dilated.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wide, fine = plain(image), dilated(image)
    assert [tuple(feature.shape[2:]) for feature in fine] == [(16, 24), (8, 12), (4, 6), (4, 6)]
    # The stages before are the same; the last one looks at the same cells, and at those between.
    for ours, theirs in zip(fine[:3], wide[:3], strict=True):
        torch.testing.assert_close(ours, theirs)


# An argument it does not know, an assertion on its value.
@pytest.mark.parametrize("name", ["swin_s3_tiny_224", "test_mambaout", "vgg11"])
def test_an_encoder_that_cannot_be_dilated_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be dilated to stride 16 .*'fpn'"):
        Encoder(name, 3, output_stride=16)


def test_parameters_are_named_as_in_smp() -> None:
    assert all(name.startswith("model.") for name in Encoder("test_convnext", 3).state_dict())


def test_relu6_is_not_in_place() -> None:
    encoder = Encoder("tf_efficientnet_lite0", 3)
    relus = [part for part in encoder.modules() if isinstance(part, torch.nn.ReLU6)]
    assert relus
    assert not any(relu.inplace for relu in relus)


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"'convnext_bose' is not a timm model; .*convnext_base"):
        Encoder("convnext_bose", 3)


def test_an_unknown_tag_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown tag; timm has .*resnet18\.a1_in1k"):
        Encoder("resnet18.none_such", 3)


def test_a_known_tag_is_taken() -> None:
    assert Encoder("resnet18.a1_in1k", 3).channels == (64, 128, 256, 512)


def test_an_encoder_without_a_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'test_vit' has features at strides \[16\] and none at"):
        Encoder("test_vit", 3)


def test_an_encoder_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="'visformer_tiny' cannot return features"):
        Encoder("visformer_tiny", 3)


def test_drop_path_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="'vgg11' has no stochastic depth; set model.drop_path"):
        Encoder("vgg11", 3, drop_path=0.1)
