"""The rules of the configuration: what a value may be, and what the message says."""

from typing import Any

import pytest
from pydantic import ValidationError

from engine import nyuv2
from engine.config import Config


def message_of(**sections: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(sections)
    return str(caught.value)


def test_the_defaults_are_the_reports_values() -> None:
    config = Config()
    assert (config.data.input_hw, config.data.crop_hw) == ((720, 960), (576, 768))
    assert (config.training.lr, config.training.weight_decay) == (1e-4, 1e-4)
    assert (config.training.epochs, config.training.batch_size) == (50, 4)
    assert (config.training.ema_decay, config.training.depth_weight) == (0.999, 0.1)
    assert config.training.schedule == "cosine_epoch"
    assert config.inference.scales == (0.5, 0.75, 1.0, 1.25, 1.5)
    assert config.inference.temperatures == (0.7, 0.8, 0.9, 1.0)
    assert config.inference.flip
    assert (config.data.folds, config.data.fold_seed) == (5, 42)
    assert config.data.classes == nyuv2.CLASSES
    assert config.data.small_classes == ("books", "chair", "objects", "picture", "tv")


def test_every_field_says_what_it_is() -> None:
    for section in Config.model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            if name != "scales":  # its default says it
                assert field.description, f"{name} has no description"


def test_a_config_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


def test_four_channels_are_rgb_and_depth() -> None:
    assert Config.model_validate({"model": {"input": "rgb"}}).model.in_channels == 3
    assert Config.model_validate({"model": {"input": "rgbd"}}).model.in_channels == 4


@pytest.mark.parametrize(
    ("model", "typed"),
    [
        ({"input": "rgb"}, "type model.depth_start=1, or model.input=rgbd"),
        ({"input": "rgbd", "weights": "none"}, "type model.depth_start=1, or name weights"),
        ({"input": "rgbd", "weights": "run:runs/one"}, "type model.depth_start=1"),
    ],
)
def test_a_start_that_no_channel_has_is_refused(model: dict[str, Any], typed: str) -> None:
    assert typed in message_of(model={"depth_start": 0.5, **model})
    values = {"model": {"depth_start": 0.5}, "training": {"members": 2, "member_inputs": ["rgbd"]}}
    assert Config.model_validate(values).inputs == ("rgb", "rgbd")


@pytest.mark.parametrize("crop", [(608, 768), (576, 992), (736, 992)])
def test_a_crop_larger_than_the_input_is_refused(crop: tuple[int, int]) -> None:
    message = message_of(data={"input_hw": (600, 960), "crop_hw": crop})
    assert f"data.crop_hw {crop} is larger than data.input_hw (600, 960)" in message


@pytest.mark.parametrize(
    ("section", "values", "part"),
    [
        ("data", {"crop_hw": (100, 128)}, "data.crop_hw must be multiples of 32"),
        ("data", {"input_hw": (16, 960)}, "data.input_hw must be at least 32 x 32"),
        ("data", {"classes": ("bed", "bed")}, "must differ from one another"),
        ("data", {"classes": ("bed",)}, "at least 2 items"),
        ("data", {"classes": tuple(map(str, range(256)))}, "at most 255, got 256"),
        ("data", {"small_classes": ("chiar",)}, "did you mean 'chair'?"),
        ("data", {"small_classes": ("zzz",)}, "known: bed, books"),
        ("data", {"folds": 1}, "greater than or equal to 2"),
        ("data", {"flip_p": 1.5}, "less than or equal to 1"),
        ("data", {"fold_kind": "block"}, "'random', 'blocked', 'scene' or 'content'"),
        ("model", {"decoder": "unet"}, "use fpn or deeplabv3plus, or one of your own"),
        ("model", {"weights": ""}, "at least 1 character"),
        ("model", {"aspp_rates": (12, 24)}, "Field required"),
        ("model", {"aspp_rates": (0, 6, 12)}, "model.aspp_rates must be at least 1"),
        ("training", {"lr": 0}, "greater than 0"),
        ("training", {"lr": float("nan")}, "finite number"),
        ("training", {"lr": float("inf")}, "finite number"),
        ("training", {"epochs": 2.5}, "valid integer"),
        ("training", {"epochs": -1}, "greater than or equal to 0"),
        ("training", {"epochs": 0}, "model.weights = 'timm' has no trained decoder; name a file"),
        ("training", {"accumulate": 3}, "batch_size 4 must be a multiple of training.accumulate 3"),
        ("training", {"class_weights": {"tabel": 2.0}}, "did you mean 'table'?"),
        ("training", {"class_weights": {"table": 0.0}}, "table must be positive, got 0.0"),
        ("training", {"class_weights": {"table": float("nan")}}, "finite number"),
        ("inference", {"scales": ()}, "at least 1 item"),
        ("inference", {"scales": (1.0, -1.0)}, "must be positive"),
        ("inference", {"scales": (1.0, 1.0)}, "inference.scales repeat"),
        ("inference", {"temperatures": (0.7, 0.7)}, "inference.temperatures repeat"),
        ("inference", {"temperatures": (0.0,)}, "must be positive"),
        ("inference", {"base_hw": (48, 64), "scales": (0.5,)}, "scale 0.5 is under 32 pixels"),
        ("selection", {"temperature": 0.75}, "is not among inference.temperatures"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_was_needed(
    section: str, values: dict[str, Any], part: str
) -> None:
    assert part in message_of(**{section: values})


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (4, 4)])
def test_batch_norms_over_one_sample_are_refused(batch_size: int, accumulate: int) -> None:
    training = {"batch_size": batch_size, "accumulate": accumulate}
    message = message_of(model={"decoder": "deeplabv3plus"}, training=training)
    assert "at least 2 samples must pass the network together" in message
    assert Config.model_validate({"training": training}).training.batch_size == batch_size


def test_a_fold_has_weights_of_its_own() -> None:
    model = Config.model_validate({"model": {"weights": "runs/a/fold{fold}/b.pt"}}).model
    assert model.of_fold(3).weights == "runs/a/fold3/b.pt"
    assert model.of_fold(3).encoder == model.encoder


def test_small_classes_follow_the_classes() -> None:
    def small(**data: Any) -> tuple[str, ...]:
        return Config.model_validate({"data": data}).data.small_classes

    # As every config had them that was valid when the default stood for all classes.
    assert small() == small(classes=(*nyuv2.CLASSES[::-1], "more")) == nyuv2.SMALL_CLASSES
    assert small(classes=("road", "sky")) == small(classes=nyuv2.CLASSES[:9]) == ()
    # A mistake in the classes is told as that one alone.
    assert message_of(data={"classes": 3}).startswith("1 validation error")
