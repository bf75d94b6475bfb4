"""A fold's weights, loaded for prediction: ours, or those of segmentation_models_pytorch."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from engine.config import Config
from engine.data.inputs import InputSpec, Normalisation
from engine.model.network import build_network
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.checkpoint import save_best
from engine.training.records import BestNote
from engine.views.predictor import load_fold, open_predictor

smp = pytest.importorskip(
    "segmentation_models_pytorch", reason="the oracle: pip install 'roomsmith[test]'"
)

CPU = torch.device("cpu")
TRAINED = Normalisation((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))


def made_with_smp(config: Config, pyramid_channels: int) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = smp.FPN(
        f"tu-{config.model.encoder}",
        encoder_weights=None,
        classes=len(config.data.classes),
        decoder_pyramid_channels=pyramid_channels,
        decoder_segmentation_channels=config.model.segmentation_channels,
    )
    return network.eval()


def put(network: nn.Module, run: RunDir) -> None:
    run.best(0).parent.mkdir()
    safetensors.torch.save_file(network.state_dict(), run.best(0))


@torch.no_grad()
def test_a_file_of_smp_in_the_place_of_ours_predicts_what_smp_does(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, theirs = RunDir(tmp_path), made_with_smp(tiny_config, tiny_config.model.pyramid_channels)
    put(theirs, run)
    fold = load_fold(tiny_config, run, 0, POLICY)
    image = torch.randn(1, 3, 64, 96)
    found = F.interpolate(
        fold.forward(image).logits_BChw, scale_factor=4.0, mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(found, theirs(image), rtol=0, atol=1e-4)
    assert "best.safetensors was not written by engine.train" in caplog.text


def test_a_file_of_ours_is_loaded_without_a_word(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = build_network(tiny_config.model, len(tiny_config.data.classes))
    save_best(RunDir(tmp_path).best(0), network.state_dict(), BestNote("hash", 0, 1, TRAINED))
    fold = load_fold(tiny_config, RunDir(tmp_path), 0, POLICY)
    assert caplog.text == ""
    assert (fold.fold, fold.spec) == (0, InputSpec(3, TRAINED))


@pytest.mark.parametrize("seen", ["rgb", "rgbd"])
def test_a_predictor_holds_the_folds_that_were_asked_for_and_reads_depth_if_they_see_it(
    tiny_config: Config, tmp_path: Path, seen: str
) -> None:
    run, model = RunDir(tmp_path), tiny_config.model.model_copy(update={"input": seen})
    config = tiny_config.model_copy(update={"model": model})
    for fold in range(3):
        network = build_network(model, len(config.data.classes))
        save_best(run.best(fold), network.state_dict(), BestNote("hash", fold, 1, TRAINED))
    predictor = open_predictor(config, run, [2, 0], POLICY)
    assert [network.fold for network in predictor.networks] == [2, 0]
    assert predictor.inference == config.inference
    assert predictor.data == config.data
    assert predictor.reader.batch_size == config.inference.batch_size
    assert predictor.reader.depth == (seen == "rgbd")


def test_weights_of_another_network_are_named_with_what_does_not_fit(
    tiny_config: Config, tmp_path: Path
) -> None:
    put(made_with_smp(tiny_config, 24), RunDir(tmp_path))
    with pytest.raises(RuntimeError, match=r"best\.safetensors does not .* is \(24, .*not \(8, "):
        load_fold(tiny_config, RunDir(tmp_path), 0, POLICY)


def test_a_fold_without_weights_is_named(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="best.safetensors is missing; train fold 0 first"):
        load_fold(tiny_config, RunDir(tmp_path), 0, POLICY)
