"""python -m engine.predict: a trained run and a folder of images -> indexed-colour PNG masks."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from engine.command import run_main
from engine.config import Config
from engine.lease import Place, hold, look
from engine.mistakes import ConfigError
from engine.rundir import RunDir, load_run, whole_file

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
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder of engine.train")
    add("images", type=Path, metavar="FOLDER", help="folder of .jpg or .png images")
    maps = "folder of 16-bit PNG depth maps, millimetres, joined by stem "
    add("--depth", type=Path, help=f"{maps}(default, where the run needs it: FOLDER/../depth)")
    add("--out", type=Path, help="folder for the masks (default: RUN/masks/ + FOLDER's name)")
    add("--device", help="auto | cpu | cuda | cuda:N (default: the run's)")
    networks = "what runs the networks (default: the run's)"
    add("--runtime", choices=("torch", "openvino"), help=networks)
    options = parser.parse_args(arguments)
    run = RunDir(options.run)
    asked = {"device": options.device, "inference": options.runtime}
    config = load_run(run, {"runtime": {name: value for name, value in asked.items() if value}})
    if not run.temperature.exists():
        raise ConfigError(f"{options.run} is not finished; complete it with engine.train first")
    out = options.out or options.run / "masks" / options.images.resolve().name
    look(_masks(out))
    predict(config, run, options.images, options.depth, out)
    return 0


def predict(config: Config, run: RunDir, images: Path, depth: Path | None, out: Path) -> None:
    """Write one mask a frame of the folder `images` into `out`, under the same stems.

    A network that takes depth finds it in the folder `depth`, None being the one beside `images`.
    Raises DatasetError, which names every file that cannot be used, and FileNotFoundError for a
    fold's weights.
    """
    from PIL import Image

    from engine.frames.index import load_frames
    from engine.nyuv2 import PALETTE
    from engine.runtime.device import set_up_device
    from engine.runtime.progress import track, track_total
    from engine.selection.records import TemperatureChoice
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
    colours = [value for colour in PALETTE for value in colour]
    with hold(_masks(out)), track("masks", len(samples)) as advance:
        for first, mask_BHW in predictor.masks(samples):
            for sample, mask_HW in zip(samples[first:], mask_BHW, strict=False):
                image = Image.fromarray(mask_HW, mode="L").convert("P")
                image.putpalette(colours)
                with whole_file(out / f"{sample.stem}.png") as temporary:
                    image.save(temporary, format="PNG")
            advance(len(mask_BHW))
    _log.info("%d masks in %s (T = %g)", len(samples), out, temperature)


def _masks(out: Path) -> Place:
    return Place(out, "masks", str(out), (out,))


if __name__ == "__main__":
    run_main(main)
