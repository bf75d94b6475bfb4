"""A lease: one owner, freed by death, taken from a sleeper that then can never be read."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import exits, lease, owner
from engine.lease import HeldError, LostError, Place, attempt_folder, clear, hold, look
from engine.whole import whole_file, write_text

ROOT = Path(__file__).resolve().parent.parent

CHILD = """
import errno, fcntl, os, signal, sys, time
from pathlib import Path
from engine import interrupts, owner
from engine.command import run_main
from engine.lease import Place, attempt_folder, hold
from engine.whole import write_text

folder, moment = Path(sys.argv[1]), sys.argv[2]
if "remote" in sys.argv:  # as on another machine, over a file system without locks
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks available")
    fcntl.flock, owner.system, owner.BEAT_S = no_locks, lambda: "another", 0.02
if "hasty" in sys.argv:
    owner.BEAT_S = 0.02
note = folder / "note.txt"
sleep = lambda: os.kill(os.getpid(), signal.SIGSTOP)
if moment == "rename":
    replace = Path.replace
    Path.replace = lambda self, target: (sleep(), replace(self, target))
if moment == "draft":
    touch = Path.write_text
    Path.write_text = lambda self, text, **k: (
        sleep() if text == "of the sleeper" else None, touch(self, text, **k)
    )
def main():
    with hold(Place(folder, "part", "the part", (folder,))):
        write = lambda text: write_text(note, text)
        array = os.open(attempt_folder(folder) / "array.npy", os.O_RDWR | os.O_CREAT)
        os.pwrite(array, b"1234", 0)
        print("held", flush=True)
        if moment == "live":
            time.sleep(60)
        if moment == "compute":
            sleep()
            while True:
                time.sleep(0.01)
                interrupts.checkpoint()
        if moment == "array":
            sleep()
            os.pwrite(array, b"7", 0)
        write("of the sleeper")
    return 0
run_main(main)
"""


def part(folder: Path) -> Place:
    return Place(folder, "part", "the part", (folder,))


@contextmanager
def child(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the part, and stops itself at a moment."""
    command = [sys.executable, "-c", CHILD, str(folder), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, and owners watched for a tenth of a second or two."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(owner, "STILL_S", 0.3)


@pytest.fixture
def short_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners whose heart has not beaten for a moment are watched for a third of a second."""
    monkeypatch.setattr(owner, "STILL_S", 0.3)
    monkeypatch.setattr(owner, "BEAT_S", 0.02)


def test_an_owner_with_lock_and_heart_is_refused_and_one_that_is_frozen_is_watched_first(
    tmp_path: Path, short_watches: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the clock says: an hour ahead of the owner, the heart is watched, and beats."""
    with child(tmp_path, "live", "hasty") as process:
        for ahead_s in (0, 3600, -3600):
            with pytest.MonkeyPatch.context() as patch:
                now = time.time
                patch.setattr(time, "time", lambda now=now, ahead_s=ahead_s: now() + ahead_s)
                held = pytest.raises(HeldError, match=r"given up after 0 s without a sign of life")
                with held, hold(part(tmp_path)):
                    pass
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(4 * owner.BEAT_S)
        look(part(tmp_path))
        with hold(part(tmp_path)):
            (attempt_folder(tmp_path) / "array.npy").unlink()
        assert "the part is taken over, its owner stands still: " in caplog.text
    assert names(tmp_path) == []


def test_a_lease_leaves_nothing_and_its_files_are_made_in_the_attempt(tmp_path: Path) -> None:
    note = tmp_path / "run" / "oof" / "note.txt"
    with hold(part(tmp_path / "run")), whole_file(note) as temporary:
        temporary.write_text("x", encoding="utf-8")
        assert temporary.parent == attempt_folder(note.parent)
        assert names(note.parent) == []
    assert names(note.parent) == ["note.txt"]
    assert names(tmp_path / "run") == ["oof"]
    with hold(part(tmp_path / "unused")):
        pass
    assert names(tmp_path) == ["run"]


def test_what_is_held_is_refused_by_a_message_that_says_who(tmp_path: Path) -> None:
    with child(tmp_path, "live") as process:
        said = r"^the part is held by another process: "
        with pytest.raises(HeldError, match=said):
            look(part(tmp_path))
        with pytest.raises(HeldError, match=said) as caught, hold(part(tmp_path)):
            pass
        told = str(caught.value)
        assert f"process {process.pid}, since 20" in told
        assert f"(kill {process.pid}), which loses nothing" in told


def test_a_dead_owners_attempt_is_taken_over_at_once(tmp_path: Path) -> None:
    with child(tmp_path, "live") as process:
        (tmp_path / f".part.lease-{'0' * 12}").mkdir()  # of one that died as it gave one back
        process.kill()
        process.wait()
        look(part(tmp_path))
        with hold(part(tmp_path)):
            attempt = attempt_folder(tmp_path)
            assert names(attempt) == ["array.npy"]
            (attempt / "array.npy").unlink()
    assert names(tmp_path) == []


def test_what_an_owner_leaves_is_continued_by_the_next(tmp_path: Path) -> None:
    with hold(part(tmp_path)):
        (attempt_folder(tmp_path) / "progress.json").write_text("half", encoding="utf-8")
        (attempt_folder(tmp_path) / "note.txt.tmp").write_text("torn", encoding="utf-8")
    look(part(tmp_path))
    with hold(part(tmp_path)):
        assert names(attempt_folder(tmp_path)) == ["progress.json"]
        (attempt_folder(tmp_path) / "progress.json").unlink()
    assert names(tmp_path) == []


def test_what_the_dead_left_is_cleared_from_a_place_and_the_living_stay(tmp_path: Path) -> None:
    place = part(tmp_path)
    with child(tmp_path, "live") as process:
        clear(place)
        assert place.path.exists()
        process.kill()
        process.wait()
    for array in place.path.rglob("array.npy"):
        array.unlink()
    clear(place)
    (tmp_path / ".part.lease-given-back").mkdir()
    clear(place)
    assert names(tmp_path) == []


@pytest.mark.parametrize("moment", ["draft", "rename", "array", "compute"])
@pytest.mark.parametrize("how", ["remote", "hasty"])
def test_a_sleeper_that_wakes_after_its_lease_was_taken_is_never_read(
    moment: str, how: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On another machine without locks, and on this one, where it holds its lock all the time."""
    request.getfixturevalue("no_locks" if how == "remote" else "short_watches")
    with child(tmp_path, moment, how) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with hold(part(tmp_path)):
            array = attempt_folder(tmp_path) / "array.npy"
            assert array.read_bytes() == b"1234", "what the sleeper had written serves"
            write_text(tmp_path / "note.txt", "of its successor")
            process.send_signal(signal.SIGCONT)
            _, shown = process.communicate()
            assert array.read_bytes() == b"1234"
            array.unlink()
        assert shown.startswith("error: the part was taken over from this process")
        assert f"process {os.getpid()}, since" in shown
        assert process.returncode == exits.LOST
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "of its successor"
    assert names(tmp_path) == ["note.txt"]


def test_an_owner_whose_heart_beats_is_alive_whatever_the_clock_says(
    tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child(tmp_path, "live", "remote"):
        # An hour ahead of the owner, then a day behind: no clock is asked.
        for now in (time.time() + 3600, time.time() - 86_400):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            held = pytest.raises(HeldError, match="is held by another process")
            with held, hold(part(tmp_path)):
                pass


def test_another_system_that_shares_locks_is_watched_before_it_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with child(tmp_path, "live") as process:
        process.kill()
        process.wait()
    monkeypatch.setattr(owner, "STILL_S", 0.1)
    monkeypatch.setattr(owner, "system", lambda: "another")
    with hold(part(tmp_path)):
        (attempt_folder(tmp_path) / "array.npy").unlink()
    assert "the part is taken over, its owner stands still: " in caplog.text


RACE = """
import os, sys
from pathlib import Path
from engine.lease import HeldError, Place, hold

place, winners = Place(Path(sys.argv[1]), "part", "it", ()), ""
for round in range(8):
    said, say = os.pipe()
    over, end = os.pipe()
    for _ in range(6):
        if not os.fork():
            try:
                with hold(place):
                    os.write(say, b"W")
                    os.read(over, 1)  # until all have tried
                    os.kill(os.getpid(), 9) if round % 2 else None
            except HeldError:
                os.write(say, b".")
            os._exit(0)
    tried = [os.read(said, 1) for _ in range(6)]
    os.write(end, b"6" * 6)
    for _ in tried:
        os.wait()
    winners += str(tried.count(b"W"))
print(winners)
"""


def test_of_many_that_want_a_lease_at_once_one_gets_it(tmp_path: Path) -> None:
    """Of a place that nobody holds, and of one whose owner died, in turn."""
    done = subprocess.run(
        [sys.executable, "-c", RACE, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "11111111\n", done.stderr


def test_who_waits_gets_it_when_the_owner_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with child(tmp_path, "live") as process, caplog.at_level("INFO", logger="engine"):
        sleep = time.sleep

        def kill(seconds: float) -> None:
            if seconds == lease._WAIT_S:
                process.kill()
            sleep(seconds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", kill)
            with hold(part(tmp_path), wait=True):
                (attempt_folder(tmp_path) / "array.npy").unlink()
    assert "waiting: the part is held by another process" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    place = part(tmp_path / "run")
    with pytest.raises(RuntimeError, match=r"^the part cannot be leased: .*/run"), hold(place):
        pass


def test_an_error_of_an_owner_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine") as caught, hold(part(tmp_path)):
        raise OSError("mine")
    assert not isinstance(caught.value, LostError)


HELD = """
import sys
from pathlib import Path
from engine import blend, train
from engine.lease import HeldError, hold
from engine.rundir import RunDir

run = RunDir(Path("runs/demo"))
for place, main, arguments in (
    (run.training(1), train.main, ["--out", "runs/demo"]),
    (run.results, blend.main, ["runs/a", "runs/b", "--out", "runs/demo"]),
):
    with hold(place):
        try:
            main(arguments)
        except HeldError as error:
            print(str(error).partition(" is held")[0])
heavy = [name for name in ("torch", "timm", "numba", "scipy", "PIL") if name in sys.modules]
assert not heavy, f"refused only after importing {heavy}"
"""


def test_a_fold_or_a_blend_that_is_held_is_refused_before_anything_heavy_is_imported(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fold 1 of runs/demo\nruns/demo\n"
    assert not (tmp_path / "runs" / "demo").exists()


def test_within_a_lease_another_of_the_same_folder_leaves_the_first_its_own(tmp_path: Path) -> None:
    with hold(part(tmp_path)):
        first = attempt_folder(tmp_path)
        with hold(Place(tmp_path, "within", "what is within", (tmp_path,))):
            assert attempt_folder(tmp_path) != first
        assert attempt_folder(tmp_path) == first
    assert attempt_folder(tmp_path) == tmp_path
