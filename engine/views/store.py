"""Out-of-fold probabilities go into `oof/`, masks of test frames into the submission; both resume.

An array grows in place under a hidden name, one for each temperature of the store, and a note says
how far it is good: the array is synced first, so a note never tells of frames that are not there.

Axes: N samples, B batch, T temperatures, C class (truth by prediction), h w half-scale pixels.
"""

import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from engine import interrupts
from engine.config import Config
from engine.data.folds import Folds
from engine.frames.decode import Sample
from engine.lease import attempt_folder
from engine.rundir import RunDir, sync_folder, whole_file
from engine.runtime.progress import track
from engine.views import records

if TYPE_CHECKING:
    from engine.views.predictor import Predictor

_Note = TypeVar("_Note", bound=records.Note)

_log = logging.getLogger(__name__)


def oof_layout(
    config: Config, samples: Sequence[Sample], folds: Folds, key: str
) -> records.StoreLayout:
    """Every training frame at half the base size; without one, at half that of the largest."""
    height, width = config.inference.base_hw or np.max([s.hw for s in samples], axis=0).tolist()
    stems, classes = tuple(sample.stem for sample in samples), config.data.classes
    shape = len(stems), len(classes), height // 2, width // 2
    temperatures = config.inference.temperatures
    return records.StoreLayout(shape, stems, folds.fold_of, classes, temperatures, key)


def predict_fold(
    load: Callable[[], "Predictor"],
    fold: int,
    weights: str,
    samples: Sequence[Sample],
    writer: "ProbStoreWriter",
) -> records.FoldState:
    """Predict the frames, among all training samples, that `fold` validates, and count; resumes.

    What weights of another hash than `weights` predicted is predicted again. `load` gives the
    predictor of the fold, a ValueError if it is another's; it is not called if all is predicted.
    """
    layout, state = writer.layout, writer.state(fold, weights)
    validation = np.flatnonzero(layout.fold_of == fold).tolist()
    if state.done == len(validation):
        return state
    predictor, count_TCC = load(), np.array(state.confusion, np.int64)
    (network,) = predictor.networks
    start_s, asked = time.monotonic() - state.elapsed_s, [samples[index] for index in validation]
    predicted = _counts_and_halves(predictor, asked, state.done, layout.shape[2:])
    with (
        interrupts.at_checkpoints(),
        track(f"fold {fold} out-of-fold", len(validation), state.done) as advance,
    ):
        for (batch_TCC, prob_BTChw), is_due in predictor.fetch(predicted):
            count_TCC += batch_TCC.numpy()
            for index, prob_TChw in zip(validation[state.done :], prob_BTChw, strict=False):
                writer.write(index, prob_TChw.numpy(), network.fold)
            done, elapsed_s = state.done + len(prob_BTChw), round(time.monotonic() - start_s, 3)
            counted = {"done": done, "elapsed_s": elapsed_s, "confusion": count_TCC.tolist()}
            state = state.model_copy(update=counted)
            if is_due or interrupts.is_asked():
                writer.commit(fold, state)
            advance(len(prob_BTChw))
            interrupts.checkpoint()
    return state


def _counts_and_halves(
    predictor: "Predictor", samples: Sequence[Sample], start: int, hw: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each batch, on its device: (T, C, C) counts, (B, T, C, *hw) float16 probabilities."""
    for frames, prob_BTCHW in predictor.predict(samples, start, label=True):
        # Frame by frame, as the bytes of a CPU have always been made.
        resized = [F.interpolate(prob_TCHW, hw, mode="bilinear").half() for prob_TCHW in prob_BTCHW]
        yield predictor.counts(frames, prob_BTCHW), torch.stack(resized)


class ProbStoreWriter:
    """Fills a store, surviving a kill between any two `commit` calls."""

    def __init__(self, folder: Path, layout: records.StoreLayout) -> None:
        """Continue what an earlier call with the same key began in `folder`."""
        self.layout, self._folder = layout, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._attempt, self._prob = attempt_folder(folder), folder / "prob.npy"
        self._note = self._attempt / "progress.json"
        self._progress = _noted(records.OofProgress, self._note, layout.key)
        self._partial = [self._attempt / f".prob_t{t:g}.npy" for t in layout.temperatures]
        missing = [path for path in self._partial if not path.exists()]
        if missing and self._progress.folds and self._prob.exists():
            # Stopped between the renaming and the manifest: take the file back.
            self._prob.replace(missing[0])
        elif missing:
            self._progress = records.OofProgress(key=layout.key)
        if not self._progress.folds:
            _forget_oof(self._attempt)
        self._arrays = [ResumableArray(path, layout.shape, np.float16) for path in self._partial]

    def write(self, index: int, prob_TChw: NDArray[np.floating], fold: int) -> None:
        """Write the sample at position `index` at every temperature, as float16.

        Raises:
            ValueError: `fold`, which predicted it, trained on it; or the shape is not the store's.
        """
        layout = self.layout
        if layout.fold_of[index] != fold:
            raise ValueError(
                f"{layout.stems[index]} is validated by fold {layout.fold_of[index]}; the network "
                f"of fold {fold} was trained on it, so its prediction is not out-of-fold"
            )
        expected = (len(self._arrays), *layout.shape[1:])
        if prob_TChw.shape != expected:
            raise ValueError(f"probabilities must be {expected}, got {prob_TChw.shape}")
        for array, prob_Chw in zip(self._arrays, prob_TChw, strict=True):
            array.write(index, prob_Chw)

    def commit(self, fold: int, state: records.FoldState) -> None:
        """Make what was written durable, then note the fold's state."""
        for array in self._arrays:
            array.sync()
        folds = {**self._progress.folds, fold: state}
        self._progress = records.OofProgress(key=self.layout.key, folds=folds)
        self._progress.write(self._note)

    def state(self, fold: int, weights: str) -> records.FoldState:
        """The state last committed for the fold by the weights of that hash; zero if none was."""
        state = self._progress.folds.get(fold)
        if state is not None and state.weights == weights:
            return state
        C = self.layout.shape[1]
        zero_TCC = np.zeros((len(self._arrays), C, C), np.int64).tolist()
        return records.FoldState(weights=weights, done=0, elapsed_s=0.0, confusion=zero_TCC)

    def finish(self, temperature: float, key: str) -> None:
        """Keep one temperature, made from what `key` stands for; a manifest says it is whole."""
        for array in self._arrays:
            array.close()
        self._partial[self.layout.temperatures.index(temperature)].replace(self._prob)
        sync_folder(self._folder)
        records.Manifest(
            key=key,
            temperature=temperature,
            shape=self.layout.shape,
            dtype="float16",
            classes=self.layout.classes,
            stems=self.layout.stems,
            folds=tuple(self.layout.fold_of.tolist()),
            predicted=self._progress.folds,
        ).write(self._folder / "manifest.json")
        _forget_oof(self._attempt)


def open_store(folder: Path, key: str | None = None) -> records.ProbStore:
    """Open the finished store of a run's `oof` folder.

    Raises:
        FileNotFoundError: the store was never finished.
        ValueError: it was not made from what `key` stands for, if one is given, or is damaged.
    """
    manifest_path, prob_path = folder / "manifest.json", folder / "prob.npy"
    if not (manifest_path.exists() and prob_path.exists()):
        raise FileNotFoundError(f"{folder} holds no finished store; run engine.train on this run")
    manifest = records.Manifest.read(manifest_path)
    if key not in (None, manifest.key):
        raise ValueError(
            f"{folder} was made from other weights, data or settings; delete it and run "
            "engine.train again"
        )
    again = f"delete {folder} and run again"
    try:
        prob_NChw = np.load(prob_path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{prob_path} is damaged ({error}); {again}") from error
    if prob_NChw.shape != manifest.shape or prob_NChw.dtype != np.float16:
        raise ValueError(
            f"{prob_path} holds {prob_NChw.dtype} {prob_NChw.shape}, the manifest says "
            f"float16 {manifest.shape}; {again}"
        )
    return records.ProbStore(prob_NChw, manifest)


def write_submission(
    masks: Callable[[int], Iterator[tuple[int, NDArray[np.uint8]]]],
    samples: Sequence[Sample],
    run: RunDir,
    key: str,
) -> float | None:
    """Predict the test frames into `submission.npy` and `.zip`, in stem order; resumes.

    `masks` makes of the number of frames to pass over positions of a first frame and (B, H, W)
    masks; it is not called if the submission of what `key` stands for is there. Returns the seconds
    of prediction, over all calls; None, with a warning, where no one array can hold the masks.
    """
    sizes = {sample.hw for sample in samples}
    if len(sizes) != 1:
        why = "their sizes differ; engine.predict writes a mask each"
        _log.warning("no submission of the test frames: %s", why if samples else "there are none")
        return None
    folder = attempt_folder(run.root)
    partial, note = folder / ".submission.npy.partial", folder / records.SUBMISSION_NOTE
    state = _noted(records.SubmissionProgress, note, key)
    if not partial.exists():
        if state.done == len(samples) and run.submission_zip.exists():
            return state.elapsed_s
        state = records.SubmissionProgress(key=key)
    if not state.done:
        # The note first: it may be another key's, which must not find an array of this one.
        for path in (note, partial):
            path.unlink(missing_ok=True)
    if state.done < len(samples):
        start_s, shape = time.monotonic() - state.elapsed_s, (len(samples), *sizes.pop())
        with (
            interrupts.at_checkpoints(),
            closing(ResumableArray(partial, shape, np.uint8)) as array,
            track("test frames", len(samples), state.done) as advance,
        ):
            for first, mask_BHW in masks(state.done):
                array.write(first, mask_BHW)
                array.sync()
                done, elapsed_s = first + len(mask_BHW), round(time.monotonic() - start_s, 3)
                state = records.SubmissionProgress(key=key, done=done, elapsed_s=elapsed_s)
                state.write(note)
                advance(len(mask_BHW))
                interrupts.checkpoint()
    # The partial file goes last: without it, both others are whole.
    with whole_file(run.submission_zip) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # An entry's time is 1980 unless it is told another: equal masks give equal bytes.
        entry = zipfile.ZipInfo(run.submission.name)
        archive.writestr(entry, partial.read_bytes(), zipfile.ZIP_DEFLATED)
    partial.replace(run.submission)
    sync_folder(run.root)
    return state.elapsed_s


def forget_progress(run: RunDir) -> None:
    """Remove what store and submission kept for going on, once the summary stands."""
    (attempt_folder(run.root) / records.SUBMISSION_NOTE).unlink(missing_ok=True)
    _forget_oof(attempt_folder(run.oof))


def adopt_progress(run: RunDir) -> None:
    """Bring what an older release kept for going on, beside its files, into the lease's attempt."""
    attempt = attempt_folder(run.root)
    begun = run.root / records.SUBMISSION_NOTE, run.root / ".submission.npy.partial"
    for path in (*begun, run.oof / "progress.json", *run.oof.glob(".prob_t*.npy")):
        if path.exists():
            path.replace(attempt / path.name)


def is_submission_begun(run: RunDir) -> bool:
    """Whether an earlier call was stopped between a submission's first mask and its summary."""
    return (attempt_folder(run.root) / records.SUBMISSION_NOTE).exists()


class ResumableArray:
    """A `.npy` file whose items along the first axis are written one by one, in any order.

    Plain writes, not a memory map: mapped dirty pages would count as the process's own.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Continue the file if it exists, else make it, full of zeros."""
        mode: Literal["r", "w+"] = "r" if path.exists() else "w+"
        made = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        self._dtype, self._header_bytes, self._item_bytes = made.dtype, made.offset, made.strides[0]
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


def _noted(kind: type[_Note], path: Path, key: str) -> _Note:
    """What an earlier call noted for the same key, else a new note: nothing is there yet."""
    found = kind.read(path) if path.exists() else None
    return found if found and found.key == key else kind(key=key)


def _forget_oof(folder: Path) -> None:
    for path in [folder / "progress.json", *folder.glob(".prob_t*.npy")]:
        path.unlink(missing_ok=True)
