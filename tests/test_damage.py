"""A flipped bit of any file of a finished run is found: before the file is used, or by `verify`."""

import logging
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine import compare, predict, prepare, train
from engine.damage import DamageError
from engine.model.state import read_state
from engine.report.verify import verify
from engine.rundir import FOR_PEOPLE, RunDir
from engine.selection.members import open_members
from engine.sums import remove, sum_file

FinishedRun = Any  # defined in conftest.py, which cannot be imported
ReadRun = Callable[[Path], dict[str, Any]]

DERIVED = (
    *("environment.json", "folds.json", "temperature.json", "summary.json", "atlas.json"),
    *("frames.npy", "worst.png", "submission.npy", "submission.zip"),
)
"""What the same command makes again of the rest."""

PRECIOUS = ("fold1/best.safetensors", "oof/prob.npy", "oof/manifest.json")
"""What takes long to make again: the user decides."""

UNREAD = ("fold0/metrics.jsonl", "fold0/runtime.json", "fold0/environment.json")
"""What a finished run has no more use for."""


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def train_again(run: RunDir, config: Path) -> None:
    assert train.main(["--config", str(config), "--out", str(run.root)]) == 0


def test_verify_finds_any_flipped_bit_of_any_file(copied_run: RunDir) -> None:
    rng, root = random.Random(0), copied_run.root
    assert {verdict.state for verdict in verify(root)} == {"sound"}
    every = (path for path in root.rglob("*") if path.is_file())
    files = sorted(path for path in every if path.name not in FOR_PEOPLE)
    assert len(files) == 46, "23 and their checksums"
    for path in files:
        sound = path.read_bytes()
        for _ in range(3):
            flip(path, rng)
            (told,) = [verdict.told for verdict in verify(root) if verdict.told]
            assert told.startswith(f"{path} is damaged: ")
            path.write_bytes(sound)


def test_verify_names_what_is_damaged_or_lost_and_what_to_do(
    copied_run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied_run.root
    assert prepare.main(["verify", str(root)]) == 0
    assert "fold1/best.safetensors" in capsys.readouterr().out
    flip(copied_run.metrics(0), random.Random(0))
    copied_run.submission.unlink()
    remove(copied_run.atlas)
    sum_file(copied_run.summary).unlink()
    with pytest.raises(ValueError, match=rf"^2 damaged files in {root}:\n") as caught:
        prepare.main(["verify", str(root)])
    _, metrics, submission = str(caught.value).splitlines()
    assert f"{copied_run.metrics(0)} is damaged: bytes " in metrics
    assert f"delete {copied_run.fold(0)}: the same command then trains the fold again" in metrics
    assert f"{copied_run.submission} is damaged: it is gone; restore it" in submission
    told = capsys.readouterr().out
    assert "not verified, for want of checksums: 1 (summary.json)" in told
    with pytest.raises(FileNotFoundError, match="is no folder; name a run folder"):
        prepare.main(["verify", str(root / "absent")])


@pytest.mark.parametrize("is_sum", [False, True], ids=["file", "checksums"])
def test_what_follows_from_the_rest_is_made_again(
    is_sum: bool,
    finished_run: FinishedRun,
    copied_run: RunDir,
    tiny_toml: Path,
    read_run: ReadRun,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = random.Random(1)
    paths = [copied_run.root / name for name in DERIVED]
    paths = [sum_file(path) for path in paths] if is_sum else paths
    for path in paths:
        flip(path, rng)
    train_again(copied_run, tiny_toml)
    for path in paths:
        assert f"{path} is damaged: " in caplog.text
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)
    assert {verdict.state for verdict in verify(copied_run.root)} == {"sound"}


@pytest.mark.parametrize("name", ["submission.npy", "submission.zip"])
@pytest.mark.parametrize("is_lost", [False, True], ids=["damaged", "lost"])
def test_a_submission_is_taken_from_its_twin(
    name: str,
    is_lost: bool,
    finished_run: FinishedRun,
    copied_run: RunDir,
    tiny_toml: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("nothing has to be predicted")

    monkeypatch.setattr("engine.stages.open_predictor", forbidden)
    path = copied_run.root / name
    path.unlink() if is_lost else flip(path, random.Random(2))
    train_again(copied_run, tiny_toml)
    assert path.read_bytes() == (finished_run.dir.root / name).read_bytes()


def test_a_run_without_submission_or_store_is_not_complete(
    finished_run: FinishedRun,
    copied_run: RunDir,
    tiny_toml: Path,
    read_run: ReadRun,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in (copied_run.submission, copied_run.submission_zip, copied_run.store):
        path.unlink()
    with caplog.at_level(logging.INFO, logger="engine"):
        train_again(copied_run, tiny_toml)
    assert "is complete; nothing to do" not in caplog.text
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)


@pytest.mark.parametrize("is_sum", [False, True], ids=["file", "checksums"])
@pytest.mark.parametrize("name", PRECIOUS)
def test_what_took_long_is_named_and_nothing_is_changed(
    name: str, is_sum: bool, copied_run: RunDir, tiny_toml: Path, read_run: ReadRun
) -> None:
    path = copied_run.root / name
    damaged = sum_file(path) if is_sum else path
    flip(damaged, random.Random(3))
    before = read_run(copied_run.root) if name != "oof/manifest.json" else None
    with pytest.raises(DamageError, match=rf"^{damaged} is damaged: .*restore it .*, or delete "):
        train_again(copied_run, tiny_toml)
    with pytest.raises(DamageError, match=rf"^{damaged} is damaged: "):
        open_members([copied_run.root] * 2)
    assert before is None or read_run(copied_run.root) == before


def test_what_a_finished_run_does_not_read_is_left_to_verify(
    copied_run: RunDir, tiny_toml: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in UNREAD:
        flip(copied_run.root / name, random.Random(4))
    with caplog.at_level(logging.INFO, logger="engine"):
        train_again(copied_run, tiny_toml)
    assert "is complete; nothing to do" in caplog.text
    damaged = {verdict.name for verdict in verify(copied_run.root) if verdict.told}
    assert damaged == set(UNREAD)


def test_what_an_unfinished_run_reads_is_named(copied_run: RunDir, tiny_toml: Path) -> None:
    remove(copied_run.summary)
    flip(copied_run.root / UNREAD[0], random.Random(5))
    with pytest.raises(ValueError, match=rf"^{copied_run.root / UNREAD[0]} is damaged"):
        train_again(copied_run, tiny_toml)


def test_weights_that_are_gone_are_named(copied_run: RunDir, tiny_toml: Path) -> None:
    copied_run.best(1).unlink()
    told = (
        rf"^{copied_run.best(1)} is missing; restore it from a copy, or delete {copied_run.fold(1)}"
    )
    with pytest.raises(FileNotFoundError, match=told):
        train_again(copied_run, tiny_toml)
    shutil.rmtree(copied_run.fold(1))
    train_again(copied_run, tiny_toml)
    assert copied_run.best(1).exists()


@pytest.mark.parametrize("name", ["temperature.json", "fold0/best.safetensors"])
def test_prediction_names_what_is_damaged(name: str, copied_run: RunDir, tiny_root: Path) -> None:
    flip(copied_run.root / name, random.Random(6))
    with pytest.raises(DamageError, match=rf"^{copied_run.root / name} is damaged: "):
        predict.main([str(copied_run.root), str(tiny_root / "test" / "image")])
    assert not (copied_run.root / "masks").exists()


@pytest.mark.parametrize("name", ["atlas.json", "frames.npy", "folds.json"])
def test_comparison_names_what_is_damaged(name: str, copied_run: RunDir) -> None:
    flip(copied_run.root / name, random.Random(7))
    with pytest.raises(DamageError, match=rf"^{copied_run.root / name} is damaged: "):
        compare.main([str(copied_run.root)] * 2)


def test_weights_to_begin_with_are_checked(copied_run: RunDir) -> None:
    flip(copied_run.best(0), random.Random(8))
    with pytest.raises(DamageError, match=rf"^{copied_run.best(0)} is damaged: "):
        read_state(copied_run.best(0))


def change(run: RunDir, old: str, new: str) -> None:
    text = run.config.read_text(encoding="utf-8")
    assert old in text
    run.config.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"), [("lr = 0.01", "lr = 0.05"), ("    0.75,", "    1.5,")], ids=["lr", "scales"]
)
def test_a_config_that_says_another_experiment_is_what_is_named(
    old: str, new: str, copied_run: RunDir, tiny_toml: Path, tiny_root: Path
) -> None:
    change(copied_run, old, new)
    told = rf"{copied_run.config} is damaged: .*if you changed it yourself, delete "
    with pytest.raises(ValueError, match=rf"holds another experiment(.|\n)*{told}"):
        train_again(copied_run, tiny_toml)
    with pytest.raises(ValueError, match=told):
        train_again(copied_run, copied_run.config)
    with pytest.raises(ValueError, match=told):
        predict.main([str(copied_run.root), str(tiny_root / "test" / "image")])
    with pytest.raises(ValueError, match=told):
        open_members([copied_run.root] * 2)


def test_a_config_may_be_edited_where_that_changes_no_result(
    copied_run: RunDir, tiny_toml: Path, tiny_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(copied_run, "workers = 1", "workers = 2 # more")
    assert predict.main([str(copied_run.root), str(tiny_root / "test" / "image")]) == 0
    assert f"{copied_run.config} is damaged: " in caplog.text
    assert "taken as it is" in caplog.text
    train_again(copied_run, tiny_toml)


@pytest.fixture
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "name", ["config.toml", "seal.json", "submission.zip", *DERIVED[1:4], *PRECIOUS[1:], UNREAD[0]]
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    name: str, copied_run: RunDir, tiny_toml: Path, tiny_root: Path
) -> None:
    (copied_run.root / name).unlink()
    os.mkfifo(copied_run.root / name)
    with suppress(ValueError, OSError):
        predict.main([str(copied_run.root), str(tiny_root / "test" / "image")])
    with suppress(ValueError):
        train_again(copied_run, tiny_toml)
    if name != "seal.json":
        with suppress(ValueError):
            prepare.main(["verify", str(copied_run.root)])
