"""python -m engine.prepare: a summary for a sound folder, every fault for another."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine import prepare
from engine.frames import race
from engine.frames.index import DatasetError
from engine.frames.recode import FORMS
from engine.rundir import RunDir
from engine.runtime.recorded import Environment

FinishedRun = Any  # defined in conftest.py, which cannot be imported
ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.prepare", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepare") / "rooms"
    arguments = ["rooms", str(folder), "--scenes", "6", "--frames", "3", "--hw", "32", "48"]
    assert prepare.main(arguments) == 0
    return folder


def test_help_answers_at_once_without_heavy_imports() -> None:
    script = (
        "import sys; from engine import prepare\n"
        "try: prepare.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    start_s = time.monotonic()
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - start_s < 5, "a second on a free machine"


def test_a_sound_folder_is_summarised(
    rooms: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "small.toml"
    config.write_text("[data]\nblocks_per_fold = 1\n", encoding="utf-8")
    assert prepare.main(["check", str(rooms), "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    for words in ("15", "32 x 48", "furniture", "blocked", "0.00 %", "scene", "fingerprint"):
        assert words in shown


def test_folds_that_cannot_be_made_are_explained(
    rooms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["check", str(rooms)]) == 0
    assert "15 frames cannot fill 5 folds x 8 blocks" in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )


def test_every_fault_is_printed_and_the_exit_code_is_2(tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    prepare.main(["rooms", str(folder), "--scenes", "1", "--frames", "3", "--hw", "16", "16"])
    (folder / "train" / "image" / "000000.png").write_bytes(b"")
    (folder / "train" / "label" / "000001.png").unlink()
    done = run("check", str(folder))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: 2 faults in {folder}:")
    assert "train/image/000000.png: found an empty file (0 bytes); expected" in done.stderr
    assert "train/label/000001.png: found no such file; expected" in done.stderr


def test_missing_depth_is_a_fault_only_where_it_is_needed(
    rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("image", "label"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / kind).symlink_to(rooms / "train" / kind)
    assert prepare.main(["check", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.replace("│", " ").split()
    assert "nan" not in shown
    assert shown[shown.index("train") :][3:7] == ["32", "x", "48", "-"]
    with pytest.raises(DatasetError, match="no such folder.*input = 'rgb'"):
        prepare.main(["check", str(tmp_path), "--depth"])


def test_a_folder_with_other_things_is_not_rendered_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    done = run("rooms", str(tmp_path))
    assert done.returncode == 2
    assert (
        done.stderr == f"error: {tmp_path} exists and holds no rendered rooms; name a new folder\n"
    )


def test_training_on_a_copy_gives_the_bytes_of_its_original(
    finished_run: FinishedRun,
    tiny_root: Path,
    tiny_toml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copy"
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(race, "fastest", lambda seconds, sizes: FORMS[2])
    assert prepare.main(["encode", str(tiny_root), str(copy)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sum("filter Up" in line for line in told) == 3
    assert told[-1].startswith(f"{copy} ")
    for name in ("train/image/000.png", "train/depth/000.png", "train/label/000.png"):
        assert (copy / name).read_bytes() != (tiny_root / name).read_bytes()
    run = RunDir(tmp_path / "run")
    command = ("engine.train", "--config", tiny_toml, "--data.root", copy, "--out")
    words = [sys.executable, "-m", *map(str, command), str(run.root)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for made in (
        *(run.best(0), run.best(1), run.store, run.temperature, run.folds, run.submission),
        *(run.submission_csv, run.frame_counts),
    ):
        before = finished_run.dir.root / made.relative_to(run.root)
        assert made.read_bytes() == before.read_bytes(), made.name
    environment, before = (Environment.read(each.environment) for each in (run, finished_run.dir))
    assert environment.dataset_fingerprint == before.dataset_fingerprint


def test_training_from_shards_gives_the_bytes_of_the_folder(
    finished_run: FinishedRun,
    tiny_root: Path,
    tiny_toml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards, run = tmp_path / "shards", RunDir(tmp_path / "run")
    assert prepare.main(["shard", str(tiny_root), str(shards), "--mb", "0.1"]) == 0
    assert " shards, " in capsys.readouterr().out
    assert len(list(shards.glob("train-*.tar"))) > 1
    command = ("engine.train", "--config", tiny_toml, "--data.root", shards, "--out")
    words = [sys.executable, "-m", *map(str, command), str(run.root)]
    # Another source would round in another way; this one reads each frame by its offset.
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for made in (run.best(0), run.best(1), run.store, run.submission, run.folds):
        before = finished_run.dir.root / made.relative_to(run.root)
        assert made.read_bytes() == before.read_bytes(), made.name
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{run.root} is complete; nothing to do" in again.stdout + again.stderr
