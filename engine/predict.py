"""python -m engine.predict: a trained run and a folder of images -> indexed-colour PNG masks."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli import ConfigError, run_main
from engine.config import Config
from engine.identity import load_run
from engine.rundir import RunDir, whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and predict; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.predict",
        description="Predict a mask for every image of a folder with all folds of a trained run: "
        "8-bit PNG of the image's size, pixel value = class index, class colours as palette.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of engine.train")
    parser.add_argument("images", type=Path, metavar="FOLDER", help="folder of .jpg or .png images")
    parser.add_argument(
        "--depth",
        type=Path,
        help="folder of 16-bit PNG depth maps, millimetres, joined by stem "
        "(default, where the run needs it: FOLDER/../depth)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the masks (default: RUN/masks/ + FOLDER's name)"
    )
    parser.add_argument("--device", help="auto | cpu | cuda | cuda:N (default: the run's)")
    parser.add_argument(
        "--runtime",
        choices=("torch", "openvino"),
        help="what runs the networks (default: the run's)",
    )
    options = parser.parse_args(arguments)
    run = RunDir(options.run)
    flags: dict[str, dict[str, str]] = {}
    if options.device:
        flags.setdefault("runtime", {})["device"] = options.device
    if options.runtime:
        flags.setdefault("runtime", {})["inference"] = options.runtime
    config = load_run(run, flags)
    if not run.temperature.exists():
        raise ConfigError(f"{options.run} is not finished; complete it with engine.train first")
    out = options.out or options.run / "masks" / options.images.resolve().name
    predict(config, run, options.images, options.depth, out)
    return 0


def predict(config: Config, run: RunDir, images: Path, depth: Path | None, out: Path) -> None:
    """Write one mask a frame into `out`.

    Args:
        config: the run's.
        run: a finished run.
        images: folder of images.
        depth: folder of depth maps; used if the run's network takes depth.
        out: created; masks are named after the images' stems.

    Raises:
        DatasetError: a file cannot be used; names every such file.
        FileNotFoundError: the run lacks a fold's weights.
    """
    from engine.frames.index import load_frames
    from engine.runtime.device import set_up_device
    from engine.runtime.progress import track, track_total
    from engine.selection.scores import TemperatureChoice
    from engine.views.predictor import open_predictor

    if config.model.needs_depth:
        depth = depth or images.resolve().parent / "depth"
    elif depth is not None:
        _log.info("%s sees RGB only; --depth is not needed", run.root)
        depth = None
    with track_total("checking files") as progress:
        samples = load_frames(images, depth, workers=config.runtime.workers, progress=progress)
    policy = set_up_device(config.runtime)
    temperature = TemperatureChoice.read(run.temperature).best
    predictor = open_predictor(config, run, range(config.data.folds), policy).at(temperature)
    masks = predictor.masks(samples)
    with track("masks", len(samples)) as advance:
        for first, mask_BHW in masks:
            for offset, mask_HW in enumerate(mask_BHW):
                _write_mask(out / f"{samples[first + offset].stem}.png", mask_HW)
            advance(len(mask_BHW))
    _log.info("%d masks in %s (T = %g)", len(samples), out, temperature)


def _write_mask(path: Path, mask_HW: "NDArray[np.uint8]") -> None:
    from PIL import Image

    from engine.nyuv2 import PALETTE

    image = Image.fromarray(mask_HW, mode="L")
    image = image.convert("P")
    image.putpalette([value for colour in PALETTE for value in colour])
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")


if __name__ == "__main__":
    run_main(main)
