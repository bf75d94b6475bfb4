"""Files with the structure of nyu_depth_v2_labeled.mat, splits.mat and the class tables.

python -m tests.bring.official_file FILE.mat FRAMES    one of 480 x 640, chunks written where needed
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from engine.bring.nyuv2_tables import published_tables

USERBLOCK = 512
HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Feb 18 2012 HDF5 schema 1.00 ."


def scene_of(number: int) -> str:
    return f"{('kitchen', 'bedroom', 'study')[number // 5 % 3]}_{number // 5:04d}"


def write(
    path: Path,
    frames: int,
    hw: tuple[int, int] = (24, 32),
    *,
    chunk: int = 3,
    names: Sequence[str] | None = None,
    written: Sequence[int] | None = None,
) -> None:
    """A file of so many frames; axes stand in reverse, texts are references.

    Only frames that are `written` take room: what no chunk was written of reads as zeros.
    """
    height, width = hw
    rng = np.random.default_rng(0)
    with h5py.File(path, "w", userblock_size=USERBLOCK) as file:
        how = {"compression": "gzip", "compression_opts": 1}

        def array(name: str, shape: tuple[int, ...], kind: str) -> h5py.Dataset:
            chunks = (min(chunk, frames), *shape)
            return file.create_dataset(name, (frames, *shape), kind, chunks=chunks, **how)

        images = array("images", (3, width, height), "u1")
        depths = array("depths", (width, height), "f4")
        raw = array("rawDepths", (width, height), "f4")
        labels = array("labels", (width, height), "u2")
        for number in range(frames) if written is None else written:
            images[number] = rng.integers(0, 256, (3, width, height), np.uint8)
            depth = rng.uniform(0.7, 10, (width, height)).astype(np.float32)
            depths[number] = depth
            depth[rng.random(depth.shape) < 0.2] = 0
            raw[number] = depth
            # Large areas of few labels, as in a room, the unlabelled among them, and the last.
            coarse = rng.choice([0, 0, 1, 5, 11, 21, 255, 256, 894, *rng.integers(1, 895, 4)], 12)
            labels[number] = coarse.reshape(4, 3).repeat(width // 4, 0).repeat(height // 3, 1)
        references = file.create_group("#refs#")
        _texts(file, references, "names", published_tables().names if names is None else names)
        _texts(file, references, "scenes", [scene_of(number) for number in range(frames)])
    with path.open("r+b") as stream:
        stream.write(HEADER)


def write_splits(path: Path, trains: Sequence[int], tests: Sequence[int]) -> None:
    """In the old format; numbers count from 1."""
    column = {"trainNdxs": trains, "testNdxs": tests}
    scipy.io.savemat(path, {key: np.array(n, np.uint16)[:, None] for key, n in column.items()})


def _texts(file: h5py.File, references: h5py.Group, name: str, texts: Sequence[str]) -> None:
    cells = file.create_dataset(name, (1, len(texts)), h5py.ref_dtype)
    for number, text in enumerate(texts):
        units = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
        one = references.create_dataset(f"{name}{number}", data=units)
        one.attrs["MATLAB_class"] = b"char"
        cells[0, number] = one.ref


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), (480, 640), chunk=16)
