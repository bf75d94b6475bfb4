"""What predictions are written into: the out-of-fold store and the submission, both resumable.

An array grows in place under a hidden name, one for each temperature of the store, and a note says
how far it is good: the array is synced first, so a note never tells of frames that are not there.

Axes: N samples, B batch, T temperatures, C class (truth by prediction), h w half-scale pixels.
"""

import logging
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import DTypeLike, NDArray

from engine.config import Config
from engine.data.folds import Folds
from engine.frames.decode import Sample
from engine.rundir import Record, RunDir, sync_folder, whole_file
from engine.runtime.progress import track

if TYPE_CHECKING:
    from engine.views.predictor import Predictor

_log = logging.getLogger(__name__)

MasksFrom = Callable[[int], Iterator[tuple[int, NDArray[np.uint8]]]]
"""From the number of frames to pass over to (position of the first frame, (B, H, W) masks)."""

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp inside the zip, the format's earliest: equal masks give equal bytes."""

_SUBMISSION_NOTE = ".submission.json"
"""Name of the note on how far the submission is."""


class FoldState(Record):
    """How many of a fold's validation frames are predicted, and what was counted on them."""

    weights: str
    """hash of the weights that predict"""
    done: int
    elapsed_s: float
    confusion: list[list[list[int]]]
    """(T, C, C) at the labels' own resolution"""

    def counts(self) -> NDArray[np.int64]:
        """(T, C, C): `confusion` as an array."""
        return np.array(self.confusion, np.int64)


class OofProgress(Record):
    """`oof/progress.json`."""

    key: str
    folds: dict[int, FoldState]


class SubmissionProgress(Record):
    """`.submission.json`: how many frames are predicted, for what `key` stands for."""

    key: str
    done: int = 0
    elapsed_s: float = 0.0


class Manifest(Record):
    """`oof/manifest.json`: what a finished store holds, and what it was made from."""

    key: str
    temperature: float
    shape: tuple[int, int, int, int]
    dtype: str
    classes: tuple[str, ...]
    stems: tuple[str, ...]
    folds: tuple[int, ...]
    """the fold that each sample validates"""
    predicted: dict[int, FoldState]


@dataclass(frozen=True)
class StoreLayout:
    """What a store is about.

    Attributes:
        stems: N stems, in sample order.
        fold_of: (N,) the fold whose network may predict each sample.
        classes: C names.
        hw: size of the stored maps, pixels.
        temperatures: T, of which `finish` keeps one.
        key: hash of data, folds and settings; what another key began is begun again.
    """

    stems: tuple[str, ...]
    fold_of: NDArray[np.int64]
    classes: tuple[str, ...]
    hw: tuple[int, int]
    temperatures: tuple[float, ...]
    key: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, h, w)."""
        return (len(self.stems), len(self.classes), *self.hw)


def oof_layout(config: Config, samples: Sequence[Sample], folds: Folds, key: str) -> StoreLayout:
    """Every training frame at half the base size; without one, at half that of the largest."""
    height, width = config.inference.base_hw or np.max([s.hw for s in samples], axis=0).tolist()
    return StoreLayout(
        stems=tuple(sample.stem for sample in samples),
        fold_of=folds.fold_of,
        classes=config.data.classes,
        hw=(height // 2, width // 2),
        temperatures=config.inference.temperatures,
        key=key,
    )


def predict_fold(
    load: Callable[[], "Predictor"],
    fold: int,
    weights: str,
    samples: Sequence[Sample],
    writer: "ProbStoreWriter",
) -> FoldState:
    """Predict the validation frames of `fold` into the store and count them, resuming.

    Args:
        load: gives a predictor of the fold; not called if the fold is already predicted.
        fold: its number.
        weights: hash of its weights; what other weights predicted is predicted again.
        samples: every training sample of the dataset.
        writer: the store in progress, which notes the state that is returned.
    """
    layout = writer.layout
    validation = np.flatnonzero(layout.fold_of == fold).tolist()
    state = writer.state(fold, weights)
    if state.done == len(validation):
        return state
    predictor, count_TCC = load(), state.counts()
    start_s, asked = time.monotonic() - state.elapsed_s, [samples[index] for index in validation]
    with track(f"fold {fold} out-of-fold", len(validation), state.done) as advance:
        for frames, prob_BTCHW in predictor.predict(asked, state.done, label=True):
            count_TCC += predictor.counts(frames, prob_BTCHW).cpu().numpy()
            for index, prob_TCHW in zip(validation[state.done :], prob_BTCHW, strict=False):
                prob_TChw = F.interpolate(
                    prob_TCHW, size=layout.hw, mode="bilinear", align_corners=False
                )
                writer.write(index, prob_TChw.cpu().numpy(), fold)
            state = FoldState(
                weights=weights,
                done=state.done + len(frames),
                elapsed_s=round(time.monotonic() - start_s, 3),
                confusion=count_TCC.tolist(),
            )
            writer.commit(fold, state)
            advance(len(frames))
    return state


class ProbStoreWriter:
    """Fills a store, surviving a kill between any two `commit` calls."""

    def __init__(self, folder: Path, layout: StoreLayout) -> None:
        """Open `folder` for writing; continue what an earlier call with the same key began."""
        self.folder, self.layout = folder, layout
        folder.mkdir(parents=True, exist_ok=True)
        self._folds: dict[int, FoldState] = {}
        self._noted, self._prob = folder / "progress.json", folder / "prob.npy"
        if self._noted.exists() and (found := OofProgress.read(self._noted)).key == layout.key:
            self._folds = dict(found.folds)
        partial = [self._partial(temperature) for temperature in layout.temperatures]
        missing = [path for path in partial if not path.exists()]
        if not self._folds:
            _forget_oof(folder)
        elif missing and self._prob.exists():
            # Stopped between the renaming and the manifest: take the file back.
            self._prob.replace(missing[0])
        self._arrays = [ResumableArray(path, layout.shape, np.float16) for path in partial]

    def write(self, index: int, prob_TChw: NDArray[np.float32], fold: int) -> None:
        """Write the sample at position `index` at every temperature, as float16.

        Raises:
            ValueError: `fold`, which predicted it, trained on it; or the shape is not the store's.
        """
        if self.layout.fold_of[index] != fold:
            raise ValueError(
                f"{self.layout.stems[index]} is validated by fold {self.layout.fold_of[index]}; "
                f"the network of fold {fold} was trained on it, so its prediction is not "
                "out-of-fold"
            )
        expected = (len(self._arrays), *self.layout.shape[1:])
        if prob_TChw.shape != expected:
            raise ValueError(f"probabilities must be {expected}, got {prob_TChw.shape}")
        for array, prob_Chw in zip(self._arrays, prob_TChw, strict=True):
            array.write(index, prob_Chw)

    def commit(self, fold: int, state: FoldState) -> None:
        """Make what was written so far durable and note `state` of the fold in progress."""
        for array in self._arrays:
            array.sync()
        self._folds[fold] = state
        OofProgress(key=self.layout.key, folds=self._folds).write(self._noted)

    def state(self, fold: int, weights: str) -> FoldState:
        """The state last committed for the fold by the weights of that hash; zero if none was."""
        state = self._folds.get(fold)
        if state is not None and state.weights == weights:
            return state
        T, C = len(self._arrays), len(self.layout.classes)
        zero_TCC = np.zeros((T, C, C), np.int64).tolist()
        return FoldState(weights=weights, done=0, elapsed_s=0.0, confusion=zero_TCC)

    def finish(self, temperature: float, key: str) -> None:
        """Keep the probabilities of one of the temperatures as `prob.npy`; drop the others.

        The manifest is written last: a store with a manifest is whole. Its `key` is the hash of
        everything that the store was made from, weights included.
        """
        for array in self._arrays:
            array.close()
        self._partial(temperature).replace(self._prob)
        sync_folder(self.folder)
        Manifest(
            key=key,
            temperature=temperature,
            shape=self.layout.shape,
            dtype="float16",
            classes=self.layout.classes,
            stems=self.layout.stems,
            folds=tuple(self.layout.fold_of.tolist()),
            predicted=self._folds,
        ).write(self.folder / "manifest.json")
        _forget_oof(self.folder)

    def _partial(self, temperature: float) -> Path:
        return self.folder / f".prob_t{temperature:g}.npy"


class ProbStore(NamedTuple):
    """A finished store; its array is mapped, read only."""

    prob_NChw: NDArray[np.float16]
    manifest: Manifest


def open_store(folder: Path, key: str | None = None) -> ProbStore:
    """Open the finished store of a run's `oof` folder.

    Raises:
        FileNotFoundError: the store was never finished.
        ValueError: it was made from something else than what `key` stands for, if one is given, or
            `prob.npy` is not what the manifest says.
    """
    manifest_path, prob_path = folder / "manifest.json", folder / "prob.npy"
    if not (manifest_path.exists() and prob_path.exists()):
        raise FileNotFoundError(f"{folder} holds no finished store; run engine.train on this run")
    manifest = Manifest.read(manifest_path)
    if key is not None and manifest.key != key:
        raise ValueError(
            f"{folder} was made from other weights, data or settings; delete it and run "
            "engine.train again"
        )
    try:
        prob_NChw = np.load(prob_path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{prob_path} is damaged ({error}); delete {folder} and run again"
        ) from error
    if prob_NChw.shape != manifest.shape or prob_NChw.dtype != np.float16:
        raise ValueError(
            f"{prob_path} holds {prob_NChw.dtype} {prob_NChw.shape}, the manifest says "
            f"float16 {manifest.shape}; delete {folder} and run again"
        )
    return ProbStore(prob_NChw, manifest)


def write_submission(
    masks: MasksFrom, samples: Sequence[Sample], run: RunDir, key: str
) -> float | None:
    """Predict the test frames into `submission.npy` and `.zip`, in stem order, resuming.

    Args:
        masks: predicts; not called if the masks are already there.
        samples: test frames.
        run: where to write.
        key: hash of everything the masks are made from.

    Returns:
        Seconds of prediction, over all calls; None, with a warning, where no one array can hold
        the masks: there are no frames, or their sizes differ.
    """
    sizes = {sample.hw for sample in samples}
    if len(sizes) != 1:
        why = "their sizes differ; engine.predict writes a mask each"
        _log.warning("no submission of the test frames: %s", why if samples else "there are none")
        return None
    partial, noted = run.root / ".submission.npy.partial", run.root / _SUBMISSION_NOTE
    state = SubmissionProgress(key=key)
    if noted.exists() and (found := SubmissionProgress.read(noted)).key == key:
        if partial.exists():
            state = found
        elif found.done == len(samples) and run.submission_zip.exists():
            return found.elapsed_s
    if not state.done:
        partial.unlink(missing_ok=True)
    array = ResumableArray(partial, (len(samples), *sizes.pop()), np.uint8)
    if state.done < len(samples):
        start_s = time.monotonic() - state.elapsed_s
        with track("test frames", len(samples), state.done) as advance:
            for first, mask_BHW in masks(state.done):
                array.write(first, mask_BHW)
                array.sync()
                done, elapsed_s = first + len(mask_BHW), round(time.monotonic() - start_s, 3)
                state = SubmissionProgress(key=key, done=done, elapsed_s=elapsed_s)
                state.write(noted)
                advance(len(mask_BHW))
    array.close()
    # The partial file goes last: without it, both others are whole.
    with whole_file(run.submission_zip) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        entry = zipfile.ZipInfo(run.submission.name, ZIP_TIME)
        archive.writestr(entry, partial.read_bytes(), zipfile.ZIP_DEFLATED)
    partial.replace(run.submission)
    sync_folder(run.root)
    return state.elapsed_s


def forget_progress(run: RunDir) -> None:
    """Remove what store and submission kept for going on, once the summary stands."""
    (run.root / _SUBMISSION_NOTE).unlink(missing_ok=True)
    _forget_oof(run.oof)


class ResumableArray:
    """A `.npy` file whose items along the first axis are written one by one, in any order.

    How far it is good is for the caller to note, after `sync` and before what comes next. Plain
    writes, not a memory map: mapped dirty pages would count as the process's own.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Continue the file if it exists, else make it, full of zeros."""
        self._dtype = np.dtype(dtype)
        self._item_bytes = math.prod(shape[1:]) * self._dtype.itemsize
        if not path.exists():
            np.lib.format.open_memmap(path, mode="w+", dtype=self._dtype, shape=shape)
        self._header_bytes = path.stat().st_size - shape[0] * self._item_bytes
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, index: int, items: NDArray[np.generic]) -> None:
        """Write items from position `index` on, converted to the array's type."""
        content = items.astype(self._dtype, copy=False).tobytes()
        os.pwrite(self._descriptor, content, self._header_bytes + index * self._item_bytes)

    def sync(self) -> None:
        """Make what was written so far durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the file back; what was not synced may be lost."""
        os.close(self._descriptor)


def _forget_oof(folder: Path) -> None:
    for path in [*folder.glob(".prob_t*.npy"), folder / "progress.json"]:
        path.unlink(missing_ok=True)
