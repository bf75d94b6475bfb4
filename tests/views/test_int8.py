"""A run in INT8: what it is quantised on, what it loses, and that it never mixes with float32."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import blend, predict, train
from engine.cli import to_toml
from engine.command import start_logging
from engine.config import Config
from engine.data.folds import FoldsFile
from engine.early import check_inputs
from engine.experiment import open_experiment
from engine.frames.decode import Sample
from engine.identity import file_hash
from engine.mistakes import ConfigError
from engine.report.seal import is_sealed
from engine.report.verify import verify
from engine.resume import check_same_experiment
from engine.rundir import RunDir, load_run
from engine.selection.members import open_members
from engine.views import int8
from engine.views.int8 import quantise
from engine.views.openvino_pass import OpenVinoPass
from engine.views.predictor import Predictor, load_fold, open_predictor
from engine.views.records import Int8, Manifest

FinishedRun = Any  # defined in conftest.py, which cannot be imported
ROOT = Path(__file__).resolve().parent.parent.parent
INT8 = ("--runtime.inference", "openvino-int8")
CAPABILITY = torch.backends.cpu.get_cpu_capability()


def inferring(config: Config, inference: str) -> Config:
    runtime = config.runtime.model_copy(update={"inference": inference})
    return config.model_copy(update={"runtime": runtime})


@pytest.fixture(scope="module")
def int8_run(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The tiny run, its frames moved away and predicted again in INT8; nobody may change it."""
    pytest.importorskip("nncf", reason="pip install openvino nncf")
    run = RunDir(tmp_path_factory.mktemp("runs") / "int8")
    shutil.copytree(finished_run.dir.root, run.root, ignore=shutil.ignore_patterns("oof"))
    assert load_run(run).runtime.inference == "torch"
    done = called("train", "--out", run.root, *INT8)
    assert done.returncode == 0, done.stderr
    assert "\nfold 1 in INT8: NNCF " in done.stdout
    assert "Statistics collection" not in done.stdout, "NNCF's own progress"
    return run


def called(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as `finished_run` is made: the same sums, the same bytes."""
    words = [sys.executable, "-m", f"engine.{command}", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def own_run(int8_run: RunDir, tmp_path: Path) -> RunDir:
    """The same, which a test may spoil."""
    shutil.copytree(int8_run.root, tmp_path / "int8")
    return RunDir(tmp_path / "int8")


def test_a_run_in_int8_is_whole_and_says_what_it_lost(int8_run: RunDir) -> None:
    for fold in range(2):
        note = Int8.read(int8_run.int8(fold))
        assert note.weights == file_hash(int8_run.best(fold))
        assert note.scored == 6
        assert 0 < note.miou_float32 < 1
        assert abs(note.loss) < 0.02
        assert Manifest.read(int8_run.manifest).predicted[fold].weights == note.network
    assert load_run(int8_run).int8
    states = {verdict.name: verdict.state for verdict in verify(int8_run.root)}
    for name in ("int8.json", "int8.xml", "int8.bin"):
        assert states[f"fold0/{name}"] == states[f"fold1/{name}"] == "sound"


def test_its_maps_are_near_those_of_float32(int8_run: RunDir, finished_run: FinishedRun) -> None:
    found, plain = (np.load(run.store).astype(float) for run in (int8_run, finished_run.dir))
    # With AVX2 alone products of bytes are summed in 16 bits, which saturate: .0104 and .33 there.
    mean, most = (0.01, 0.2) if CAPABILITY == "AVX512" else (0.0125, 0.4)
    assert 0 < np.abs(found - plain).mean() < mean
    assert np.abs(found - plain).max() < most


def test_no_validation_frame_has_a_say(int8_run: RunDir) -> None:
    fold_of = FoldsFile.read(int8_run.folds).fold_of
    for fold in range(2):
        calibrated = Int8.read(int8_run.int8(fold)).calibrated
        assert calibrated == tuple(stem for stem, validates in fold_of.items() if validates != fold)


def test_frames_are_spread_over_all_and_seen_by_every_view(
    tiny_config: Config, finished_run: FinishedRun
) -> None:
    experiment = open_experiment(tiny_config, finished_run.dir)
    predictor = open_predictor(tiny_config, finished_run.dir, [0], experiment.policy)
    samples = experiment.dataset.train.samples
    chosen = int8.spread(samples, 5)
    assert [samples.index(sample) for sample in chosen] == [0, 3, 6, 8, 11]
    small, plain, *mirrored = int8._inputs(predictor, [samples[0]] * 4)
    assert (small.shape, plain.shape) == ((1, 32, 32, 3), (1, 32, 64, 3))
    for view, flipped in zip((small, plain), mirrored, strict=True):
        assert np.array_equal(flipped, view[:, :, ::-1])


def opened(
    config: Config, run: RunDir, out: Path
) -> tuple[Predictor, RunDir, list[Sample], list[Sample]]:
    """What fold 0 is quantised from, to leave its files in `out`."""
    experiment = open_experiment(inferring(config, "openvino"), run)
    predictor = open_predictor(experiment.config, run, [0], experiment.policy)
    samples, folds = experiment.dataset.train.samples, experiment.folds
    shutil.copytree(run.fold(0), out / "fold0", ignore=shutil.ignore_patterns("*int8*"))
    training, validation = folds.training(0), folds.validation(0)
    return (
        predictor,
        RunDir(out),
        [samples[i] for i in training],
        [samples[i] for i in validation],
    )


def test_quantised_again_it_is_the_same_to_the_byte_and_a_loss_is_warned_of(
    int8_run: RunDir,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(int8, "_TOLERATED", -1.0)
    given = opened(tiny_config, int8_run, tmp_path)
    start_logging()
    note = quantise(*given)
    assert caplog.handler.level == logging.NOTSET, "others' handlers stay as they are"
    assert note == Int8.read(int8_run.int8(0))
    for name in ("int8.xml", "int8.bin", "int8.json"):
        new, old = ((run.fold(0) / name).read_bytes() for run in (RunDir(tmp_path), int8_run))
        assert new == old, name
    told = capsys.readouterr()
    said = " ".join((told.out + told.err).split())
    figures = f"mIoU {note.miou:.4f} for float32's {note.miou_float32:.4f} on 6 validation frames"
    assert figures in said
    assert f"fold 0 loses {note.loss:.4f} of mIoU in INT8, more than -1; for float32 use" in said


@torch.inference_mode()
def test_a_fold_runs_as_its_file_says_and_other_weights_are_refused(
    own_run: RunDir, finished_run: FinishedRun
) -> None:
    config, policy = load_run(own_run), open_experiment(load_run(own_run), own_run).policy
    fold = load_fold(config, own_run, 0, policy)
    assert isinstance(fold.forward, OpenVinoPass)
    kinds = [operation.get_type_name() for operation in fold.forward.model.get_ops()]
    assert "FakeQuantize" in kinds
    image = torch.randn(2, 3, 64, 96)
    found = fold.forward(image).logits_BChw.clone()
    plain = load_fold(inferring(config, "torch"), own_run, 0, policy).forward(image).logits_BChw
    assert 0 < (found - plain).abs().mean() < 0.05 * plain.abs().max()
    shutil.copy(own_run.best(1), own_run.best(0))
    shutil.copy(own_run.best(1).parent / ".best.safetensors.sum", own_run.best(0).parent)
    with pytest.raises(FileNotFoundError, match="no network in INT8 of its weights; complete it"):
        load_fold(config, own_run, 0, policy)


def test_new_frames_are_predicted_by_the_files_without_nncf_or_training_frames(
    own_run: RunDir, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert (
        predict.main([str(own_run.root), str(tiny_root / "test/image"), "--out", str(tmp_path)])
        == 0
    )
    found = [np.array(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))]
    assert np.array_equal(np.stack(found), np.load(own_run.submission))


def test_a_run_of_float32_has_none_to_predict_with(
    finished_run: FinishedRun, int8_run: RunDir, tiny_root: Path, tmp_path: Path
) -> None:
    told = r"fold0/int8\.json is missing: .*; or use --runtime openvino$"
    plain, out = str(finished_run.dir.root), ("--out", str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=told):
        predict.main([plain, str(tiny_root / "test/image"), *out, "--runtime", "openvino-int8"])
    with pytest.raises(FileNotFoundError, match=told):
        blend.main([str(int8_run.root), plain, *out, "--runtime", "openvino-int8"])
    assert not (tmp_path / "out").exists()


def test_a_blend_opens_the_stores_of_both(finished_run: FinishedRun, int8_run: RunDir) -> None:
    members = open_members([int8_run.root, finished_run.dir.root])
    assert [member.predicting(None).int8 for member in members] == [True, False]
    assert not members[0].predicting("torch").int8


def test_what_one_predicted_the_other_never_goes_on_with(
    finished_run: FinishedRun, int8_run: RunDir
) -> None:
    pairs = (finished_run.dir, "torch", "openvino-int8"), (int8_run, "openvino-int8", "torch")
    for run, was, asked in pairs:
        assert not is_sealed(inferring(load_run(run), asked), run)
        with pytest.raises(ConfigError, match=f"use --runtime.inference {was}, or move it away"):
            train.main(["--out", str(run.root), "--runtime.inference", asked])


@pytest.mark.full
def test_begun_in_int8_a_run_is_the_one_whose_frames_were_predicted_again(
    int8_run: RunDir, tiny_toml: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    done = called("train", "--config", tiny_toml, "--out", run.root, *INT8)
    assert done.returncode == 0, done.stderr
    assert load_run(run).int8
    for fold in range(2):
        assert file_hash(run.best(fold)) == file_hash(int8_run.best(fold))
    assert np.array_equal(np.load(run.store), np.load(int8_run.store))
    assert np.array_equal(np.load(run.submission), np.load(int8_run.submission))


def test_what_is_lost_or_damaged_is_made_again_to_the_byte(
    own_run: RunDir,
    int8_run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = own_run.int8_network(0)
    network.write_bytes(network.read_bytes()[:-1] + b"!")
    run, weights = open_experiment(load_run(own_run), own_run), file_hash(own_run.best(0))
    start_logging()
    assert run.quantise(0, weights) == Int8.read(int8_run.int8(0)).network
    told = capsys.readouterr()
    assert f"{network} is damaged" in (told.out + told.err).replace("\n", "")
    assert network.read_bytes() == int8_run.int8_network(0).read_bytes()
    own_run.int8_network(0).with_suffix(".bin").unlink()
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(RuntimeError, match="NNCF"):
        run.quantise(0, weights)


def test_an_older_folder_is_refused(own_run: RunDir, tiny_config: Config) -> None:
    shutil.rmtree(own_run.oof)
    text = to_toml(inferring(tiny_config, "torch")).replace("format = 3", "format = 2")
    own_run.config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="begun by an older release"):
        check_same_experiment(inferring(tiny_config, "openvino-int8"), own_run)


def test_a_missing_nncf_is_told_before_anything_is_done(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(RuntimeError, match=r"by NNCF: pip install nncf, or use"):
        check_inputs(inferring(tiny_config, "openvino-int8"), [0])
    check_inputs(inferring(tiny_config, "openvino"), [0])


def test_a_missing_nncf_is_named(
    int8_run: RunDir, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = opened(tiny_config, int8_run, tmp_path)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(RuntimeError, match=r"pip install openvino nncf"):
        quantise(*given)
