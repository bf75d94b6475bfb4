"""Which runs may teach another one, what is told of others, and what a student keeps of them."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.cli import load_config, to_toml
from engine.config import Config
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.training import pseudo
from engine.views.predictor import open_predictor
from tests.conftest import ROOT, FinishedRun
from tests.ranks import torchrun


@pytest.fixture
def words(tiny_toml: Path) -> list[str]:
    return ["--config", str(tiny_toml), "training.teacher_threshold=0.6"]


def test_networks_on_all_frames_learn_from_all_of_its_networks(
    words: list[str],
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = list[Sequence[int]]()

    def noted(config: Config, run: RunDir, folds: Sequence[int], policy: DevicePolicy) -> Any:
        asked.append(folds)
        return open_predictor(config, run, folds, policy)

    monkeypatch.setattr(pseudo, "open_predictor", noted)
    run = RunDir(tmp_path / "run")
    more = ["training.frames=all", "training.members=2", "selection.temperature=0.7"]
    more += [f"training.teacher=run:{finished_run.dir.root}", "--until", "trained"]
    assert train.main([*words, *more, "--out", str(run.root)]) == 0
    assert asked == [(0, 1)]  # once for both
    assert run.pseudo(0).read_bytes() == run.pseudo(1).read_bytes()
    assert run.best(0).read_bytes() != run.best(1).read_bytes()


def test_a_fold_that_has_begun_needs_its_teacher_no_more_and_others_need_the_same(
    words: list[str], finished_run: FinishedRun, tmp_path: Path
) -> None:
    teacher, out = RunDir(tmp_path / "teacher"), tmp_path / "out"
    shutil.copytree(finished_run.dir.root, teacher.root)
    begin = [*words, "--out", str(out)]
    first = ["--folds", "0", "--until", "trained"]
    named = f"training.teacher=run:{teacher.root}"
    assert train.main([*begin, named, *first, "--stop-after", "1"]) == 0
    moved = tmp_path / "moved"
    teacher.root.rename(moved)
    assert train.main(["--out", str(out), *first, "--resume"]) == 0
    with pytest.raises(ConfigError, match=r"training.teacher = .* there is no such folder"):
        train.main(["--out", str(out), "--until", "trained"])
    # In another place it is the same one.
    assert train.main([*begin, f"training.teacher=run:{moved}", *first]) == 0
    moved.rename(teacher.root)
    shutil.copy(teacher.best(0), teacher.best(1))
    shutil.copy(teacher.fold(0) / ".best.safetensors.sum", teacher.fold(1))
    with pytest.raises(ConfigError, match=r"has changed since .* was begun with it"):
        train.main(["--out", str(out), "--until", "trained"])
    assert not RunDir(out).pseudo(1).exists()


def test_who_may_not_teach_is_told_in_a_line(
    words: list[str], tiny_root: Path, finished_run: FinishedRun, tmp_path: Path
) -> None:
    root, out = finished_run.dir.root, tmp_path / "out"
    empty, unfinished = tmp_path / "empty", tmp_path / "unfinished"
    empty.mkdir()
    (empty / "train").symlink_to(tiny_root / "train")
    shutil.copytree(root, unfinished)
    (unfinished / "temperature.json").unlink()
    (unfinished / ".temperature.json.sum").unlink()
    classes = ",".join([*Config().data.classes[:-1], "door"])
    for more, told in {
        ("training.teacher=runs/x",): "names no run; type training.teacher=run:runs/x, or first",
        (f"training.teacher=run:{tmp_path}",): "it has no config.toml; name the folder of a run",
        (f"training.teacher=run:{root}", "training.epochs=0", f"model.weights=run:{root}"): (
            "training.epochs = 0 learns nothing"
        ),
        (f"training.teacher=run:{root}", "training.batch_size=1"): "type training.batch_size=2",
        (f"training.teacher=run:{root}", f"data.classes={classes}"): (
            "has other classes (door, window)"
        ),
        (f"training.teacher=run:{root}", "data.folds=3"): "has 2 folds, and this run 3",
        (f"training.teacher=run:{root}", "data.fold_kind=random"): "has other folds: ",
        (f"training.teacher=run:{root}", "data.exif=ignore"): "reads files with data.exif",
        (f"training.teacher=run:{root}", f"data.root={empty}"): "labels test frames, and",
        (f"training.teacher=run:{unfinished}",): "is not finished: it has no temperature.json",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(told)):
            train.main([*words, *more, "--out", str(out)])
        assert not (out / "fold0").exists()


def test_a_teacher_on_all_frames_or_from_weights_that_saw_them_teaches_no_folds(
    words: list[str], finished_run: FinishedRun, tmp_path: Path
) -> None:
    started, tuned = tmp_path / "started", tmp_path / "tuned"
    weights = [f"model.weights=run:{finished_run.dir.root}#0", "training.epochs=1"]
    assert train.main([*words, *weights, "--out", str(started)]) == 0
    # Fold 1 of it began with weights that were trained on the frames that fold 1 validates.
    with pytest.raises(ConfigError, match="started from weights that were trained on frames"):
        train.main([*words, f"training.teacher=run:{started}", "--out", str(tuned)])
    whole = tmp_path / "all"
    shutil.copytree(finished_run.dir.root, whole)
    changed: dict[str, Any] = {"training": {"frames": "all", "members": 2}}
    changed["selection"] = {"temperature": 0.7}
    config = load_config([finished_run.dir.config], changed)
    (whole / "config.toml").write_text(to_toml(config), encoding="utf-8")
    with pytest.raises(ConfigError, match="was trained on all frames"):
        train.main([*words, f"training.teacher=run:{whole}", "--out", str(tuned)])
    assert not (tuned / "fold0").exists()


def test_two_processes_learn_from_a_teacher_what_one_does(
    words: list[str],
    finished_run: FinishedRun,
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
) -> None:
    """The first labels, and has the labelled rows; the second reads that, and has the others."""
    more = [f"training.teacher=run:{finished_run.dir.root}", "training.parts=2"]
    more += ["training.batch_size=4", "training.teacher_share=0.5", "training.epochs=1"]
    more += ["--folds", "0", "--until", "trained"]
    one, two = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    assert train.main([*words, *more, "--out", str(one.root)]) == 0
    command = torchrun(2, "engine.train", *words, *more, "--out", str(two.root))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert two.log.read_text("utf-8").count("test frames labelled by fold 0") == 1
    expected, found = (read_run(run.fold(0)) for run in (one, two))
    for name in ("pseudo.zip", "best.safetensors"):
        assert found[name] == expected[name], name
