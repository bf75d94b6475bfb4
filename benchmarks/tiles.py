"""How far masks by tiles are from those of frames seen whole: everywhere, and near the seams.

    python -m benchmarks.tiles RUN DATA [--tile 512,512] [--scales 1,1.25 --flip] [--mosaics 4]

Frames large enough are mosaics of DATA's test images. Seams are the pixels that two tiles of a view
have a say in. That there is more disagreement at seams than elsewhere is said where the mean
difference over mosaics is above twice its standard error.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from engine.trained import add_sight, choose_runs, open_system, read_sight


def main() -> None:
    """Print one line a mosaic and one for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--mosaics", type=int, default=4)
    parser.add_argument("--grid", type=int, default=12, help="images a side of a mosaic")
    add_sight(parser)
    options = parser.parse_args()
    import numpy as np

    from benchmarks.seams import disagreement, mosaic
    from engine.frames.reading import Reading
    from engine.runtime.device import set_up_device
    from engine.views.tiles import Tiled

    sight = replace(read_sight(options), tile=read_sight(options).tile or "auto", size="own")
    chosen = choose_runs([options.run], sight, options.fold)
    config = chosen[0].config
    policy = set_up_device(config.runtime)
    tiled = open_system(chosen, sight, policy)
    assert isinstance(tiled, Tiled), "asked for"
    found = []
    for seed in range(options.mosaics):
        frames = mosaic(options.data, options.grid, seed, Reading.of(config.data), policy.device)
        found.append(disagreement(tiled, frames, config.inference.scales))
        print(f"{frames.hw[0]} x {frames.hw[1]}: {_line(found[-1])}", flush=True)
    shares = np.array(found)
    excess = shares[:, 1] - shares[:, 2]
    error = excess.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.nan
    hw = "{} x {}".format(*tiled.tile.hw)
    print(f"tiles of {hw}, overlap {tiled.tile.overlap:g}: {_line(shares.mean(axis=0))}")
    print(f"more at seams by {100 * excess.mean():+.2f} % of pixels, +- {200 * error:.2f}")


def _line(shares: Iterable[float]) -> str:
    everywhere, seam, rest = (f"{100 * share:.2f}" for share in shares)
    return f"{everywhere} % of pixels differ, at seams {seam}, elsewhere {rest}"


if __name__ == "__main__":
    main()
