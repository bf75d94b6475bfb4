"""What is odd or wrong with the folders of a dataset; entered only where something is."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.exits import is_typed
from engine.frames.decode import FrameFiles
from engine.frames.files import files_in
from engine.frames.kinds import KINDS, Fault
from engine.frames.told import some_names


def images_apart(
    frames: Sequence[FrameFiles], images: Sequence[Path], tell: Callable[[str], None] | None
) -> list[FrameFiles]:
    """Frames to predict, of which several have one stem: each of these under its full name.

    They share the depth map of their stem. `images` are all that there are; a line goes to `tell`.
    """
    of_stem = defaultdict[str, list[Path]](list)
    for path in images:
        of_stem[path.stem].append(path)
    apart, alike = [], []
    for files in frames:
        same = of_stem[files.stem]
        if len(same) > 1:
            alike += [replace(files, stem=path.name, image=path) for path in same]
        else:
            apart.append(files)
    names = [files.stem for files in alike]
    if tell:
        shown = some_names([f"{name}.png" for name in names])
        tell(f"{len(names)} images share their stems with others and keep their endings: {shown}")
    if {files.stem for files in apart} & set(names):  # a.png.jpg beside a.png and a.tif
        apart = [replace(files, stem=files.image.name) for files in apart if files.image]
    return sorted([*apart, *alike], key=lambda files: files.stem)


def listing_faults(
    root: Path, folders: Mapping[str, Path], frames: Sequence[FrameFiles], *, strays: bool
) -> list[Fault]:
    """What keeps the frames of some folders, by kind, from being complete and all there is.

    Args:
        root: what names in faults are relative to.
        folders: what was listed; hidden and system files do not count.
        frames: those that were found in them.
        strays: whether files of other types are no faults.
    """
    faults = []
    for kind, folder in folders.items():
        name = folder.relative_to(root).as_posix()
        taken = {files.stem: files.present[kind] for files in frames if kind in files.present}
        faults += _folder_faults(name, folder, kind, taken, strays)
        # An empty folder is one fault by itself, not one for every frame.
        for files in frames if taken else ():
            if files.stem not in taken:
                partner = next(iter(files.present.values())).relative_to(root).as_posix()
                file = f"{name}/{files.stem}{next(iter(taken.values())).suffix}"
                faults.append(Fault(file, "no such file", f"the {kind} of {partner}"))
    return faults


def _folder_faults(
    name: str, folder: Path, kind: str, taken: Mapping[str, Path], strays: bool
) -> list[Fault]:
    """What is in one folder besides the files that were taken, by stem, or that nothing is."""
    suffixes, faults = KINDS[kind].suffixes, []
    endings = " or ".join(suffixes)
    needed = f"a folder of {endings} files"
    try:
        if not folder.is_dir():
            hint = "; without depth maps, model.input = 'rgb' trains"
            hint = hint if kind == "depth" and not strays else ""
            return [Fault(name, "no such folder", needed + hint)]
        is_file = {folder / name: is_file for name, is_file in files_in(folder).items()}
    except OSError as error:
        if not is_typed(error):
            raise
        found = f"a folder that cannot be read ({error.strerror})"
        return [Fault(name, found, f"{needed}; give yourself the right to read and enter it")]
    for path in sorted(is_file.keys() - set(taken.values())):
        file = f"{name}/{path.name}"
        if path.suffix.lower() in suffixes and is_file[path]:
            other = next(one.name for one in taken.values() if one.stem == path.stem)
            faults.append(Fault(file, f"a second {kind} of its stem, beside {other}", "one"))
        elif not strays:
            ending = f"a file ending in {path.suffix or path.name!r}"
            what = "a folder" if path.is_dir() else ending
            faults.append(Fault(file, what, f"only {endings} files"))
    if not taken and not faults:
        faults.append(Fault(name, "no such file in it" if strays else "an empty folder", needed))
    return faults
