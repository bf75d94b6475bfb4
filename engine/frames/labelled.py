"""Labels of test frames: they may be there, for some of the frames, to score the submission on."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from engine.frames.decode import FrameFiles
from engine.frames.files import FrameList, files_in, split_name
from engine.frames.kinds import KINDS
from engine.frames.told import skipped

_log = logging.getLogger(__name__)


_Frames = TypeVar("_Frames", bound=Sequence[FrameFiles])


def with_labels(
    folder: Path, frames: _Frames, use: str = "the submission will be scored on them"
) -> _Frames:
    """The frames, those with a label file of their stem in `folder` with it.

    What else lies there is named in one line; another says what is the `use` of the labels. An
    OSError says that the folder cannot be read.
    """
    suffixes = KINDS["label"].suffixes
    found = files_in(folder)
    names = sorted(found)
    fit = [name for name in names if split_name(name)[1].lower() in suffixes and found[name]]
    if isinstance(frames, FrameList):
        labelled: Sequence[FrameFiles] = frames.with_files("label", folder, fit)
    else:
        label_of = {split_name(name)[0]: folder / name for name in reversed(fit)}
        labelled = [replace(files, label=label_of.get(files.stem)) for files in frames]
    used = [files.label.name for files in labelled if files.label]
    if len(used) < len(names):
        _log.info("%s", skipped(folder, names, used))
    if count := len(used):
        kind = "test frames" if folder.parent.name == "test" else "frames"
        _log.info("%s: labels of %d of %d %s; %s", folder, count, len(frames), kind, use)
    return labelled  # type: ignore[return-value]
