"""What can be done to one file, by name; each says what it did and whom a message may name."""

import os
import random
import re
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Bend(NamedTuple):
    """What was bent.

    Attributes:
        told: what was done, for whoever reads of a failure.
        names: an error has to say one of these.
    """

    told: str
    names: tuple[str, ...]


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


def _rename(rng: random.Random, path: Path) -> None:
    stem, suffix = path.stem, path.suffix
    names = [
        *(stem + suffix.upper(), stem + ".jpeg", stem + ".txt", stem, f"{stem}.tar{suffix}"),
        *(f"ü {stem}{suffix}", f".{stem}{suffix}", f"{stem}\n{suffix}", "x" * 200 + suffix),
        *(f"{stem} {suffix}", f"{stem.upper()}{suffix}", f"f99{suffix}", f"[red]{stem}{suffix}"),
    ]
    path.rename(path.with_name(rng.choice(names)))


def _second(rng: random.Random, path: Path) -> None:
    suffix = rng.choice([".png", ".jpg", ".jpeg", ".tif", ".PNG", ".bmp", ".npy"])
    if path.with_suffix(suffix) != path:
        path.with_suffix(suffix).write_bytes(path.read_bytes())


def _stray(rng: random.Random, path: Path) -> None:
    name = rng.choice(
        [".DS_Store", "Thumbs.db", "._f00.png", "notes.txt", "f77.png", "desktop.ini"]
    )
    (path.parent / name).write_bytes(b"odd" if "f77" not in name else path.read_bytes())


def _swap(rng: random.Random, path: Path) -> None:
    others = sorted(other for other in path.parent.iterdir() if other.suffix == path.suffix)
    other = rng.choice(others)
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)


def _mode(rng: random.Random, path: Path) -> None:
    with Image.open(path) as opened:
        opened.load()
        picture = opened.convert("RGB")
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
    if mode == "I;16":
        grey = np.asarray(picture.convert("L")).astype(np.uint16) * rng.choice([1, 257])
        Image.fromarray(grey).save(path, format="PNG")
    else:
        jpeg = mode in ("CMYK", "YCbCr")
        picture.convert(mode).save(path, format="JPEG" if jpeg else "PNG")


def _format(rng: random.Random, path: Path) -> None:
    with Image.open(path) as opened:
        opened.load()
    name = rng.choice(["TIFF", "BMP", "WEBP", "GIF", "PNG", "JPEG", "PPM"])
    suffix = rng.choice([path.suffix, f".{name.lower()}"])
    whole = opened if name in ("TIFF", "PNG") else opened.convert("RGB")
    path.unlink()
    whole.save(path.with_suffix(suffix), format=name)


def _resize(rng: random.Random, path: Path) -> None:
    with Image.open(path) as opened:
        size = rng.choice([(48, 31), (1, 1), (96, 64), (32, 48), (47, 33), (2000, 3)])
        resized = opened.resize(size, Image.Resampling.NEAREST)
    resized.save(path)


def _resize_frame(rng: random.Random, path: Path) -> None:
    size = rng.choice([(48, 31), (1, 1), (96, 64), (32, 48), (47, 33), (400, 3)])
    for other in path.parent.parent.glob(f"*/{path.stem}.*"):
        with Image.open(other) as opened:
            resized = opened.resize(size, Image.Resampling.NEAREST)
        resized.save(other)


def _exif(rng: random.Random, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535])
    with Image.open(path) as opened:
        opened.load()
    opened.save(path, exif=exif)


def _values(rng: random.Random, path: Path) -> None:
    with Image.open(path) as opened:
        pixels = np.array(opened)
    top = 65535 if pixels.dtype == np.uint16 else 255
    value = rng.choice([0, 1, 3, 4, 5, 100, 254, 255, 256, 65535, top])
    rows = rng.choice([1, 5, pixels.shape[0]])
    pixels[:rows] = min(value, top)
    Image.fromarray(pixels).save(path, format="PNG")


def _png_head(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content[:4] != b"\x89PNG":
        return _flip_head(rng, path)
    field = rng.choice(["width", "height", "depth", "colour", "interlace"])
    place = {"width": 16, "height": 20, "depth": 24, "colour": 25, "interlace": 28}[field]
    if place < 24:
        content[place : place + 4] = struct.pack(
            ">I", rng.choice([0, 1, 33, 47, 2**31 - 1, 2**32 - 1])
        )
    else:
        content[place] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 77])
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return None


def _flip_head(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(min(len(content), 700))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


FRAMES: dict[str, Act] = {
    "rename": _rename,
    "a second of its stem": _second,
    "a file beside it": _stray,
    "swap with another": _swap,
    "another mode": _mode,
    "another format": _format,
    "another size": _resize,
    "another size of the frame": _resize_frame,
    "an orientation": _exif,
    "other values": _values,
    "another head": _png_head,
}
"""Of a picture of a data folder."""


def bend_data(rng: random.Random, root: Path) -> Bend:
    """Bend one file of a data folder."""
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    # The groups weigh the same, not their members.
    pictures = [BYTES, ENTRIES, FRAMES, FRAMES]
    return _bend(rng, root, path, rng.choice(pictures if path.suffix != ".csv" else pictures[:2]))


def bend_run(rng: random.Random, root: Path) -> Bend:
    """Bend one file of a finished run."""
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    return _bend(rng, root, path, rng.choice([BYTES, BYTES, ENTRIES]))


def _bend(rng: random.Random, root: Path, path: Path, group: dict[str, Act]) -> Bend:
    name, before = rng.choice(sorted(group)), _snapshot(root)
    group[name](rng, path)
    after = _snapshot(root)
    changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    # A frame of which one file is missing may be named by its stem.
    names = {path.stem, *(Path(other).stem for other in changed)}
    return Bend(f"{path.relative_to(root)}: {name}", tuple(sorted(names)))


def _snapshot(root: Path) -> dict[str, bytes | str]:
    """Contents by name; of what is no file, what it is."""
    return {
        str(path.relative_to(root)): path.read_bytes() if _is_plain(path) else "no plain file"
        for path in root.rglob("*")
    }


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


_VALUES = (
    *("-1", "0", "1", "2", "3", "7", "-0.5", "0.5", "1.5", "nan", "inf", "-inf", "1e300"),
    *("true", "false", '""', '"x"', '"none"', '"cuda:99"', '"../x"', '"ü"', "[]", "[1]", "{}"),
    *("[32, 32]", "[64, 64]", "[0, 0]", "[-32, 32]", "[1, 2, 3]", '["x"]', '["floor", "floor"]'),
    *("{lamp = 2}", "{lamp = -1}", "{nobody = 1}", "1979-05-27", "9223372036854775808", "4096"),
)


def bend_config(rng: random.Random, path: Path) -> Bend:
    """Bend one line, or some bytes, of a config file."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    fields = [number for number, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    number, kind = rng.choice(fields), rng.randrange(8)
    key, told = lines[number].split(" = ")[0], ""
    names: tuple[str, ...] = (key,)
    if kind < 5:
        # A value over several lines keeps its brackets: broken TOML, which names the file.
        value = rng.choice(_VALUES)
        lines[number] = f"{key} = {value}"
        told, names = lines[number], (key, path.name)
        if key == "root":
            names = *names, f"in {value.strip(chr(34))}:"
    elif kind == 5:
        lines[number] = f"{key}_{rng.choice('xyz')} = 1"
        told, names = f"unknown key {lines[number]}", (key, path.name)
    elif kind == 6:
        lines.insert(number, lines[number])
        told, names = f"twice: {lines[number]}", (path.name, key)
    if kind < 7:
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return Bend(f"{path.name}: {told}", names)
    act = rng.choice(sorted(BYTES))
    BYTES[act](rng, path)
    # Whatever was hit, the file is named, or a key that it held before.
    return Bend(f"{path.name}: {act}", (path.name, *re.findall(r"(\w+) = ", text)))
