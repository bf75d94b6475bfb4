"""A run that starts from another one: what it keeps, what is told, what is noticed."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine import train
from engine.cli import load_config, to_toml
from engine.config import Config, ModelConfig
from engine.damage import DamageError
from engine.data.inputs import read_normalisation
from engine.experiment import open_experiment
from engine.mistakes import ConfigError
from engine.model.from_run import load_from_run
from engine.model.network import Network, build_network
from engine.origin import Origin
from engine.rundir import RunDir
from engine.training.checkpoint import save_best
from engine.training.records import BestNote
from tests.conftest import TINY, FinishedRun

FIVE = ("bed", "lamp", "floor", "rug", "wall")
"""Three that the tiny run knows, among two that it does not."""


@pytest.fixture(scope="module")
def source(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The tiny run once more, to be moved, damaged and deleted."""
    root = tmp_path_factory.mktemp("source") / "run"
    shutil.copytree(finished_run.dir.root, root)
    return RunDir(root)


@pytest.fixture
def five(source: RunDir, tiny_root: Path, tmp_path: Path) -> Callable[..., Config]:
    """`five(section={...})`: of five classes, on the same frames, from the source's weights."""
    labels = {str(value): "ignore" for value in range(13)}
    classes = list(Config().data.classes)
    labels |= {str(classes.index(name)): name for name in FIVE if name in classes}
    labels |= {"7": "lamp", "8": "rug"}

    def make(**changes: dict[str, Any]) -> Config:
        fields: dict[str, Any] = {name: dict(values) for name, values in TINY.items()}
        fields["data"] |= {"root": str(tiny_root), "classes": list(FIVE), "label_map": labels}
        fields["model"]["weights"] = f"run:{source.root}"
        for name, values in changes.items():
            fields.setdefault(name, {}).update(values)
        return load_config([], fields)

    return make


def ignore_all_but(word: str) -> Callable[[str, list[str]], list[str]]:
    return lambda _, names: [name for name in names if word not in name]


def trained(config: Config, out: Path, *more: str) -> None:
    file = out.parent / f"{out.name}.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    train.main(["--config", str(file), "--out", str(out), *more])


def loaded(source: RunDir, classes: tuple[str, ...] = FIVE, **model: Any) -> tuple[Network, str]:
    fields = {**TINY["model"], "weights": f"run:{source.root}#1", **model}
    config = ModelConfig.model_validate(fields)
    torch.manual_seed(7)
    network = Network(config, len(classes))
    return network, load_from_run(network, config, classes).told


def test_classes_of_the_same_name_keep_their_rows_and_the_rest_is_new(source: RunDir) -> None:
    network, told = loaded(source)
    theirs, ours = load_file(source.best(1)), network.state_dict()
    classes = list(Config().data.classes)
    torch.manual_seed(7)
    fresh = Network(ModelConfig.model_validate(TINY["model"]), len(FIVE)).state_dict()
    for kind in ("weight", "bias"):
        name = f"segmentation_head.0.{kind}"
        for row, cls in enumerate(FIVE):
            there = theirs[name][classes.index(cls)] if cls in classes else fresh[name][row]
            assert torch.equal(ours[name][row], there), (cls, kind)
    for name, tensor in theirs.items():
        if not name.startswith("segmentation_head."):
            assert torch.equal(ours[name], tensor), name
    assert told == (
        f"fold 1 of {source.root}: its encoder, its decoder, 3 of 5 classes by name (bed, floor, "
        "wall); new, at random: 2 classes (lamp, rug)"
    )


def test_depth_that_is_seen_for_the_first_time_changes_nothing_yet(source: RunDir) -> None:
    rgb, _ = loaded(source)
    rgbd, told = loaded(source, input="rgbd")
    assert "its encoder (1 of 4 channels new, at zero)" in told
    image = torch.rand(1, 4, 64, 64)
    with torch.inference_mode():
        seen, plain = (n.eval()(image[:, :c])[1] for n, c in ((rgbd, 4), (rgb, 3)))
    torch.testing.assert_close(seen, plain)


def test_of_a_network_that_saw_depth_one_that_does_not_keeps_the_rest(
    source: RunDir, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "deep")
    shutil.copytree(source.root, run.root)
    text = run.config.read_text(encoding="utf-8").replace('input = "rgb"', 'input = "rgbd"')
    run.config.write_text(text, encoding="utf-8")
    (run.root / ".config.toml.sum").unlink()
    torch.manual_seed(3)
    deep = Network(ModelConfig.model_validate({**TINY["model"], "input": "rgbd"}), 13)
    normalisation = read_normalisation(source.best(1))
    assert normalisation is not None
    save_best(run.best(1), deep.state_dict(), BestNote("hash", 1, 1, normalisation))
    network, told = loaded(run)
    assert "its encoder (without 1 of its 4 channels)" in told
    stem = "encoder.model.conv_stem.weight"
    assert torch.equal(network.state_dict()[stem], deep.state_dict()[stem][:, :3])


def test_another_decoder_starts_anew_and_another_encoder_is_refused(source: RunDir) -> None:
    network, told = loaded(source, decoder="deeplabv3plus", aspp_channels=16)
    assert network.decoder.output_stride == 16
    assert "its encoder; new, at random: the decoder (fpn there, deeplabv3plus here) and" in told
    _, told = loaded(source, pyramid_channels=16)
    assert "its encoder; new, at random: the decoder (widths) and the heads of all 5" in told
    with pytest.raises(ConfigError, match=r"has the encoder test_efficientnet, .* type model.enc"):
        loaded(source, encoder="resnet18")


def test_what_cannot_be_started_from_is_one_line(
    source: RunDir, tmp_path: Path, five: Callable[..., Config]
) -> None:
    for weights, told in {
        f"run:{tmp_path}/none": "there is no such folder; name the folder of a run",
        f"run:{tmp_path}": "it has no config.toml; name the folder of a run",
        f"run:{source.root}#2": "there are folds 0 to 1, and no 2",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(told)):
            trained(five(model={"weights": weights}), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"training.epochs = 0 takes the starting weights"):
        trained(five(training={"epochs": 0}), tmp_path / "out")
    assert not (tmp_path / "out" / "fold0").exists()


def test_what_an_export_keeps_of_a_run_comes_back_with_the_same_bytes(
    source: RunDir, tiny_toml: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, out = RunDir(tmp_path / "kept"), RunDir(tmp_path / "out")
    for fold in range(2):
        shutil.copytree(source.fold(fold), kept.fold(fold), ignore=ignore_all_but("best"))
    shutil.copy(source.config, kept.config)
    weights = ["--model.weights", f"run:{kept.root}", "--training.epochs", "0"]
    with caplog.at_level(logging.INFO, logger="engine"):
        words = ["--config", str(tiny_toml), "--out", str(out.root), "--until", "trained"]
        train.main([*words, *weights])
    for fold in range(2):
        theirs, ours = load_file(source.best(fold)), load_file(out.best(fold))
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            assert tensor.numpy().tobytes() == ours[name].numpy().tobytes(), name
    assert "its decoder, 13 of 13 classes by name (bed, books, ceiling and 10 more); nothing" in (
        caplog.text
    )
    assert "was trained on some of these frames is not known: it has no folds.json" in caplog.text


def test_frames_that_the_source_was_trained_on_are_counted_by_their_content(
    five: Callable[..., Config], source: RunDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="engine"):
        run = open_experiment(five(), RunDir(tmp_path / "run"))
    assert run.origin is not None
    assert run.origin.seen is not None
    # Fold K from fold K, of the same cut of the same frames: each is held out of both.
    assert (run.origin.seen.validated, run.origin.seen.test) == (0, 0)
    told = f"starting from {source.root}: fold 0 from its fold 0, fold 1 from its fold 1"
    assert told in caplog.text
    assert "trained on them" not in caplog.text
    caplog.clear()
    weights = {"weights": f"run:{source.root}#0"}
    with caplog.at_level(logging.INFO, logger="engine"):
        run = open_experiment(five(model=weights), RunDir(tmp_path / "run"))
    assert run.origin is not None
    assert run.origin.seen is not None
    # Fold 1 validates the six frames that the source's fold 0 was trained on.
    assert (run.origin.seen.validated, run.origin.seen.test) == (6, 0)
    assert "every fold from its fold 0" in caplog.text
    assert "6 of 12 training frames are validated by a fold whose starting" in caplog.text


def test_a_fold_that_has_begun_needs_its_source_no_more(
    five: Callable[..., Config],
    source: RunDir,
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
) -> None:
    here = RunDir(tmp_path / "source")
    shutil.copytree(source.root, here.root)
    config = five(model={"weights": f"run:{here.root}"})
    whole, out = tmp_path / "whole", RunDir(tmp_path / "stopped")
    trained(config, whole, "--until", "trained")
    trained(config, out.root, "--stop-after", "1")
    here.root.rename(tmp_path / "moved")
    train.main(["--out", str(out.root), "--resume", "--until", "trained"])
    one, other = read_run(whole), read_run(out.root)
    for name in ("fold0/best.safetensors", "fold1/best.safetensors", "fold1/last.pt"):
        assert one[name] == other[name], name
    # The same weights in another place are the same experiment, others are not.
    moved = five(model={"weights": f"run:{tmp_path / 'moved'}"})
    trained(moved, out.root, "--until", "trained")
    torch.manual_seed(0)
    network = build_network(ModelConfig.model_validate(TINY["model"]), 13)
    normalisation = read_normalisation(source.best(0))
    assert normalisation is not None
    note = BestNote("hash", 0, 1, normalisation)
    save_best(RunDir(tmp_path / "moved").best(0), network.state_dict(), note)
    with pytest.raises(ConfigError, match="model.weights: run:"):
        trained(five(model={"weights": f"run:{tmp_path / 'moved'}#0"}), out.root)


def test_a_source_that_is_damaged_or_another_by_now_is_noticed(
    five: Callable[..., Config], source: RunDir, tmp_path: Path
) -> None:
    here = RunDir(tmp_path / "source")
    shutil.copytree(source.root, here.root)
    config, out = five(model={"weights": f"run:{here.root}"}), RunDir(tmp_path / "out")
    trained(config, out.root, "--folds", "0", "--until", "trained")
    origin = Origin.read(out.origin)
    assert [fold.fold for fold in origin.folds] == [0, 1]
    content = bytearray(here.best(1).read_bytes())
    content[-5] ^= 1
    here.best(1).write_bytes(content)
    with pytest.raises(DamageError, match=re.escape(str(here.best(1)))):
        trained(config, out.root)
    shutil.copy(source.best(0), here.best(1))
    shutil.copy(source.fold(0) / ".best.safetensors.sum", here.fold(1))
    with pytest.raises(ConfigError, match="has changed since .* was begun with it; restore it"):
        trained(config, out.root)
