"""A lease on a part of a folder: one process works there at a time, and what it makes is fenced.

    FOLDER/.NAME.lease/TOKEN/     one at most, named by its owner's token
        owner.json                who that is (`engine.owner`)
        TOKEN/                    the attempt: whatever the owner has not published yet

An owner that slept, was taken for dead and wakes can never be read. Why:

1.  There is one owner. `.NAME.lease` comes into being together with its first owner, by the rename
    of a prepared folder, which fails where another one stands. From then on its entry is renamed
    only: to the token of who takes it over, or out of it when the owner is done. Of many who want
    to rename the entry of one token, one succeeds.
2.  An owner writes to files of its attempt only, and publishes by renaming them out of it. Nothing
    published is ever written to or removed in place.
3.  Who takes over brings what serves it from the old attempt to a new folder and deletes the old
    one before it reads anything. Then the folder, not just its name, is gone: whatever a client of
    a network file system remembers of it, a file can be neither made in it nor renamed out of it.
    A sleeper's rename was therefore done before, and its whole file is read like any other, or
    fails. What it may have open is copied, so that it writes to files without a name.

None of this rests on locks or clocks, which only tell the dead from the living. A wrong guess costs
the sleeper its work since it last published, and no more.
"""

import errno
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine import exits, interrupts, sums
from engine.damage import DamageError
from engine.owner import Pulse, given_up, host, read_owner, sign, start_heart

_log = logging.getLogger(__name__)

_FREE = "free"
"""The token of an attempt that its owner left, to be continued by anybody."""

_WAIT_S = 0.5
"""Seconds between two looks at a place that another process holds."""

_DELETE_TRIES = 100
"""Tries, 20 ms apart, to delete an attempt, whose owner may be writing one more file."""


class HeldError(RuntimeError):
    """Another process works there; the message says who, since when and what to do."""

    exit_code = exits.HELD


class LostError(RuntimeError):
    """Another process took a lease over; the message says who."""

    exit_code = exits.LOST


@dataclass(frozen=True)
class Place:
    """What can be leased."""

    folder: Path
    name: str
    """Of the folder's part."""
    told: str
    """What a message calls it, "fold 0 of runs/demo"."""
    covers: tuple[Path, ...]
    """Folders whose files are made in the attempt."""

    @property
    def path(self) -> Path:
        """What holds the owner's entry."""
        return self.folder / f".{self.name}.lease"


@contextmanager
def hold(place: Place, *, wait: bool = False) -> Iterator[None]:
    """Lease a place: within, files that it covers are made in the attempt, see `attempt_folder`.

    What the attempt of a dead owner left is taken over. One that cannot be told dead from alive, or
    that seems frozen, is watched for `engine.owner.STILL_S` first, which the log says.

    Args:
        place: what to lease; its folder is created.
        wait: until another owner is done, which the log says; else it is a HeldError.

    Raises:
        HeldError: another process has it.
        RuntimeError: the folder cannot be written.
        LostError: in place of an OSError, RuntimeError or ValueError within, if the lease was taken
            over; the next `interrupts.checkpoint` raises one.
    """
    token = f"{host()}-{os.getpid()}-{secrets.token_hex(6)}"
    entry, is_new = place.path / token, not place.folder.exists()
    try:
        lock = _acquire(place, token, wait=wait)
    except OSError as error:
        raise RuntimeError(f"{place.told} cannot be leased: {error}") from error
    # What processes left that died while they made or gave back a lease.
    for left in place.folder.glob(f"{place.path.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    heart = start_heart(entry, partial(interrupts.lose, token))
    covered = {folder.absolute(): entry / token for folder in place.covers}
    # Within another lease that covers a folder too, that one goes on with it afterwards.
    outer = {folder: _attempts[folder] for folder in covered if folder in _attempts}
    _attempts.update(covered)
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if entry.exists() or isinstance(error, HeldError | LostError):
            raise
        raise LostError(
            f"{place.told} was taken over from this process, which stood still, by {_owner(place)}."
            " That one goes on from what this one had written until then; nothing of it is lost, "
            "and nothing that this one made since is used"
        ) from error
    finally:
        heart.set()
        interrupts.forget_loss(token)
        for folder in covered:
            _attempts.pop(folder, None)
        _attempts.update(outer)
        _release(place, token)
        os.close(lock)
        if is_new:
            with suppress(OSError):  # something was published there
                place.folder.rmdir()


def look(place: Place) -> None:
    """Raise the HeldError that `hold` would raise, if that is told at once; changes nothing."""
    found = _entry(place)
    if found not in (None, _FREE):
        with suppress(OSError), closing(Pulse(place.path / str(found))) as pulse:
            if pulse.lives:
                raise _held(place)


def clear(place: Place) -> None:
    """Remove the lease of a dead owner from a place where nothing is left to do."""
    if place.path.exists() or any(place.folder.glob(f"{place.path.name}-*")):
        with suppress(RuntimeError), hold(replace(place, covers=())):
            pass


def attempt_folder(folder: Path) -> Path:
    """Where files of a folder are made that are not published yet; itself, if nobody leased it."""
    here = folder.absolute()
    return next((_attempts[at] for at in (here, *here.parents) if at in _attempts), folder)


def draft(path: Path) -> Path:
    """Where a file is made before it gets its name; the folder that it belongs in is created."""
    folder = attempt_folder(path.parent)
    leased = folder in _attempts.values()
    # Never an attempt: if it is gone, another process has it.
    if not leased or folder != path.parent:
        path.parent.mkdir(parents=True, exist_ok=True)
    return folder / (f"{path.name}.tmp" if leased else f".{path.name}.{os.getpid()}{_OWN}.tmp")


_OWN = secrets.token_hex(4)
"""With its number, a name for this process."""

_attempts: dict[Path, Path] = {}
"""The attempt of this process for each folder that a lease of it covers."""


def _acquire(place: Place, token: str, *, wait: bool) -> int:
    """Make `token` the place's entry; returns the owner's lock."""
    told = False
    while True:
        found = _entry(place)
        lock = _create(place, token) if found is None else _take_over(place, found, token)
        if isinstance(lock, int):
            return lock
        if lock is not None:
            if not wait:
                raise lock
            if not told:
                _log.info("waiting: %s", lock)
            told = True
            time.sleep(_WAIT_S)


def _entry(place: Place) -> str | None:
    try:
        names = [path.name for path in place.path.iterdir() if path.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return names[0] if names else None


def _create(place: Place, token: str) -> int | None:
    """Make the place's first entry; None: another process was faster."""
    new, lock = place.folder / f"{place.path.name}-{token}", None
    try:
        (new / token / token).mkdir(parents=True)
        lock = sign(new / token)
        # Onto a folder of that name only if it is empty.
        new.rename(place.path)
    except OSError as error:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(new, ignore_errors=True)
        # Not there: it was taken for what a dead process left.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        return None
    return lock


def _take_over(place: Place, found: str, token: str) -> int | HeldError | None:
    """Take an entry if its owner is dead or left it; None: it has changed, look again."""
    entry = place.path / found
    try:
        pulse = Pulse(entry)
    except FileNotFoundError:
        if (place.path / found).exists():
            # A power cut may leave that: without the file its owner has no heart.
            _log.warning("%s: nobody signed %s, which is taken over", place.told, entry)
            return _claim(place, found, token, dead=False)
        return None
    with closing(pulse):
        if pulse.lives:
            return None if found == _FREE else _held(place)
        dead = found == _FREE or pulse.died
        # Asked now: nobody else who goes this way can sign while its lock is ours.
        if not pulse.is_current():
            return None
        if not dead:
            if not pulse.stops():
                return _held(place) if entry.exists() else None
            told = "%s is taken over, its owner stands still: %s"
            _log.warning(told, place.told, read_owner(entry))
        return _claim(place, found, token, dead=dead)


def _claim(place: Place, found: str, token: str, *, dead: bool) -> int | None:
    """Rename the entry; its new owner's lock, None if another process was faster."""
    try:
        (place.path / found).rename(place.path / token)
    except FileNotFoundError:
        # A file server that was asked twice says so too, of what it has done.
        if _entry(place) != token:
            return None
    lock = sign(place.path / token)
    _inherit(place.path / token, token, dead=dead)
    return lock


def _inherit(entry: Path, token: str, *, dead: bool) -> None:
    """Bring what older attempts left to a new one, and delete them."""
    new = entry / token
    new.mkdir()
    for old in [path for path in entry.iterdir() if path.is_dir() and path != new]:
        # Notes first: an array that is copied after its note holds at least what that says.
        for path in sorted(old.iterdir(), key=lambda path: path.suffix != ".json"):
            with suppress(FileNotFoundError):  # its owner lives after all, and goes on
                if path.suffix == ".tmp":
                    continue
                if dead or path.suffix == ".json":
                    path.rename(new / path.name)
                else:
                    shutil.copyfile(path, new / f"{path.name}.tmp")
                    (new / f"{path.name}.tmp").rename(new / path.name)
        for note in () if dead else [*new.glob("*.json")]:
            try:
                sums.check(note, anew=True)
            except DamageError:  # its owner was writing both when they were taken
                sums.remove(note)
        for _ in range(_DELETE_TRIES):
            shutil.rmtree(old, ignore_errors=True)
            if not old.exists():
                break
            time.sleep(0.02)
        else:
            raise RuntimeError(
                f"{old} cannot be deleted, which keeps this process from going on safely: is it "
                f"another user's, or does a process still have a file of it open? End that one"
            )


def _release(place: Place, token: str) -> None:
    """Give an entry back, or leave it to be continued; nothing if it was taken over."""
    entry = place.path / token
    with suppress(OSError):
        if any(path.suffix != ".tmp" for path in (entry / token).iterdir()):
            entry.rename(place.path / _FREE)
            return
        # At once, and only then deleted file by file, which may be overtaken.
        gone = place.folder / f"{place.path.name}-{token}"
        entry.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        place.path.rmdir()


def _owner(place: Place) -> str:
    return str(read_owner(place.path / str(_entry(place))))


def _held(place: Place) -> HeldError:
    owner = read_owner(place.path / str(_entry(place)))
    return HeldError(
        f"{place.told} is held by another process: {owner}. Wait for it, or end it ({owner.kill}), "
        f"which loses nothing; {given_up()}"
    )
