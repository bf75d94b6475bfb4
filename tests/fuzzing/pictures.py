"""What can be done to a picture of a data folder, by name."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzzing.files import Act


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
