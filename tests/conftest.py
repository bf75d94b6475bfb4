"""What all tests share."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Beside other tests, threads that spin would take the time of those they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import train
from engine.cli import load_config, to_toml
from engine.config import Config
from engine.rundir import FOR_PEOPLE, RunDir

ROOT = Path(__file__).resolve().parent.parent

# Triton decides between compiler and interpreter when it is imported, which engine's modules do;
# the imports above do not. Where there is a GPU its kernels are tested as machine code.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# PyTorch asks once, at the process's first product, whether cuBLAS may be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

pytest_plugins = ["tests.frames_on_disk"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels once before several processes test, not once in each at the same time."""
    if session.config.getoption("numprocesses", None):
        program = "from kernels.ahead import main; raise SystemExit(main())"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)


TINY: dict[str, dict[str, Any]] = {
    "data": {
        "folds": 2,
        "blocks_per_fold": 1,
        "input_hw": [48, 64],
        "crop_hw": [32, 64],
    },
    # The smallest encoder of timm with strides 4 to 32; its blocks drop paths, the decoder drops
    # channels, so that a test of resuming sees random numbers too.
    "model": {
        "encoder": "test_efficientnet",
        "weights": "none",
        "pyramid_channels": 8,
        "segmentation_channels": 64,
        "dropout": 0.2,
        "drop_path": 0.1,
    },
    "training": {
        "epochs": 2,
        "batch_size": 2,
        "lr": 1e-2,
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "schedule": "warmup_cosine",
        "boundary_weight": 2.0,
    },
    "runtime": {"source": "torch", "workers": 1, "save_every": 2, "log_every": 2, "threads": 1},
    "inference": {
        "scales": [0.75, 1.0],
        "temperatures": [0.7, 1.0],
        "base_hw": [48, 64],
        "batch_size": 2,
    },
    # Those of tests/report make theirs.
    "report": {"page": False},
}
"""Twelve frames and a few thousand weights: a run of seconds that goes through every stage."""

TINY_HW = (48, 64)
TINY_TRAIN, TINY_TEST = 12, 5


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember and keep decoded is not left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Files that tests write themselves do not wait for the disk, a twelfth of a run's time.

    Those of commands that tests start, kill and put to sleep do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """The same sums on every machine, and small tests leave a large one's cores asleep."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Commands that run inside tests, and fixtures of many, set threads and logging: none stays."""
    threads = torch.get_num_threads()
    _log_as_found()
    yield
    _log_as_found()
    torch.set_num_threads(threads)


def _log_as_found() -> None:
    for logger in (logging.getLogger(name) for name in ("engine", "kernels")):
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def nyuv2_root() -> Path:
    """The real NYU Depth v2 as a dataset folder; the test is skipped where it is absent."""
    named = os.environ.get("ROOMSMITH_NYUV2")
    root = Path(named) if named else ROOT.parent / "shared" / "data" / "nyuv2"
    if not (root / "train" / "image").is_dir():
        if named:
            pytest.fail(f"ROOMSMITH_NYUV2={named} has no train/image; name a dataset folder")
        pytest.skip("needs the real NYU Depth v2: set ROOMSMITH_NYUV2 to its folder")
    return root


def write_tiny(root: Path) -> None:
    """Write 12 + 5 frames, 48 x 64: coloured rectangles, depth by class; the same each time."""
    rng = np.random.default_rng(0)
    for split, count in (("train", TINY_TRAIN), ("test", TINY_TEST)):
        for kind in ("image", "depth", "label"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            label = np.full(TINY_HW, 11, np.uint8)
            for value in rng.integers(0, 13, 6):
                top, left = rng.integers(0, 40), rng.integers(0, 48)
                label[top : top + 20, left : left + 24] = value
            noise = rng.integers(0, 60, (*TINY_HW, 3))
            image = (label[..., None] * np.array([13, 7, 11]) + noise).astype(np.uint8)
            depth = (800 + 500 * label.astype(np.uint16)) * (rng.random(TINY_HW) < 0.9)
            label[rng.random(TINY_HW) < 0.1] = 255
            name = f"{number:03d}.png"
            Image.fromarray(image).save(root / split / "image" / name)
            Image.fromarray(depth.astype(np.uint16)).save(root / split / "depth" / name)
            if split == "train":
                Image.fromarray(label).save(root / split / "label" / name)
    (root / "test" / "label").rmdir()


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of `write_tiny`."""
    root = tmp_path_factory.mktemp("tiny")
    write_tiny(root)
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_root: Path) -> Config:
    """The config of a run of seconds on `tiny_root`."""
    return load_config([], {**TINY, "data": {**TINY["data"], "root": str(tiny_root)}})


@pytest.fixture(scope="session")
def tiny_toml(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_config` as a file."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(to_toml(tiny_config), encoding="utf-8")
    return path


def run_module(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` from the project's root."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class FinishedRun:
    """A run that one call of the command made, and what the command said."""

    dir: RunDir
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        content: dict[str, Any] = json.loads(self.dir.summary.read_text(encoding="utf-8"))
        return content


@pytest.fixture(scope="session")
def finished_run(tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`python -m engine.train` on the tiny dataset, from start to end; nobody may change it."""
    root = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run_module("engine.train", "--config", tiny_toml, "--out", root)
    assert done.returncode == 0, done.stderr
    return FinishedRun(RunDir(root), done.stdout, done.stderr)


@pytest.fixture
def copied_run(finished_run: FinishedRun, tmp_path: Path) -> RunDir:
    """A finished run that a test may spoil."""
    shutil.copytree(finished_run.dir.root, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture(scope="session")
def rgbd_run(
    tiny_config: Config, tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A run with depth as input, on a dataset without test frames; nobody may change it.

    Its views are of another zoom than its training.
    """
    data = tmp_path_factory.mktemp("rgbd")
    (data / "train").symlink_to(Path(tiny_config.data.root) / "train")
    run = RunDir(tmp_path_factory.mktemp("runs") / "rgbd")
    arguments = ["--config", str(tiny_toml), "--out", str(run.root), "--data.root", str(data)]
    arguments += ["--model.input", "rgbd", "--training.epochs", "1", "--inference.scales", "[1]"]
    arguments += ["--data.input_hw", "96,128"]  # twice what inference.base_hw says
    assert train.main(arguments) == 0
    return run


@pytest.fixture(scope="session")
def untrained_run(tiny_config: Config) -> Callable[..., RunDir]:
    """`untrained_run(root, seed, config)`: what `engine.train` leaves, but of random weights.

    Its out-of-fold probabilities are random too, but right more often than not.
    """

    def make(root: Path, seed: int, config: Config = tiny_config) -> RunDir:
        from safetensors.torch import save_file

        from engine.experiment import open_experiment
        from engine.frames.decode import read_label
        from engine.identity import fold_hashes, stage_identity
        from engine.model.network import build_network
        from engine.selection.records import TemperatureChoice
        from engine.views.store import ProbStoreWriter, oof_layout

        run = open_experiment(config, RunDir(root))
        run.write_description()
        classes = config.data.classes
        for fold in range(config.networks):
            run.dir.fold(fold).mkdir()
            torch.manual_seed(10 * seed + fold)
            model = config.of_network(fold).model
            network = build_network(model, len(classes), initial_weights=False)
            weights = {name: part.contiguous() for name, part in network.state_dict().items()}
            save_file(weights, run.dir.best(fold))
        samples = run.dataset.train.samples
        begun = stage_identity(config, run.weights_hash)
        layout = oof_layout(config, samples, run.folds, begun)
        writer = ProbStoreWriter(run.dir.oof, replace(layout, temperatures=(1.0,)))
        rng = np.random.default_rng(seed)
        for index, sample in enumerate(samples):
            truth_hw = np.minimum(read_label(sample)[::2, ::2], len(classes) - 1)
            noise_hwC = rng.dirichlet(np.ones(len(classes)), layout.shape[2:])
            prob_hwC = noise_hwC + 0.3 * np.eye(len(classes))[truth_hw]
            prob_1Chw = (prob_hwC / 1.3).transpose(2, 0, 1)[None].astype(np.float32)
            writer.write(index, prob_1Chw, int(run.folds.fold_of[index]))
        key = stage_identity(config, run.weights_hash, *fold_hashes(config, run.dir))
        writer.finish(1.0, key)
        choice = TemperatureChoice(best=1.0, index=0, chosen_by="config", scores=[])
        choice.write(run.dir.temperature)
        return run.dir

    return make


def run_content(folder: Path) -> dict[str, Any]:
    """What every file below `folder` holds, but for clock times, peak memory, seal and checksums.

    What is for people only is left out: it tells of times.
    Files that hold none are told by their bytes; a checkpoint by the bytes, type and layout of
    each of its tensors.
    """
    content: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".sum" or FOR_PEOPLE.intersection(path.relative_to(folder).parts):
            continue
        value: Any = path.read_bytes()
        if path.suffix == ".pt":
            value = _flat(torch.load(path, weights_only=True))
        elif path.suffix == ".jsonl":
            value = [_flat(json.loads(line)) for line in value.splitlines()]
        elif path.suffix == ".json":
            value = _flat(json.loads(value))
        elif path.name == "pseudo.zip":
            with zipfile.ZipFile(path) as archive:
                value = {name: archive.read(name) for name in archive.namelist()}
            value["note.json"] = _flat(json.loads(value["note.json"]))
        content[str(path.relative_to(folder))] = value
    return content


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        layout = (value.dtype, tuple(value.shape), value.stride())
        return {key: (*layout, value.contiguous().numpy().tobytes())}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {key: value}
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if not (str(name).endswith("_s") or name in ("seconds", "peak_memory_mib", "seal")):
            flat |= _flat(part, f"{key}/{name}")
    return flat


@pytest.fixture(scope="session")
def read_run() -> Callable[[Path], dict[str, Any]]:
    """`run_content`, for comparing two runs."""
    return run_content


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_module`: run a command as a user does."""
    return run_module


LONGEST = (
    "test_cluster_storm",
    "test_storm",
    "test_throughput",
    "test_time_to_accuracy",
    "test_extend",
    "test_patience",
    "test_fuzzing",
    "test_lowering",
    "test_predict_kernels",
    "test_int8",
    "test_confusion_blend",
    "test_tta_accumulate",
    "test_boundary_ce",
    "test_certify_sections",
    "test_train",
    "test_wheel",
    "test_fast",
    "test_processes",
    "test_page",
    "test_openvino_pass",
    "test_background",
    "test_depthwise_norm",
    "test_depthwise_norm_mutants",
    "test_damage",
    "test_blend",
)
"""Files begun first: one that is begun last would have a core to itself at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is marked `bench("PACKAGE")` where that package is not installed."""
    named = (name for mark in item.iter_markers("bench") for name in mark.args)
    if missing := [name for name in named if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}, which make test-bench installs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; skip the tests marked `gpu` where there is no CUDA device."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device (make test-gpu)"))
