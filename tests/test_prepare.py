"""python -m engine.prepare: a summary for a sound folder, every fault for another."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import prepare
from engine.frames.index import DatasetError

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
    with pytest.raises(DatasetError, match="train/depth: found no such folder"):
        prepare.main(["check", str(tmp_path), "--depth"])


def test_a_folder_with_other_things_is_not_rendered_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    done = run("rooms", str(tmp_path))
    assert done.returncode == 2
    assert (
        done.stderr == f"error: {tmp_path} exists and holds no rendered rooms; name a new folder\n"
    )
