"""What can be done to any file, and to its entry in its folder, by name."""

import os
import random
from collections.abc import Callable
from pathlib import Path

Act = Callable[[random.Random, Path], None]


def _bytes(change: Callable[[random.Random, bytearray], bytes | bytearray]) -> Act:
    def act(rng: random.Random, path: Path) -> None:
        path.write_bytes(change(rng, bytearray(path.read_bytes())))

    return act


def _place(rng: random.Random, content: bytearray) -> int:
    """Anywhere; half of the time among the first bytes, where the formats say what they are."""
    return rng.randrange(min(len(content), 64) if rng.random() < 0.5 else len(content))


def _flip_bit(rng: random.Random, content: bytearray) -> bytearray:
    content[_place(rng, content)] ^= 1 << rng.randrange(8)
    return content


def _set_byte(rng: random.Random, content: bytearray) -> bytearray:
    content[_place(rng, content)] = rng.randrange(256)
    return content


def _zero_range(rng: random.Random, content: bytearray) -> bytearray:
    first = _place(rng, content)
    last = min(len(content), first + rng.randint(1, 64))
    content[first:last] = bytes(last - first)
    return content


def _insert(rng: random.Random, content: bytearray) -> bytearray:
    first = _place(rng, content)
    return content[:first] + rng.randbytes(rng.randint(1, 16)) + content[first:]


def _cut_out(rng: random.Random, content: bytearray) -> bytearray:
    first = _place(rng, content)
    return content[:first] + content[first + rng.randint(1, 16) :]


BYTES: dict[str, Act] = {
    "flip a bit": _bytes(_flip_bit),
    "set a byte": _bytes(_set_byte),
    "zero some bytes": _bytes(_zero_range),
    "insert bytes": _bytes(_insert),
    "cut bytes out": _bytes(_cut_out),
    "truncate": _bytes(lambda rng, content: content[: rng.randrange(len(content))]),
    "append bytes": _bytes(lambda rng, content: content + rng.randbytes(rng.randint(1, 32))),
    "append zeros": _bytes(lambda rng, content: content + bytes(rng.randint(1, 600))),
    "empty": _bytes(lambda _, content: content[:0]),
    "text instead": _bytes(lambda _, __: b"<!DOCTYPE html><html>404</html>\n"),
}
"""Of any file that holds something."""


def _delete(_: random.Random, path: Path) -> None:
    path.unlink()


def _folder(_: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(_: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _loop(_: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(_: random.Random, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _linked(_: random.Random, path: Path) -> None:
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _forbid(_: random.Random, path: Path) -> None:
    path.chmod(0)


def _touch(rng: random.Random, path: Path) -> None:
    moment = rng.choice([0, 1_000_000_000, 4_000_000_000])
    os.utime(path, (moment, moment))


def _rewrite(_: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes())


ENTRIES: dict[str, Act] = {
    "delete": _delete,
    "a folder instead": _folder,
    "a dangling link instead": _dangling,
    "a link to itself instead": _loop,
    "a pipe instead": _pipe,
    "a link to the file instead": _linked,
    "take all rights": _forbid,
    "another time": _touch,
    "write it again": _rewrite,
}
"""Of the entry in its folder."""
