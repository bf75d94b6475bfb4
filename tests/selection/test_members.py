"""Runs that do not belong together are refused, each with one message that says why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.cli import load_config, to_toml
from engine.config import Config
from engine.frames.index import DatasetSpec, load_dataset
from engine.rundir import RunDir
from engine.selection.members import (
    Told,
    _check_alike,
    check_dataset,
    check_members,
    open_members,
    open_pixels,
)

FinishedRun = Any  # defined in conftest.py, which cannot be imported
MakeRun = Callable[..., RunDir]


@pytest.fixture(scope="module")
def whole(untrained_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Nobody may change it."""
    return untrained_run(tmp_path_factory.mktemp("members") / "whole", 0)


@pytest.fixture
def copied(whole: RunDir, tmp_path: Path) -> RunDir:
    # Without checksums, as an earlier release left it: what does not fit is found all the same.
    shutil.copytree(whole.root, tmp_path / "copied", ignore=shutil.ignore_patterns(".*.sum"))
    return RunDir(tmp_path / "copied")


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    fields = config.model_dump(mode="json")
    for section, values in sections.items():
        fields[section].update(values)
    return Config.model_validate(fields)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(*runs: RunDir) -> str:
    """The one message, which names the run or runs that it is about."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_members([run.root for run in runs])
    message = str(caught.value)
    assert str(runs[-1].root) in message
    assert "\n" not in message
    return message


def test_what_training_leaves_is_opened(finished_run: FinishedRun, whole: RunDir) -> None:
    first, second = open_members([finished_run.dir.root, whole.root])
    assert first.prob_NChw.shape == (12, 13, 24, 32)
    assert first.manifest.folds == second.manifest.folds
    assert first.manifest.temperature == finished_run.summary["oof"]["temperature"]
    assert first.manifest.key != second.manifest.key


def test_members_give_the_pixels_of_their_frames(whole: RunDir, tiny_config: Config) -> None:
    data = tiny_config.data
    members = open_members([whole.root, whole.root])
    dataset = load_dataset(Path(data.root), DatasetSpec(data.classes, data.small_classes))
    check_dataset(members, dataset)
    pixels = open_pixels(members, dataset)
    assert (pixels.models, pixels.classes, pixels.folds, len(pixels.frames)) == (2, 13, 2, 12)
    assert pixels.fold_of_N.tolist() == list(members[0].manifest.folds)
    with Image.open(dataset.train.samples[3].label or "") as image:
        assert np.array_equal(pixels.read_label(3), np.array(image))


def test_one_run_is_no_blend(whole: RunDir) -> None:
    with pytest.raises(ValueError, match="needs two runs or more, got 1"):
        open_members([whole.root])


def test_a_folder_that_is_no_run_is_refused(whole: RunDir, tmp_path: Path) -> None:
    assert "is not a run folder: it has no config.toml" in refused(whole, RunDir(tmp_path))


@pytest.mark.parametrize("name", ["temperature.json", "folds.json", "oof/manifest.json"])
def test_an_unfinished_run_is_refused(whole: RunDir, copied: RunDir, name: str) -> None:
    (copied.root / name).unlink()
    assert f"is not finished: it has no {Path(name).name}; complete it" in refused(whole, copied)


def test_a_store_without_its_probabilities_is_refused(whole: RunDir, copied: RunDir) -> None:
    (copied.oof / "prob.npy").unlink()
    assert "holds no finished store" in refused(whole, copied)


@pytest.mark.parametrize("left", [60, 100_000])
def test_a_truncated_store_is_refused(whole: RunDir, copied: RunDir, left: int) -> None:
    path = copied.oof / "prob.npy"
    path.write_bytes(path.read_bytes()[:left])
    assert "prob.npy is damaged" in refused(whole, copied)


def test_a_store_of_a_changed_config_is_refused(
    whole: RunDir, copied: RunDir, tiny_config: Config
) -> None:
    config = changed(tiny_config, inference={"flip": False})
    copied.config.write_text(to_toml(config), encoding="utf-8")
    assert "was made from other weights, data or settings" in refused(whole, copied)


def test_a_store_of_other_weights_is_refused(whole: RunDir, copied: RunDir) -> None:
    shutil.copy(copied.best(0), copied.best(1))
    assert "was made from other weights, data or settings" in refused(whole, copied)


def test_a_field_that_changes_no_result_may_change(
    whole: RunDir, copied: RunDir, tiny_config: Config
) -> None:
    config = changed(tiny_config, runtime={"workers": 3, "device": "cpu"})
    copied.config.write_text(to_toml(config), encoding="utf-8")
    assert len(open_members([whole.root, copied.root])) == 2


def test_a_store_that_lacks_a_frame_is_refused(whole: RunDir, copied: RunDir) -> None:
    def drop(manifest: dict[str, Any]) -> None:
        del manifest["stems"][4], manifest["folds"][4]

    edit(copied.oof / "manifest.json", drop)
    assert "the store and folds.json list other frames (004)" in refused(whole, copied)


def test_a_store_of_other_folds_than_its_run_is_refused(whole: RunDir, copied: RunDir) -> None:
    edit(copied.oof / "manifest.json", lambda manifest: manifest["folds"].reverse())
    assert "was made with other folds than folds.json lists" in refused(whole, copied)


def test_runs_that_take_other_depths_for_missing_are_refused(whole: RunDir) -> None:
    told, _ = check_members([whole.root, whole.root])

    def taking(sees: str, *invalid: int) -> Told:
        fields: dict[str, Any] = {"model": {"input": sees}, "data": {"depth_invalid": invalid}}
        return told._replace(config=changed(told.config, **fields))

    with pytest.raises(ValueError, match=r"missing \(data\.depth_invalid = \(0,\), \(0, 9\)\)"):
        _check_alike(taking("rgbd", 0), taking("rgbd", 0, 9))
    _check_alike(taking("rgbd", 0), taking("rgb", 0, 9))


def test_runs_of_other_folds_are_refused(
    whole: RunDir, untrained_run: MakeRun, tiny_config: Config, tmp_path: Path
) -> None:
    config = changed(tiny_config, data={"fold_kind": "random"})
    message = refused(whole, untrained_run(tmp_path / "random", 1, config))
    assert "have other folds" in message
    assert "train them with the same data.fold_* fields" in message


def test_runs_of_other_classes_are_refused(
    whole: RunDir, untrained_run: MakeRun, tiny_config: Config, tmp_path: Path
) -> None:
    classes = ["heap", *tiny_config.data.classes[1:]]
    small = [name for name in tiny_config.data.small_classes if name in classes]
    config = changed(tiny_config, data={"classes": classes, "small_classes": small})
    message = refused(whole, untrained_run(tmp_path / "heap", 1, config))
    assert "have other classes" in message
    assert "heap" in message


@pytest.mark.parametrize("change", ["label", "missing frame"])
def test_runs_of_other_data_are_refused(
    change: str, whole: RunDir, untrained_run: MakeRun, tiny_config: Config, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_config.data.root, root)
    if change == "label":
        path = root / "train" / "label" / "005.png"
        with Image.open(path) as image:
            label = np.array(image)
        label[0, 0] = (int(label[0, 0]) + 1) % 13
        Image.fromarray(label).save(path)
    else:
        for kind in ("image", "depth", "label"):
            (root / "train" / kind / "005.png").unlink()
    config = changed(tiny_config, data={"root": str(root)})
    message = refused(whole, untrained_run(tmp_path / "other", 1, config))
    if change == "label":
        assert "were trained on other data: same frames, but an image, depth map, label" in message
    else:
        assert "have other frames: 12 and 11, not in both: 005" in message


def test_a_dataset_that_changed_since_is_refused(
    whole: RunDir, tiny_config: Config, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_config.data.root, root)
    (root / "scenes.csv").write_text("stem,scene\n000,hall\n", encoding="utf-8")
    data = load_config([whole.config]).data
    dataset = load_dataset(root, DatasetSpec(data.classes, data.small_classes))
    with pytest.raises(ValueError, match="the dataset is not the one that .* was trained on"):
        check_dataset(open_members([whole.root] * 2), dataset)
