"""prepare new: what is decided follows from the data, says why, and trains as it is."""

import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import prepare, train
from engine.cli import load_config
from engine.config import Config
from engine.mistakes import ConfigError
from engine.plan import choices, planned
from engine.plan.choices import (
    Machine,
    batch_size,
    data_choices,
    least_epochs,
    shapes,
    training_choices,
    with_zoom,
)
from engine.plan.fingerprint import Fingerprint, Labels, look_at_labels
from engine.plan.written import sections_of, to_text
from engine.rundir import RunDir
from engine.training import pace

FOUND = Fingerprint(
    root=Path("data"),
    labels=Labels({"classes": ["wall", "cup"]}, "by dataset.toml"),
    classes=("wall", "cup"),
    frames=100,
    tests=0,
    hw=(480, 640),
    sizes=1,
    share_C=(0.99, 0.01),
    frames_C=(100, 30),
    depth="",
    depth_scale=0.001,
    folds={"fold_kind": "scene", "folds": 5},
    folds_reason="20 scenes",
)


def rooms(folder: Path) -> Path:
    arguments = ["rooms", str(folder), "--scenes", "7", "--frames", "2", "--hw", "64", "96"]
    assert prepare.main(arguments) == 0
    return folder


def labelled(folder: Path, *labels: NDArray[np.uint8]) -> Path:
    for number, label in enumerate(labels):
        for kind, pixels in (("image", np.zeros((*label.shape, 3), np.uint8)), ("label", label)):
            path = folder / "train" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def test_inputs_ascend_and_fit_crops() -> None:
    for hw in ((480, 640), (120, 160), (33, 50), (1080, 1920)):
        made = shapes(replace(FOUND, hw=hw), 8)
        assert [one.pixels for one in made] == sorted(one.pixels for one in made)
        for one in made:
            fields = {"input_hw": one.input_hw, "crop_hw": one.crop_hw}
            Config.model_validate({"data": fields})
            assert one.zoom <= 1 or max(one.input_hw) <= max(choices.LONGEST, 2 * max(hw))


def test_the_input_is_the_largest_that_leaves_enough_epochs() -> None:
    made = shapes(FOUND, 8)
    at = made[1]
    for steps, epochs in ((200, 3), (20, 3), (15, 4), (7, 9)):
        assert least_epochs(steps) == epochs
        for budget_s in (1.0, 100.0, 1000.0, 1e6):
            chosen = with_zoom(made, 10 / steps, steps, at, budget_s)
            taken_s = [10.0 * one.pixels / at.pixels * epochs for one in made]
            fits = [one for one, s in zip(made, taken_s, strict=True) if s <= budget_s + 1e-6]
            assert chosen == (fits[-1] if fits else made[0])
        assert with_zoom(made, 10 / steps, steps, at, 1e6).zoom == 1


def test_few_frames_make_small_batches_and_rare_classes_are_named() -> None:
    assert batch_size(FOUND) == 8
    assert batch_size(replace(FOUND, frames=8, folds={"folds": 2})) == 2
    data = sections_of(data_choices(FOUND, shapes(FOUND, 8)[0]))["data"]
    assert data["small_classes"] == ["cup"]
    weights = sections_of(training_choices(FOUND, shapes(FOUND, 8)[0], 3, ""))["training"]
    assert weights["class_weights"] == {"cup": 1.73}
    even = replace(FOUND, share_C=(0.5, 0.5))
    assert sections_of(data_choices(even, shapes(FOUND, 8)[0]))["data"]["small_classes"] == []


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ([0, 1, 2, 255], {"classes": ["class0", "class1", "class2"]}),
        ([0, 255], {"classes": ["class0", "class1"], "label_map": {"0": 0, "255": 1}}),
        ([0, 80, 200], {"label_map": {"0": 0, "80": 1, "200": 2, "255": "ignore"}}),
    ],
)
def test_classes_are_read_off_the_labels(
    tmp_path: Path, values: list[int], needed: dict[str, object]
) -> None:
    label = np.resize(np.array(values, np.uint8), (32, 32))
    labels = look_at_labels(labelled(tmp_path, label, label))
    assert needed.items() <= labels.data.items()
    Config.model_validate({"data": {**labels.data}})
    # What came with the folder is believed before that, and what is typed before all.
    text = '[data]\nclasses = ["a", "b", "c"]\nignore = [200]\n'
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    assert look_at_labels(tmp_path).data == {"classes": ["a", "b", "c"], "ignore": [200]}
    assert look_at_labels(tmp_path, ["x", "y", "z"]).data["classes"] == ["x", "y", "z"]


def test_the_text_is_what_it_says_and_carries_every_reason() -> None:
    made = data_choices(FOUND, shapes(FOUND, 8)[0])
    text = to_text(["Planned.", ""], made)
    assert tomllib.loads(text) == sections_of(made)
    for choice in made:
        assert choice.reason in text
    assert text.startswith("# Planned.\n#\n")


def test_a_plan_trains_as_it_is_and_says_why_of_every_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The smallest network, so that a second holds an epoch.
    small = Machine("cpu", 1 << 33, "test_efficientnet", "none")
    monkeypatch.setattr(planned, "_machine", lambda config: small)
    monkeypatch.setattr(pace, "STEPS", 3)
    root, out = rooms(tmp_path / "rooms"), tmp_path / "plan.toml"
    planning = ["new", str(root), "--time", "4s", "--device", "cpu", "--out", str(out)]
    assert prepare.main(planning) == 0
    shown = capsys.readouterr().out
    assert "data.fold_kind = scene: scenes.csv names 6 scenes: none is on both sides" in shown
    assert "model.input = rgbd: every frame has depth" in shown
    config = load_config([out])
    assert config.data.root == str(root)
    assert 1 <= config.training.epochs <= choices.MOST_EPOCHS
    lines = out.read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        for key in ("input_hw", "epochs", "batch_size", "scales", "input", "encoder"):
            if line.startswith(f"{key} ="):
                assert " # " in line or before.startswith("# "), line
    run = RunDir(tmp_path / "run")
    words = [str(out), "--training.epochs", "1", "--out", str(run.root), "--folds", "0"]
    assert train.main(words) == 0
    assert run.best(0).is_file()
    with pytest.raises(ConfigError, match=r"plan.toml exists; name another file: --out FILE.toml"):
        prepare.main(planning)


def test_a_time_is_asked_for_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a time is needed: 90s, 30m or 2h"):
        prepare.main(["new", str(tmp_path), "--time", "soon"])
