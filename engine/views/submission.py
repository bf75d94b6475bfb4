"""The submission: masks of the test frames, in stem order, as `.npy` and `.zip`."""

import logging
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.frames.index import Sample
from engine.rundir import RunDir, read_json, sync_folder, whole_file, write_json
from engine.runtime.progress import track

_log = logging.getLogger(__name__)

Masks = Callable[[int], Iterator[tuple[int, NDArray[np.uint8]]]]
"""From the number of frames to pass over to (position of the first frame, (B, H, W) masks)."""

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp inside the zip, the format's earliest: equal masks give equal bytes."""


def frame_size(samples: Sequence[Sample]) -> tuple[int, int] | None:
    """The one size of all frames, or None if there are no frames or they differ."""
    sizes = {sample.hw for sample in samples}
    return sizes.pop() if len(sizes) == 1 else None


def write_submission(
    masks: Masks, samples: Sequence[Sample], run: RunDir, key: str
) -> float | None:
    """Predict the test frames into `submission.npy` and `submission.zip`, resuming.

    Args:
        masks: predicts; not called if the masks are already there.
        samples: test frames.
        run: where to write.
        key: hash of everything the masks are made from.

    Returns:
        Seconds spent on predicting, over all calls; None, and the log says why, where one array
        cannot hold the masks: there are no frames, or their sizes differ.
    """
    hw = frame_size(samples)
    if hw is None:
        why = "their sizes differ; engine.predict writes a mask each"
        _log.warning("no submission of the test frames: %s", why if samples else "there are none")
        return None
    partial, progress_path = _partial_path(run), _progress_path(run)
    progress: dict[str, Any] = {"key": key, "done": 0, "elapsed_s": 0.0}
    if progress_path.exists():
        found = read_json(progress_path)
        progress = found if found["key"] == key else progress
    if progress["done"] == len(samples) and run.submission_zip.exists() and not partial.exists():
        return float(progress["elapsed_s"])
    if not progress["done"]:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(samples), *hw))
    if progress["done"] < len(samples):
        _predict(masks, samples, run, progress)
    with whole_file(run.submission) as temporary:
        shutil.copyfile(partial, temporary)
    with whole_file(run.submission_zip) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        entry = zipfile.ZipInfo(run.submission.name, ZIP_TIME)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, run.submission.read_bytes())
    partial.unlink()
    sync_folder(run.root)
    return float(progress["elapsed_s"])


def forget_progress(run: RunDir) -> None:
    """Remove the note on how far the submission is, once the summary stands."""
    _progress_path(run).unlink(missing_ok=True)


def _partial_path(run: RunDir) -> Path:
    return run.root / ".submission.npy.partial"


def _progress_path(run: RunDir) -> Path:
    return run.root / ".submission.json"


def _predict(
    masks: Masks, samples: Sequence[Sample], run: RunDir, progress: dict[str, Any]
) -> None:
    partial = _partial_path(run)
    done = progress["done"]
    before_s, start_s = progress["elapsed_s"], time.monotonic()
    predicted = masks(done)
    with track("test frames", len(samples), done) as advance, partial.open("r+b") as stream:
        pixels = samples[0].hw[0] * samples[0].hw[1]
        header = partial.stat().st_size - len(samples) * pixels
        for first, mask_BHW in predicted:
            os.pwrite(stream.fileno(), mask_BHW.tobytes(), header + first * pixels)
            os.fsync(stream.fileno())
            progress["done"] = first + len(mask_BHW)
            progress["elapsed_s"] = round(before_s + time.monotonic() - start_s, 3)
            write_json(_progress_path(run), progress)
            advance(len(mask_BHW))
