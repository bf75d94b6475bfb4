"""Labels of test frames: they may be there, for some of the frames, to score the submission on."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.frames.decode import FrameFiles
from engine.frames.kinds import KINDS, is_hidden
from engine.frames.told import skipped

_log = logging.getLogger(__name__)


def with_labels(
    folder: Path, frames: Sequence[FrameFiles], use: str = "the submission will be scored on them"
) -> list[FrameFiles]:
    """The frames, those with a label file of their stem in `folder` with it.

    What else lies there is named in one line; another says what is the `use` of the labels. An
    OSError says that the folder cannot be read.
    """
    suffixes = KINDS["label"].suffixes
    paths = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    fit = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    label_of = {path.stem: path for path in reversed(fit)}
    labelled = [replace(files, label=label_of.get(files.stem)) for files in frames]
    used = [files.label for files in labelled if files.label]
    if len(used) < len(paths):
        _log.info("%s", skipped(folder, paths, used))
    if count := len(used):
        kind = "test frames" if folder.parent.name == "test" else "frames"
        _log.info("%s: labels of %d of %d %s; %s", folder, count, len(frames), kind, use)
    return labelled
