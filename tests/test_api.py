"""`import roomsmith`: the commands from Python, on arrays, with their messages as exceptions."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import roomsmith
from engine import predict
from engine.config import Config
from engine.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
FinishedRun = Any  # defined in conftest.py, which cannot be imported

LIGHT = """
import sys
import roomsmith
heavy = [name for name in ("torch", "timm", "numba", "scipy", "nvidia.dali") if name in sys.modules]
assert not heavy, f"import roomsmith loads {heavy}"
"""


def run_python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )


def picture(path: Path) -> np.ndarray[Any, Any]:
    return np.array(Image.open(path))


def test_importing_it_loads_nothing_heavy() -> None:
    done = run_python(LIGHT, ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fold", [None, 1])
def test_an_array_gives_the_mask_that_the_command_writes(
    fold: int | None, finished_run: FinishedRun, tiny_root: Path, tmp_path: Path
) -> None:
    images = tiny_root / "test" / "image"
    predictor = roomsmith.Run.open(finished_run.dir.root).predictor(fold)
    assert predictor.classes[11] == "wall"
    found = predictor.predict(picture(images / "002.png"))
    assert (found.mask.shape, found.mask.dtype.name) == ((48, 64), "uint8")
    assert found.probabilities.shape == (13, 48, 64)
    assert found.probabilities.dtype.name == "float32"
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(axis=0), found.mask)
    assert len(np.unique(found.mask)) > 1
    if fold is None:
        out = tmp_path / "masks"
        assert predict.main([str(finished_run.dir.root), str(images), "--out", str(out)]) == 0
        np.testing.assert_array_equal(found.mask, picture(out / "002.png"))
    else:
        both = (
            roomsmith.Run.open(finished_run.dir.root)
            .predictor()
            .predict(picture(images / "002.png"))
        )
        assert not np.array_equal(both.probabilities, found.probabilities)


def test_an_image_of_another_size_has_a_mask_of_its_size(finished_run: FinishedRun) -> None:
    image_HW3 = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    found = roomsmith.Run.open(finished_run.dir.root).predictor().predict(image_HW3)
    assert found.mask.shape == (75, 101)
    np.testing.assert_array_equal(found.probabilities.argmax(axis=0), found.mask)


def test_several_runs_look_together_and_a_large_image_in_tiles(
    finished_run: FinishedRun, rgbd_run: RunDir
) -> None:
    rng = np.random.default_rng(0)
    image_HW3 = rng.integers(0, 256, (150, 170, 3), dtype=np.uint8)
    depth_HW = rng.integers(500, 4000, (150, 170), dtype=np.uint16)
    alone = [
        roomsmith.open_predictor(run.root, fold=0).predict(image_HW3, depth_HW).probabilities
        for run in (finished_run.dir, rgbd_run)
    ]
    runs = [finished_run.dir.root, roomsmith.Run.open(rgbd_run.root)]
    both = roomsmith.open_predictor(runs, fold=0).predict(image_HW3, depth_HW)
    np.testing.assert_allclose(both.probabilities, (alone[0] + alone[1]) / 2, atol=1e-5)
    sight = roomsmith.Sight(tile=(64, 96), scales=(1.0,))
    tiled = roomsmith.open_predictor(finished_run.dir.root, sight=sight).predict(image_HW3)
    assert tiled.probabilities.shape == (13, 150, 170)
    np.testing.assert_array_equal(tiled.probabilities.argmax(axis=0), tiled.mask)


def test_depth_is_asked_for_where_it_is_seen_and_may_be_metres(
    rgbd_run: RunDir, tiny_root: Path
) -> None:
    image_HW3 = picture(tiny_root / "test" / "image" / "001.png")
    depth_HW = picture(tiny_root / "test" / "depth" / "001.png").astype(np.uint16)
    predictor = roomsmith.Run.open(rgbd_run.root).predictor()
    with pytest.raises(ValueError, match="the run's networks see depth, and there is none; give"):
        predictor.predict(image_HW3)
    found = predictor.predict(image_HW3, depth_HW)
    metres = predictor.predict(image_HW3, depth_HW.astype(np.float32) / 1000)
    np.testing.assert_array_equal(found.mask, metres.mask)
    flat = predictor.predict(image_HW3, np.full_like(depth_HW, 1500))
    assert not np.array_equal(found.probabilities, flat.probabilities)


def test_an_image_of_another_type_is_refused_by_what_is_needed(finished_run: FinishedRun) -> None:
    predictor = roomsmith.Run.open(finished_run.dir.root).predictor()
    with pytest.raises(ValueError, match=r"image is \(48, 64\) float64; needed: \(H, W, 3\) uint8"):
        predictor.predict(np.zeros((48, 64)))


def test_a_run_is_trained_with_fields_over_its_config_and_opened_again(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = {"training.epochs": 1, "inference": {"scales": [1.0]}}
    run = roomsmith.train(tiny_config, overrides, out=tmp_path / "run", folds=[1])
    with pytest.raises(roomsmith.ConfigError, match="is not finished: it has no summary.json; "):
        _ = run.summary
    with pytest.raises(roomsmith.ConfigError, match="is not finished: it has no temperature.json"):
        run.predictor()
    assert roomsmith.train(tiny_config, overrides, out=tmp_path / "run") == run
    opened = roomsmith.Run.open(tmp_path / "run")
    assert (opened.config.training.epochs, opened.config.inference.scales) == (1, (1.0,))
    assert 0 < opened.summary.oof.miou < 1
    assert capsys.readouterr().out == "", "a library does not print"


def test_a_finished_run_answers_without_computing(
    finished_run: FinishedRun, tiny_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.experiment.complete", None)
    run = roomsmith.train(tiny_toml, out=finished_run.dir.root)
    assert run.summary.to_json() == finished_run.summary


def test_mistakes_are_the_commands_messages(finished_run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(roomsmith.ConfigError, match=r"unknown key training.epoch; did you mean"):
        roomsmith.train("demo", {"training.epoch": 1}, out=tmp_path)
    with pytest.raises(roomsmith.ConfigError, match=r"'epochs' = 1 is no section; name a field"):
        roomsmith.train("demo", {"epochs": 1}, out=tmp_path)
    with pytest.raises(roomsmith.ConfigError, match=r"a Config has no name .* give out=FOLDER"):
        roomsmith.train(Config())
    with pytest.raises(roomsmith.ConfigError, match=r"is not a run folder: it has no config.toml"):
        roomsmith.Run.open(tmp_path)
    with pytest.raises(roomsmith.ConfigError, match=r"--fold 2: .* has folds 0 to 1"):
        roomsmith.Run.open(finished_run.dir.root).predictor(2)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_evaluated_on_a_labelled_folder(
    finished_run: FinishedRun, tiny_root: Path, tmp_path: Path
) -> None:
    run = roomsmith.Run.open(finished_run.dir.root)
    found = roomsmith.evaluate(run, tiny_root / "train", out=tmp_path / "evaluation")
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert written == found.to_json()
    with pytest.raises(ValueError, match=str(tiny_root / "test")):
        roomsmith.evaluate(run, tiny_root / "test", out=tmp_path / "none")


def test_runs_are_blended(untrained_run: Callable[..., RunDir], tmp_path: Path) -> None:
    runs = [untrained_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    found = roomsmith.blend(
        [roomsmith.Run.open(runs[0].root), runs[1].root], tmp_path / "blend", submission=False
    )
    weights = [member.weight for member in found.members]
    assert sum(map(float, weights)) == pytest.approx(1)  # type: ignore[arg-type]
    assert found.oof.miou >= max(member.miou for member in found.members)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A site folder with what `import roomsmith` looks at first."""
    shutil.copytree(ROOT / "roomsmith", tmp_path / "roomsmith")
    for name in ("engine", "kernels"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / name / "__init__.py", tmp_path / name)
    return tmp_path


def refused(*folders: Path) -> str:
    """What `import roomsmith` says where Python looks into these folders and its own alone."""
    program = f"import sys; sys.path[:0] = {list(map(str, folders))}; import roomsmith"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_a_package_that_was_installed_over_ours_is_named_with_what_to_do(installed: Path) -> None:
    (installed / "kernels" / "__init__.py").write_text('"""Kernels from the hub."""\n', "utf-8")
    info = installed / "kernels-0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hub-kernels\nVersion: 0.9\n")
    (info / "top_level.txt").write_text("kernels\n")
    said = refused(installed)
    told = f"{installed / 'kernels'} is not Roomsmith's: the package hub-kernels was installed over"
    assert f"ImportError: {told}" in said
    assert "pip uninstall hub-kernels, then install it again: pip install --force" in said


def test_a_folder_that_hides_ours_is_named(installed: Path) -> None:
    hiding = installed / "elsewhere"
    (hiding / "engine").mkdir(parents=True)
    (hiding / "engine" / "__init__.py").touch()
    told = f"needs its own package 'engine' of {installed}, but {hiding / 'engine'} is found first"
    assert told in refused(hiding, installed)


def test_a_package_of_ours_that_is_gone_is_named(installed: Path) -> None:
    shutil.rmtree(installed / "kernels")
    told = f"ImportError: {installed / 'kernels'} is no package of Roomsmith's"
    assert told in refused(installed)
