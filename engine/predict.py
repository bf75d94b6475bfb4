"""python -m engine.predict: a trained run and a folder of images -> 8-bit grey PNG masks."""

import logging
from collections.abc import Sequence
from pathlib import Path

from engine.command import run_main
from engine.config import Config
from engine.lease import Place, hold, look
from engine.mistakes import ConfigError
from engine.rundir import RunDir, changed_config, load_run, refuse_unfinished
from engine.suggest import Parser
from engine.verbs import program

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and predict; returns the exit code."""
    parser = Parser(
        prog=program("predict"),
        description="Predict a mask for every image of a folder with all folds of a trained run: "
        "8-bit grey PNG of the image's size, pixel value = class index.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder of engine.train")
    add("images", type=Path, metavar="FOLDER", help="folder of JPEG, PNG, TIFF, BMP or WebP images")
    maps = "folder of 16-bit PNG or TIFF depth maps in the run's unit, joined by stem "
    add("--depth", type=Path, help=f"{maps}(default, where the run needs it: FOLDER/../depth)")
    add("--out", type=Path, help="folder for the masks (default: RUN/masks/ + FOLDER's name)")
    both = "write the masks in the colours of their classes too, into the folder colours of --out"
    add("--colours", action="store_true", help=both)
    add("--device", help="auto | cpu | cuda | cuda:N (default: the run's)")
    networks = "what runs the networks (default: the run's)"
    add("--runtime", choices=("torch", "openvino", "openvino-int8"), help=networks)
    options = parser.parse_args(arguments)
    run = RunDir(options.run)
    asked = {"device": options.device, "inference": options.runtime}
    config = load_run(run, {"runtime": {name: value for name, value in asked.items() if value}})
    refuse_unfinished(run, run.temperature)
    if changed_config(run.root) is not None:
        from engine.selection.members import refuse_other_config

        refuse_other_config(config, run)
    out = options.out or options.run / "masks" / options.images.resolve().name
    for given, folder in (("FOLDER", options.images), ("--depth", options.depth)):
        if folder is not None and out.resolve() == folder.resolve():
            told = "masks would replace its files; choose another folder"
            raise ConfigError(f"--out {out} is {given}: {told}")
    look(_masks(out))
    predict(config, run, options.images, options.depth, out, colours=options.colours)
    return 0


def predict(
    config: Config, run: RunDir, images: Path, depth: Path | None, out: Path, *, colours: bool
) -> None:
    """Write one mask a frame of the folder `images` into `out`, under the same stems.

    A network that takes depth finds it in the folder `depth`, None being the one beside `images`.
    With `colours` each is also written as an indexed-colour PNG. Raises DatasetError, which names
    every file that cannot be used, and FileNotFoundError for a fold's weights.
    """
    from engine.early import check_predict

    if config.model.needs_depth:
        depth = depth or images.resolve().parent / "depth"
    elif depth is not None:
        _log.info("%s sees RGB only; --depth is not needed", run.root)
        depth = None
    check_predict(config, run, images, depth, out)
    from engine.frames.index import load_frames
    from engine.frames.reading import Reading
    from engine.rehearsal import check_views
    from engine.runtime.device import set_up_device
    from engine.runtime.progress import track, track_total
    from engine.selection.records import TemperatureChoice
    from engine.views.pictures import write_coloured, write_mask
    from engine.views.predictor import open_predictor

    with track_total("checking files") as progress:
        samples = load_frames(
            images,
            depth,
            reading=Reading.of(config.data),
            workers=config.runtime.workers,
            progress=progress,
        )
    policy = set_up_device(config.runtime)
    check_views(config, samples, policy.device)
    temperature = TemperatureChoice.read(run.temperature).best
    predictor = open_predictor(config, run, range(config.data.folds), policy).at(temperature)
    with hold(_masks(out)), track("masks", len(samples)) as advance:
        for first, mask_BHW in predictor.masks(samples):
            for sample, mask_HW in zip(samples[first:], mask_BHW, strict=False):
                write_mask(out / f"{sample.stem}.png", mask_HW)
                if colours:
                    write_coloured(out / "colours" / f"{sample.stem}.png", mask_HW)
            advance(len(mask_BHW))
    _log.info("%d masks in %s (T = %g)", len(samples), out, temperature)


def _masks(out: Path) -> Place:
    return Place(out, "masks", str(out), (out,))


if __name__ == "__main__":
    run_main(main)
