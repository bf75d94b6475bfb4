"""python -m engine.predict: trained runs and images -> masks, pictures, probabilities."""

import logging
from collections.abc import Sequence
from pathlib import Path

from engine.command import run_main
from engine.lease import Place, hold, look
from engine.mistakes import ConfigError
from engine.suggest import Parser
from engine.trained import Sight, TrainedRun, add_sight, choose_runs, read_sight
from engine.verbs import program

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.predict")

KINDS = ("masks", "colour", "overlay", "probabilities", "confidence")
"""What can be written; see `engine.views.outputs`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and predict; returns the exit code."""
    parser = Parser(
        prog=program("predict"),
        description="Predict a mask for images with all folds of a trained run, with several runs "
        "that count alike, or with a blend by its weights: 8-bit grey PNG of the image's size, "
        "pixel value = class index.",
    )
    add = parser.add_argument
    runs = "run folders of engine.train, or one of engine.blend"
    add("runs", type=Path, nargs="+", metavar="RUN", help=runs)
    what = "a folder of JPEG, PNG, TIFF, BMP or WebP images, one image, or a list: .txt, a path a "
    what += "line, relative to its folder; or a dataset in shards"
    add("images", type=Path, metavar="IMAGES", help=what)
    maps = "folder of 16-bit PNG or TIFF depth maps in the run's unit, joined by stem, or the map "
    maps += "of one image (default, where the run needs them: depth, beside the image's folder)"
    add("--depth", type=Path, help=maps)
    add("--out", type=Path, help="folder for the masks (default: RUN/masks/ + IMAGES' name)")
    written = f"what to write, of {', '.join(KINDS)} (default: masks)"
    add("--save", default="", metavar="KIND,...", help=written)
    add("--colours", action="store_true", help="the same as --save masks,colour")
    add_sight(parser)
    options = parser.parse_args(arguments)
    roots, images = options.runs, options.images
    kinds = _kinds(options.save, colours=options.colours)
    sight = read_sight(options)
    chosen = choose_runs(roots, sight, options.fold)
    name = images.resolve().name if images.is_dir() else images.stem
    out = options.out or roots[0] / "masks" / name
    look(_masks(out))
    predict(chosen, sight, images, options.depth, out, kinds)
    return 0


def predict(
    chosen: Sequence[TrainedRun],
    sight: Sight,
    images: Path,
    depth: Path | None,
    out: Path,
    kinds: frozenset[str],
) -> None:
    """Write what is wanted of each frame into `out`, under the frames' stems.

    Args:
        chosen: what looks at them, of `choose_runs`.
        sight: how.
        images: a folder, an image or a list of images.
        depth: where depth maps are, if the networks need them; None = beside the images' folders.
        out: the folder; made if need be.
        kinds: of `KINDS`.

    Raises:
        ConfigError: there are no images or no depth maps, or memory holds no such view.
        DatasetError: naming every file that cannot be used.
    """
    from engine.early import check_out
    from engine.frames.asked import list_asked
    from engine.frames.faults import DatasetError

    need_depth = any(one.config.needs_depth for one in chosen)
    if depth is not None and not need_depth:
        _log.info("%s sees RGB only; --depth is not needed", _named(chosen))
    check_out(out)
    asked = list_asked(images, depth, need_depth=need_depth)
    if asked.faults or not asked.frames:
        raise DatasetError(asked.root, asked.faults)
    for kind, path in ((kind, p) for files in asked.frames for kind, p in files.present.items()):
        if path.parent.resolve() == out.resolve():
            told = "masks would replace its files; choose another folder"
            raise ConfigError(f"--out {out} is the folder of {kind} {path.name}: {told}")
    from engine.frames.index import load_frames
    from engine.frames.reading import Reading
    from engine.rehearsal import check_views
    from engine.runtime.device import set_up_device
    from engine.runtime.progress import duration, track, track_total
    from engine.trained import open_system, seen_config
    from engine.views.outputs import Outputs
    from kernels.compiling import work_s

    # Whoever sees depth says what its values stand for.
    first = next((one for one in chosen if one.config.needs_depth), chosen[0]).config
    reading = Reading.of(first.data)
    with track_total("checking files") as progress:
        samples = load_frames(
            asked, reading=reading, workers=first.runtime.workers, progress=progress
        )
    policy = set_up_device(first.runtime)
    for one in chosen:
        check_views(seen_config(one, sight), samples, policy.device)
    system = open_system(chosen, sight, policy)
    done, start_s = 0, work_s()
    with hold(_masks(out)), track("images", len(samples)) as advance:
        for count in Outputs(out, kinds).write(system, samples):
            done += count
            advance(count, f"{done / max(work_s() - start_s, 1e-9):.3g} images/s")
    took_s = work_s() - start_s
    temperatures = " ".join(dict.fromkeys(f"{one.temperature:g}" for one in chosen))
    told = "%d images in %s, %.3g images/s; %s in %s (%s, T = %s)"
    rate, written = len(samples) / max(took_s, 1e-9), ", ".join(k for k in KINDS if k in kinds)
    _log.info(
        told, len(samples), duration(took_s), rate, written, out, _named(chosen), temperatures
    )


def _kinds(save: str, *, colours: bool) -> frozenset[str]:
    named = [word.strip() for word in save.split(",") if word.strip()]
    if unknown := [word for word in named if word not in KINDS]:
        raise ConfigError(f"--save {unknown[0]}: there are {', '.join(KINDS)}")
    return frozenset(named or ["masks"]) | ({"colour"} if colours else frozenset())


def _named(chosen: Sequence[TrainedRun]) -> str:
    """What looks at the frames, in words."""
    networks = sum(len(one.folds) for one in chosen)
    if len(chosen) == 1:
        return f"{chosen[0].run.root}, {networks} {'network' if networks == 1 else 'networks'}"
    return f"{len(chosen)} runs, {networks} networks"


def _masks(out: Path) -> Place:
    return Place(out, "masks", str(out), (out,))


if __name__ == "__main__":
    run_main(main)
