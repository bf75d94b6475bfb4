"""Faults that need no decoding and no PyTorch are told before what takes long is loaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.early import check_out
from engine.mistakes import ConfigError
from engine.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
FinishedRun = Any  # defined in conftest.py, which cannot be imported

# Every call in one process: what one loads, all that follow would be blamed for.
CALLS = """
import json, sys
from importlib import import_module
for name in ("openvino", "nncf", "nvidia.dali"):
    sys.modules[name] = None  # as if it were not installed
for command, arguments in json.loads(sys.argv[1]):
    try:
        told = f"no error, {import_module(f'engine.{command}').main(arguments)}"
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        told = str(error)
    heavy = ("torch", "timm", "numba", "scipy", "nvidia.dali")
    print(json.dumps([told, [name for name in heavy if sys.modules.get(name)]]))
"""

FAULTS: dict[str, tuple[str, str, str]] = {
    # id: command, arguments, what is told. Words with a slash are below the test's folder.
    "flag": ("train", "--training.epoch 3", "unknown flag --training.epoch; did you mean"),
    "value": ("train", "--training.lr fast", "training.lr = 'fast'"),
    "device": (
        "train",
        "--runtime.device gpu",
        "runtime.device = 'gpu': use auto, cpu, cuda or cuda:N",
    ),
    "fold": ("train", "--folds 9", "--folds 9: data.folds = 3"),
    "no config": ("train", "--config @/absent.toml", "absent.toml: No such file"),
    "no TOML": ("train", "--config @/file", "not valid TOML"),
    "a key": ("train", "--config @/key.toml", "key.toml: unknown key training.epoch;"),
    "out a file": ("train", "TINY --out @/file", "file is no folder; choose another --out"),
    "out below a file": ("train", "TINY --out @/file/run", "file is no folder"),
    "another experiment": (
        "train",
        "TINY --out @/run --training.lr 0.5",
        "holds another experiment",
    ),
    "no data": ("train", "TINY --out @/new --data.root @/absent", "no such folder"),
    "empty data": ("train", "TINY --out @/new --data.root @/empty", "train/image: found no such"),
    "a missing label": (
        "train",
        "TINY --out @/new --data.root @/pairs",
        "train/label/003.png: found no",
    ),
    "bad scenes": ("train", "TINY --out @/new --data.root @/scenes", "the header 'a,b'"),
    "no depth": (
        "train",
        "TINY --out @/new --data.root @/shallow --model.input rgbd",
        "train/depth: ",
    ),
    "few frames": ("train", "TINY --out @/new --data.blocks_per_fold 7", "12 frames cannot fill 2"),
    "no scenes": ("train", "TINY --out @/new --data.fold_kind scene", "no frame has a scene"),
    "no encoder": (
        "train",
        "TINY --out @/new --model.encoder convnext_bass",
        "'convnext_bass' is not a timm model; did you mean convnext_base",
    ),
    "no weights": (
        "train",
        "TINY --out @/new --model.weights @/absent.pt",
        "absent.pt does not exist",
    ),
    "unknown weights": ("train", "TINY --out @/new --model.weights best", "unknown weights 'best'"),
    "no package": ("train", "TINY --out @/new --model.weights package:absent", "is not installed"),
    "no openvino": (
        "train",
        "TINY --out @/new --runtime.inference openvino",
        "pip install openvino, or use --runtime.inference torch",
    ),
    "no openvino for int8": (
        "train",
        "TINY --out @/new --runtime.inference openvino-int8",
        "pip install openvino nncf, or use --runtime.inference torch",
    ),
    "int8 on a GPU": (
        "train",
        "TINY --out @/new --runtime.inference openvino-int8 --runtime.device cuda",
        "'openvino-int8' runs on the CPU, not on cuda",
    ),
    "no dali": ("train", "TINY --out @/new --runtime.source dali", "pip install nvidia-dali"),
    "a stopped fold": ("train", "TINY --out @/stopped", "was stopped in epoch 2 of 2; --resume"),
    "a profile": ("train", "TINY --out @/new --profile --data.root @/absent", "no such folder"),
    "no run": ("predict", "@/absent @/images", "is not a run folder: it has no config.toml"),
    "an unfinished run": ("predict", "@/unfinished @/images", "is not finished"),
    "no images": ("predict", "@/run @/absent", "absent: no such folder or file; give a folder of"),
    "no image": ("predict", "@/run @/empty", "empty: found no such file in it"),
    "masks in a file": ("predict", "@/run @/images --out @/file", "file is no folder"),
    "lost weights": ("predict", "@/lost @/images", "fold1/best.safetensors is missing"),
    "one run": ("blend", "@/run --out @/new", "a blend needs two runs or more, got 1"),
    "a blend of nothing": ("blend", "@/run @/absent --out @/new", "is not a run folder"),
    "a blend of half": ("blend", "@/run @/unfinished --out @/new", "it has no temperature.json"),
    "a blend in a file": ("blend", "@/run @/run --out @/file", "file is no folder"),
    "a blend in a run": ("blend", "@/run @/run --out @/run", "is a run of engine.train"),
    "a blend without data": ("blend", "@/run @/run --out @/new --data @/absent", "no such folder"),
    "a blend's device": ("blend", "@/run @/run --out @/new --device gpu", "use auto, cpu, cuda"),
    "compared with nothing": ("compare", "@/run @/absent", "is not a run folder"),
    "compared with half": ("compare", "@/run @/unfinished", "has no atlas.json"),
    "nothing to check": ("prepare", "check @/absent", "no such folder"),
    "an empty folder": ("prepare", "check @/empty", "train/image: found no such folder"),
    "a copy of nothing": ("prepare", "encode @/absent @/new", "absent is no folder; name that of"),
    "a copy that is there": ("prepare", "encode @/scenes @/run", "run exists; name a new folder"),
    "a copy in itself": ("prepare", "encode @/scenes @/scenes/a", "scenes/a would lie in"),
    "a copy of half": ("prepare", "encode @/pairs @/new", "train/label/003.png: found no"),
    "rooms elsewhere": ("prepare", "rooms @/pairs", "exists and holds no rendered rooms"),
}


@pytest.fixture(scope="module")
def told(
    finished_run: FinishedRun,
    tiny_toml: Path,
    tiny_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[str, list[str]]]:
    """What is told of each fault, and what takes long and was loaded by then."""
    folder = tmp_path_factory.mktemp("faults")
    for name in ("run", "unfinished", "lost", "stopped"):
        shutil.copytree(finished_run.dir.root, folder / name)
    for name in ("temperature.json", "atlas.json"):
        (folder / "unfinished" / name).unlink()
    RunDir(folder / "lost").best(1).unlink()
    stopped = RunDir(folder / "stopped")
    stopped.summary.unlink()
    stopped.last(1).touch()
    stopped.metrics(1).write_bytes(stopped.metrics(1).read_bytes().splitlines()[0])
    (folder / "file").write_text("no TOML", encoding="utf-8")
    (folder / "key.toml").write_text("[training]\nepoch = 3\n", encoding="utf-8")
    (folder / "empty").mkdir()
    shutil.copytree(tiny_root / "test" / "image", folder / "images")
    for name in ("pairs", "scenes", "shallow"):
        shutil.copytree(tiny_root, folder / name)
    (folder / "pairs" / "train" / "label" / "003.png").unlink()
    (folder / "scenes" / "scenes.csv").write_text("a,b\n", encoding="utf-8")
    for split in ("train", "test"):
        shutil.rmtree(folder / "shallow" / split / "depth")
    calls = [
        (command, line.replace("TINY", f"--config {tiny_toml}").replace("@", str(folder)).split())
        for command, line, _ in FAULTS.values()
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert not (folder / "new").exists()
    return dict(zip(FAULTS, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_before_anything_is_loaded_that_takes_long(
    fault: str, told: dict[str, tuple[str, list[str]]]
) -> None:
    message, loaded = told[fault]
    assert FAULTS[fault][2] in message
    assert loaded == []


def test_a_folder_that_cannot_be_written_is_refused_unless_it_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_out(tmp_path / "new" / "run")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(ConfigError, match=f"run: {tmp_path} cannot be written; choose another"):
        check_out(tmp_path / "new" / "run")
    check_out(tmp_path, is_read=True)


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match="link is no folder"):
        check_out(tmp_path / "link")


def test_a_whole_command_with_out_a_file_is_one_line_and_exit_code_2(
    run_command: Callable[..., subprocess.CompletedProcess[str]], tiny_toml: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = run_command("engine.train", "--config", tiny_toml, "--out", tmp_path / "file")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
