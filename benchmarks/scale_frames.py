"""Very many small frames, written fast: each picture differs, and a walk through rooms is in them.

N: frames. H W: pixels.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

HW = (24, 32)
"""Pixels of a frame: 2 KB in three files."""

_ROOM = 20
"""Frames of one room, which follow each other in the numbering; then a gap."""

_SHIFT = 4
"""Pixels that the camera turns from one frame to the next."""

_TEST = 10
"""Training frames for each test frame."""


def write_frames(root: Path, count: int, classes: int = 13) -> None:
    """Write a dataset of `count` training frames, and a tenth as many to be tested, to `root`.

    A room is a wide random picture that a camera pans over, with noise of its own in each frame.
    """
    for split, kinds in (("train", ("image", "depth", "label")), ("test", ("image", "depth"))):
        frames = count if split == "train" else max(1, count // _TEST)
        for kind in kinds:
            (root / split / kind).mkdir(parents=True)
        for room in range(-(-frames // _ROOM)):
            _write_room(root / split, kinds, room, min(_ROOM, frames - room * _ROOM), classes)


def _write_room(folder: Path, kinds: tuple[str, ...], room: int, frames: int, classes: int) -> None:
    drawn = np.random.default_rng((room, len(kinds)))
    height, width = HW[0], HW[1] + _SHIFT * _ROOM
    cells_HW3 = drawn.integers(0, 256, (height // 4, -(-width // 4), 3), np.uint8)
    wall_HW3 = cells_HW3.repeat(4, axis=0).repeat(4, axis=1)
    label_HW = drawn.integers(0, classes, (height // 4, -(-width // 4)), np.uint8)
    label_HW = label_HW.repeat(4, axis=0).repeat(4, axis=1)
    for number in range(frames):
        stem, left = f"{room * (_ROOM + 5) + number:08d}", number * _SHIFT
        noise_HW3 = drawn.integers(-8, 9, (*HW, 3))
        seen = slice(left, left + HW[1])
        image_HW3 = np.clip(wall_HW3[:, seen] + noise_HW3, 0, 255).astype(np.uint8)
        depth_HW = (1000 + 10 * wall_HW3[:, seen, 0].astype(np.uint16)).astype(">u2")
        label = np.ascontiguousarray(label_HW[:, seen])
        contents = {
            "image": (simplejpeg.encode_jpeg(image_HW3, quality=90), "jpg"),
            "depth": (_png(depth_HW.view(np.uint8).reshape(height, -1), 16), "png"),
            "label": (_png(label, 8), "png"),
        }
        for kind in kinds:
            content, ending = contents[kind]
            (folder / kind / f"{stem}.{ending}").write_bytes(content)


def _png(rows_HB: NDArray[np.uint8], bits: int) -> bytes:
    """A grey PNG of (H, bytes of a row), whose pixels are hardly packed."""
    width = rows_HB.shape[1] * 8 // bits
    head = struct.pack(">IIBBBBB", width, len(rows_HB), bits, 0, 0, 0, 0)
    content = np.pad(rows_HB, ((0, 0), (1, 0))).tobytes()
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(content, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks
    )
