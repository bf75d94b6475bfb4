"""How far up, as depth alone tells it, is from what NYU Depth v2 publishes of its cameras.

python -m benchmarks.gravity DATA/train camera_rotations_NYU.txt
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.config import DataConfig

_ENDS = 50, 90, 100
"""Percentiles of the angles."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the angles over the frames of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="has depth/NNNNNN.png, by index of the .mat file")
    parser.add_argument("rotations", type=Path, help="camera_rotations_NYU.txt")
    options = parser.parse_args(arguments)
    from engine.data.surface import Surface, upwards

    paths = sorted((options.folder / "depth").glob("*.png"))
    up_N3 = published_up(options.rotations)[[int(path.stem) for path in paths]]
    found, took_s = [], 0.0
    surface = Surface.of("hha", DataConfig())
    for path in paths:
        depth_HW = np.asarray(Image.open(path)).astype(np.uint16)
        start_s = time.process_time()
        found.append(upwards(surface.fitted(depth_HW)[1]))
        took_s += time.process_time() - start_s
    for name, up in (("depth alone", np.array(found)), ("the camera's own up", (0.0, -1.0, 0.0))):
        angle_N = angles(np.broadcast_to(up, up_N3.shape), up_N3)
        told = ", ".join(f"{e} %: {np.percentile(angle_N, e):.2f}" for e in _ENDS)
        print(f"{name}: degrees from the published direction, {told}; {len(paths)} frames")
    print(f"{1000 * took_s / len(paths):.1f} ms of a core a frame")
    return 0


def published_up(path: Path) -> NDArray[np.float64]:
    """(N, 3) unit vectors x right, y down, z ahead; a file's axes are x right, y ahead, z up."""
    return np.loadtxt(path).reshape(-1, 3, 3)[:, 2, [0, 2, 1]] * (1, -1, 1)


def angles(one_N3: NDArray[np.float64], other_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) degrees between unit vectors."""
    cosine_N: NDArray[np.float64] = (one_N3 * other_N3).sum(axis=1).clip(-1, 1)
    return np.degrees(np.arccos(cosine_N))


if __name__ == "__main__":
    raise SystemExit(main())
