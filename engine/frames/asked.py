"""What a command is asked to look at: a folder of images, one image, a list, or shards.

Nothing is read here but a list, and nothing loaded that takes long.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.frames.dataset import SHARDS
from engine.frames.decode import FrameFiles
from engine.frames.files import FrameList
from engine.frames.index import Asked, list_frames
from engine.frames.kinds import KINDS, Fault
from engine.frames.labelled import with_labels
from engine.frames.scenes import read_scenes
from engine.mistakes import ConfigError

_log = logging.getLogger(__name__)

LIST_SUFFIX = ".txt"
"""Of a list: a path a line, relative to the list's folder."""


def list_asked(images: Path, depth: Path | None, *, need_depth: bool, quiet: bool = False) -> Asked:
    """List the frames of a folder, an image or a list of images, or of a dataset in shards.

    Of shards those of `test` are taken, of `train` where there are none, which is told.

    Args:
        images: which of these it is, the file system and the name's ending say.
        depth: where the depth maps are: a folder, joined by stem, or the map of a lone image. None:
            beside each image's folder, in `depth`.
        need_depth: whether maps are looked for.
        quiet: tell nothing of what is passed over.

    Raises:
        ConfigError: it is none of the three, or there are no depth maps where they are needed.
    """
    if (images / SHARDS).is_file():
        return _in_shards(images, depth, need_depth=need_depth, labelled=False, quiet=quiet)
    if images.is_dir():
        return _folder(images, depth, need_depth=need_depth, quiet=quiet)
    if not images.is_file():
        raise ConfigError(f"{images}: no such folder or file; give {_NEEDED}")
    if images.suffix.lower() == LIST_SUFFIX:
        paths = _listed(images)
    elif images.suffix.lower() in KINDS["image"].suffixes:
        paths = [Path(os.path.normpath(images.absolute()))]
    else:
        raise ConfigError(f"{images} is none of these; give {_NEEDED}")
    stems = _stems(paths)
    if same := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise ConfigError(f"{images}: two masks would be called {same[0]}; list them apart")
    maps = [_map_of(path, depth) for path in paths] if need_depth else [None] * len(paths)
    if need_depth and depth is not None and len({path.stem for path in paths}) < len(paths):
        raise ConfigError(
            f"images of {images} share their stems, so --depth {depth} cannot tell their maps "
            "apart; leave it out and put the maps beside each folder of images, in depth"
        )
    if need_depth and depth is not None and depth.is_file() and len(paths) > 1:
        raise ConfigError(f"--depth {depth} is one map for {len(paths)} images; give a folder")
    if need_depth and not any(maps):
        raise _no_depth(depth or paths[0].parent.parent / "depth")
    frames = [
        FrameFiles(stem, path, found, None)
        for stem, path, found in zip(stems, paths, maps, strict=True)
    ]
    root = Path(os.path.commonpath([path.parent for path in (*paths, *filter(None, maps))]))
    faults = [
        Fault(path.relative_to(root).as_posix(), "no such file", "an image")
        for path in paths
        if not path.is_file()
    ]
    faults += [
        Fault(path.relative_to(root).as_posix(), "no depth map", f"{path.stem}.png in {where}")
        for path, found in zip(paths, maps, strict=True)
        if need_depth and found is None
        for where in [depth or path.parent.parent / "depth"]
    ]
    return Asked(images, root, sorted(frames, key=lambda files: files.stem), faults)


def list_labelled(data: Path, depth: Path | None, *, need_depth: bool) -> Asked:
    """List the labelled frames of a folder with `image` and `label`, or of a dataset, or shards.

    Of a dataset, those of `test` if it has labels, else of `train`. Frames without a label are
    passed over, which is told. Depth maps are taken where they are.

    Raises:
        ConfigError: there are no labelled frames, or no depth maps where they are needed.
    """
    if (data / SHARDS).is_file():
        return _in_shards(data, depth, need_depth=need_depth, labelled=True)
    places = [data, data / "test", data / "train"]
    there = [place for place in places if all((place / k).is_dir() for k in ("image", "label"))]
    if not there:
        raise ConfigError(
            f"{data} holds no labelled frames; give a folder with image and label in it, or a "
            "dataset whose test or train has them"
        )
    place = there[0]
    if place != data:
        _log.info("%s: scored are the frames of %s", data, place.name)
    maps = depth or place / "depth"
    if need_depth and not maps.is_dir():
        raise _no_depth(maps)
    asked = list_frames(place / "image", maps if maps.is_dir() else None)
    folder = (place / "label").resolve()
    frames = with_labels(folder, asked.frames, "they are scored")
    labelled = [files for files in frames if files.label is not None]
    if not labelled:
        raise ConfigError(f"{place / 'label'} holds no label of an image in {place / 'image'}")
    root, faults = Path(os.path.commonpath([asked.root, folder.parent])), asked.faults
    scenes = dict[str, str]()
    # That of a dataset stands above its parts.
    is_part = place.resolve().name in ("train", "test")
    for above in (place, place.resolve().parent)[: 1 + is_part]:
        if not scenes and os.path.lexists(above / "scenes.csv"):
            scenes = read_scenes(above / "scenes.csv", faults)
    return Asked(place, root, labelled, faults, scenes)


_NEEDED = "a folder of images, an image, a list of them (.txt, a path a line), or shards"


def _folder(images: Path, depth: Path | None, *, need_depth: bool, quiet: bool) -> Asked:
    if not need_depth:
        return list_frames(images, quiet=quiet)
    depth = depth or images.resolve().parent / "depth"
    if not depth.is_dir():
        raise _no_depth(depth)
    return list_frames(images, depth, quiet=quiet)


def _in_shards(
    data: Path, depth: Path | None, *, need_depth: bool, labelled: bool, quiet: bool = False
) -> Asked:
    """The frames of a dataset in shards, those that are `labelled` with their labels."""
    if depth is not None:
        raise ConfigError(f"{data} is in shards, and so are its depth maps; leave out --depth")
    from engine.frames.shards import list_shards

    lists, faults = list_shards(data), list[Fault]()
    split = next((one for one in ("test", "train") if _taken(lists[one], labelled=labelled)), "")
    if not split:
        what = "labelled frames" if labelled else "frames"
        raise ConfigError(f"{data} holds no {what}; give a dataset that has some")
    frames = [files for files in lists[split] if files.label or not labelled]
    if not quiet:
        use = "scored" if labelled else "predicted"
        _log.info("%s: %s are the %d frames of %s in shards", data, use, len(frames), split)
        if passed := len(lists[split]) - len(frames):
            _log.info("%s: %d frames of %s have no label and are passed over", data, passed, split)
    if need_depth and not any(files.depth for files in frames):
        raise ConfigError(f"the run sees depth, and the shards of {data} hold no depth maps")
    for files in frames if need_depth else ():
        if files.depth is None and files.image is not None:
            name = files.image.relative_to(data).as_posix()
            faults.append(Fault(name, "no depth map", "one in the shards; pack them again"))
    if not labelled:
        frames = [replace(f, depth=f.depth if need_depth else None, label=None) for f in frames]
    scenes = dict[str, str]()
    if labelled and os.path.lexists(data / "scenes.csv"):
        scenes = read_scenes(data / "scenes.csv", faults)
    return Asked(data, data, frames, faults, scenes)


def _taken(frames: FrameList, *, labelled: bool) -> int:
    return frames.count("label") if labelled else len(frames)


def _no_depth(where: Path) -> ConfigError:
    return ConfigError(
        f"the run sees depth, and there are no depth maps at {where}; name their folder: --depth "
        "FOLDER (16-bit PNG or TIFF in the run's unit, joined by stem)"
    )


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no list of paths: it is not UTF-8 text ({error})") from error
    folder = path.absolute().parent
    paths = [Path(os.path.normpath(folder / line.strip())) for line in lines if line.strip()]
    if not paths:
        raise ConfigError(f"{path} lists no image; give a path a line")
    twice = [str(one) for one, count in Counter(paths).items() if count > 1]
    if twice:
        raise ConfigError(f"{path} lists {twice[0]} twice; list each image once")
    return paths


def _stems(paths: Sequence[Path]) -> list[str]:
    """A name for each: its stem, behind those of its folders where others have the same.

    Images of one folder that differ in their endings keep these.
    """
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    root = Path(os.path.commonpath([path.parent for path in paths]))
    below = [path.relative_to(root) for path in paths]
    stems = ["_".join(path.with_suffix("").parts) for path in below]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    return [
        "_".join(path.parts) if stem in shared else stem
        for path, stem in zip(below, stems, strict=True)
    ]


def _map_of(image: Path, depth: Path | None) -> Path | None:
    if depth is not None and depth.is_file():
        return depth.absolute()
    folder = depth.absolute() if depth else image.parent.parent / "depth"
    found = (folder / f"{image.stem}{ending}" for ending in KINDS["depth"].suffixes)
    return next((path.absolute() for path in found if path.is_file()), None)
