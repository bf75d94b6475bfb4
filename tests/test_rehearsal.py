"""What is refused before a run leaves anything: batches of one, views beyond memory, weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine import predict, rehearsal, train
from engine.cli import to_toml
from engine.config import Config
from engine.frames.decode import Sample
from engine.mistakes import ConfigError
from engine.model.network import Network
from engine.rehearsal import check_training, check_views
from engine.rundir import RunDir
from engine.runtime.memory import pass_bytes

FinishedRun = Any  # defined in conftest.py, which cannot be imported

CPU = torch.device("cpu")
GIB = 1 << 30
FRAMES = (
    Sample("small", Path("small.png"), None, None, (48, 64), None),
    Sample("large", Path("large.png"), None, None, (480, 640), None),
)


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    given = {name: getattr(config, name).model_copy(update=f) for name, f in sections.items()}
    return config.model_copy(update=given)


@pytest.mark.parametrize(
    ("decoder", "crop_hw", "accumulate", "frames", "instead"),
    [
        ("deeplabv3plus", (64, 64), 1, 1, "set model.decoder to 'fpn'"),
        ("fpn", (32, 32), 1, 1, "make data.crop_hw larger than 32 x 32"),
        ("fpn", (32, 32), 4, 5, "make data.crop_hw larger than 32 x 32"),  # parts of 2, 2 and 1
    ],
)
def test_a_batch_norm_over_one_value_is_refused_in_our_words(
    decoder: str,
    crop_hw: tuple[int, int],
    accumulate: int,
    frames: int,
    instead: str,
    tiny_config: Config,
) -> None:
    config = changed(
        tiny_config,
        data={"crop_hw": crop_hw},
        model={"decoder": decoder},
        training={"batch_size": 8, "accumulate": accumulate},
    )
    with pytest.raises(ConfigError, match=f"fold 1 trains on {frames} frames.*{instead}"):
        check_training(config, {1: frames})
    check_training(config, {1: 8})


def test_deeplab_takes_what_a_fold_of_few_frames_leaves_over(
    tiny_config: Config, tiny_toml: Path, tmp_path: Path
) -> None:
    # Six training frames in parts of five, of which one would be left alone.
    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path), "--folds", "0"]
    few = ["--training.batch_size", "10", "--training.accumulate", "2", "--training.epochs", "1"]
    deeplab = ["--model.decoder", "deeplabv3plus", "--model.aspp_channels", "8"]
    five = ["--data.folds", "4", "--data.blocks_per_fold", "1"]  # nine training frames: 5 and 4
    assert train.main([*arguments, *few, *deeplab, *five]) == 0


def test_a_view_beyond_memory_is_refused_with_its_scale_frame_and_need(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "total_bytes", lambda _: GIB)
    config = changed(tiny_config, inference={"scales": (1.0, 9.0, 1e300), "base_hw": "own"})
    with pytest.raises(ConfigError) as caught:
        check_views(config, FRAMES, CPU)
    first, *lines = str(caught.value).splitlines()
    assert first == "cpu has 1 GiB, which holds no such view; lower inference.scales:"
    assert len(lines) == 2
    assert lines[0].startswith(
        "  scale 9: a view of 4320 x 5760 pixels, of large.png with 480 x 640"
    )
    assert "scale 1e+300" in lines[1]
    check_views(changed(config, inference={"scales": (0.5,), "base_hw": "own"}), FRAMES, CPU)
    # Validation's own view has no scale to lower.
    huge = changed(config, inference={"scales": (0.001,), "base_hw": (50_000, 50_000)})
    with pytest.raises(ConfigError, match=r"lower inference.base_hw:\n(.*\n)?  scale 1: "):
        check_views(huge, FRAMES[:1], CPU)


def test_no_view_that_memory_holds_is_refused(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(rehearsal, "total_bytes", lambda _: counted[0])
    config = changed(tiny_config, inference={"scales": (1.0,), "base_hw": (128, 128)})
    totals = 4 * len(config.data.classes) * len(config.inference.temperatures) * 128 * 128
    with torch.device("meta"):
        network = Network(config.model, len(config.data.classes))
    counted = [pass_bytes(network, 3) + totals]
    check_views(config, FRAMES, CPU)
    counted = [counted[0] - 1]
    with pytest.raises(ConfigError):
        check_views(config, FRAMES, CPU)


@pytest.mark.parametrize("scale", ["1000", "1e308"])
def test_a_scale_of_a_thousand_is_refused_before_anything_is_written(
    scale: str, tiny_toml: Path, finished_run: FinishedRun, tmp_path: Path
) -> None:
    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match=r"lower inference\.scales:\n  scale 1"):
        train.main([*arguments, "--inference.scales", f"[1, {scale}]"])
    assert not (tmp_path / "run").exists()


def test_wrong_weights_of_any_fold_leave_nothing_and_the_corrected_call_runs(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path
) -> None:
    state = load_file(finished_run.dir.best(0))
    save_file(state, tmp_path / "0.safetensors")
    name = "segmentation_head.0.bias"
    save_file({**state, name: state[name][:-1].clone()}, tmp_path / "1.safetensors")
    out = tmp_path / "run"
    given = ["--config", str(tiny_toml), "--out", str(out), "--training.epochs", "1"]
    with pytest.raises(ValueError, match=rf"{name} is \(12,\), not \(13,\)"):
        train.main([*given, "--model.weights", str(tmp_path / "{fold}.safetensors")])
    assert not out.exists()
    assert train.main([*given, "--model.weights", str(tmp_path / "0.safetensors")]) == 0
    assert RunDir(out).summary.exists()


def test_an_encoder_that_cannot_be_made_leaves_nothing(tiny_toml: Path, tmp_path: Path) -> None:
    given = ["--config", str(tiny_toml), "--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="resnet18' has no stochastic depth|drop_path"):
        train.main([*given, "--model.encoder", "vgg11", "--model.drop_path", "0.1"])
    assert not (tmp_path / "run").exists()


def test_frames_of_one_pixel_are_trained_on_and_predicted(
    tiny_config: Config, tmp_path: Path
) -> None:
    for number in range(4):
        for split, kind in (("train", "image"), ("train", "label"), ("test", "image")):
            shape = (1, 1, 3) if kind == "image" else (1, 1)
            path = tmp_path / "data" / split / kind / f"f{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, number, np.uint8)).save(path)
    own = changed(tiny_config, inference={"base_hw": "own"}, training={"epochs": 1})
    (tmp_path / "own.toml").write_text(to_toml(own), encoding="utf-8")
    run, images = tmp_path / "run", tmp_path / "data" / "test" / "image"
    given = ["--config", str(tmp_path / "own.toml"), "--data.root", str(tmp_path / "data")]
    assert train.main([*given, "--out", str(run)]) == 0
    assert np.load(RunDir(run).submission).shape == (4, 1, 1)
    assert predict.main([str(run), str(images)]) == 0
