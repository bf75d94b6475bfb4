"""A file of a run appears whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from engine.full_disk import DiskFullError
from engine.rundir import Record, RunDir
from engine.whole import whole_file, write_text


class StoppedError(Exception):
    """Stands for whatever ends a writer half-way."""


def stop_half_way(path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_text("half of the ne", encoding="utf-8")
        raise StoppedError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_has_the_files_that_its_page_names() -> None:
    run = RunDir(Path("runs/x"))
    assert [
        path.relative_to(run.root).as_posix()
        for path in (
            *(run.config, run.environment, run.folds, run.metrics(0), run.last(0), run.best(3)),
            run.runtime(2),
            *(run.oof, run.temperature, run.summary, run.submission, run.submission_zip),
        )
    ] == [
        *("config.toml", "environment.json", "folds.json"),
        *("fold0/metrics.jsonl", "fold0/last.pt", "fold3/best.safetensors"),
        "fold2/runtime.json",
        *("oof", "temperature.json", "summary.json", "submission.npy", "submission.zip"),
    ]


def test_naming_a_run_creates_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.last(0).parent == run.fold(0)
    assert names(tmp_path) == []


def test_a_file_and_its_folder_are_created(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "note.txt", "é\n")
    assert (tmp_path / "a" / "b" / "note.txt").read_text(encoding="utf-8") == "é\n"
    assert names(tmp_path / "a" / "b") == ["note.txt"]


def test_the_new_content_shows_only_after_the_writer_is_done(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with whole_file(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert temporary.parent == path.parent, "a rename must not cross file systems"
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_writer_leaves_what_was_there(existed: bool, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    if existed:
        write_text(path, "old")
    with pytest.raises(StoppedError):
        stop_half_way(path)
    assert names(tmp_path) == (["note.txt"] if existed else [])
    assert not existed or path.read_text(encoding="utf-8") == "old"


def test_a_failed_sync_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["note.txt"]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_what_is_needed_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    why = rf"^{tmp_path} is full \(No space left on device\): "
    told = why + r"note\.txt needs 3\.0 MiB, [\d.]+ .iB are free\. Nothing is lost"
    with pytest.raises(DiskFullError, match=told), whole_file(path, needed=3 << 20) as temporary:
        temporary.write_text("new", encoding="utf-8")
    with pytest.raises(DiskFullError, match=r"needs 0\.0 KiB or more"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["note.txt"]


def write_hiding_why_it_fails(path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc:672]")


@pytest.mark.parametrize("is_full", [True, False])
def test_an_error_that_hides_a_full_disk_is_known_by_trying(
    is_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full if is_full else lambda _: None)
    expected = "is full" if is_full else r"^\[enforce fail"
    with pytest.raises((DiskFullError, RuntimeError), match=expected):
        write_hiding_why_it_fails(tmp_path / "last.pt")
    assert names(tmp_path) == []


def test_content_is_on_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("sync a folder" if os.fstat(descriptor).st_nlink > 1 else "sync the file")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_text(tmp_path / "note.txt", "new")
    assert calls == ["sync the file", "rename", "sync a folder"]


def test_what_a_killed_writer_left_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    with whole_file(path) as temporary:
        temporary.write_text("x", encoding="utf-8")
    temporary.write_text("left by a killed writer, and longer", encoding="utf-8")
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["note.txt"]


class Score(Record):
    name: str
    miou: float
    note: str | None = None


def test_a_record_comes_back_and_leaves_out_what_was_not_given(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    for record in (Score(name="é", miou=2.5), Score(name="", miou=0, note=None)):
        record.write(path)
        assert Score.read(path) == record
        assert ("note" in json.loads(path.read_text("utf-8"))) == (
            "note" in record.model_fields_set
        )


def test_a_number_that_json_lacks_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    Score(name="a", miou=1).write(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Score(name="a", miou=float("nan")).write(path)
    assert Score.read(path).miou == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"name": ', "file: Invalid JSON"),
        ('{"name": "a"}', "miou: Field required"),
        ('{"name": "a", "miou": "much"}', "miou: Input should be a valid number"),
        ('{"name": "a", "miou": 1, "more": 2}', "more: Extra inputs"),
    ],
)
def test_a_damaged_record_is_named_with_what_is_wrong(
    text: str, fault: str, tmp_path: Path
) -> None:
    write_text(tmp_path / "score.json", text)
    with pytest.raises(ValueError, match=rf"score\.json is damaged .*\({fault}.*delete it and run"):
        Score.read(tmp_path / "score.json")
