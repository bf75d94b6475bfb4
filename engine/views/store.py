"""Out-of-fold probabilities go into `oof/`, which resumes.

An array grows in place under a hidden name, one for each temperature of the store, and a note says
how far it is good: the array is synced first, so a note never tells of frames that are not there.

Axes: N samples, B batch, T temperatures, C class (truth by prediction), h w half-scale pixels.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine import interrupts, sums
from engine.config import Config
from engine.data.folds import Folds
from engine.frames.decode import Sample
from engine.frames.samples import hw_of, stems_of
from engine.lease import attempt_folder
from engine.rundir import RunDir, changed_config, to_complete
from engine.runtime.progress import track
from engine.views import records
from engine.views.behind import fetch
from engine.views.resumable import ResumableArray, forget, forget_sums, noted
from engine.views.sampled import CalibrationSum, sample_pixels
from engine.views.zoom import base_hw
from engine.whole import announce, sync_folder
from kernels.compiling import work_s

if TYPE_CHECKING:
    from engine.distributed.world import World
    from engine.views.predictor import Predictor

_log = logging.getLogger(__name__)


def oof_layout(
    config: Config, samples: Sequence[Sample], folds: Folds, key: str
) -> records.StoreLayout:
    """Every training frame at half the base size; where that differs, at half the largest sides."""
    bases = [
        base_hw(config.data, config.inference, hw)
        for hw in {(h, w) for h, w in hw_of(samples).tolist()}
    ]
    height, width = np.max(bases, axis=0).tolist()
    stems, classes = tuple(stems_of(samples)), config.data.classes
    # A side of one pixel has no half.
    shape = len(stems), len(classes), max(height // 2, 1), max(width // 2, 1)
    temperatures = config.inference.temperatures
    return records.StoreLayout(shape, stems, folds.fold_of, classes, temperatures, key)


def predict_fold(
    load: Callable[[int], "Predictor"],
    fold: int,
    weights: str,
    samples: Sequence[Sample],
    writer: "ProbStoreWriter",
    world: "World | None" = None,
) -> records.FoldState:
    """Predict the frames, among all training samples, that `fold` validates, and count; resumes.

    What weights of another hash than `weights` predicted is predicted again. `load` gives the
    predictor of the fold's networks, a ValueError if one is another's, and is told how many frames
    were predicted before; it is not called if all is predicted. Processes of a `world` take batches
    in turns, and this one, the first, writes them in order.
    """
    layout, state = writer.layout, writer.state(fold, weights)
    validation = np.flatnonzero(layout.fold_of == fold).tolist()
    if state.done == len(validation):
        return state
    predictor, count_TCC = load(state.done), np.array(state.confusion, np.int64)
    # What an older release began has frames that nobody sampled.
    sampled = state.done == 0 or state.calibration is not None
    sample = CalibrationSum(len(layout.temperatures), state.calibration) if sampled else None
    of = [network.fold % (int(layout.fold_of.max()) + 1) for network in predictor.networks]
    strangers = [*({*of} - {fold}), fold]
    start_s, asked = work_s() - state.elapsed_s, [samples[index] for index in validation]
    if world is None:
        predicted = counts_and_halves(predictor, asked, state.done, layout.shape[2:])
        fetched = fetch(predictor.policy.device, predicted)
    else:
        from engine.views.together import fold_in_order

        fetched = fold_in_order(predictor, asked, state.done, layout.shape[2:], world)
    with (
        interrupts.at_checkpoints(),
        track(f"fold {fold} out-of-fold", len(validation), state.done) as advance,
    ):
        for (batch_TCC, prob_BTChw, *pixels), is_due in fetched:
            count_TCC += batch_TCC.numpy()
            for index, prob_TChw in zip(validation[state.done :], prob_BTChw, strict=False):
                writer.write(index, prob_TChw.numpy(), strangers[0])
            done, elapsed_s = state.done + len(prob_BTChw), round(work_s() - start_s, 3)
            counted = {"done": done, "elapsed_s": elapsed_s, "confusion": count_TCC.tolist()}
            if sample is not None:
                sample.add(pixels)
                counted["calibration"] = sample.counts()
            state = state.model_copy(update=counted)
            if is_due or interrupts.is_asked():
                writer.commit(fold, state)
            advance(len(prob_BTChw))
            interrupts.checkpoint()
    return state


def counts_and_halves(
    predictor: "Predictor",
    samples: Sequence[Sample],
    start: int,
    hw: tuple[int, int],
    turn: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, ...]]:
    """Of each batch, on its device: (T, C, C) counts, (B, T, C, *hw) float16, its sample.

    By `turn` as of `FrameReader.batches`.
    """
    for frames, prob_BTCHW in predictor.predict(samples, start, label=True, turn=turn):
        # Frame by frame, as the bytes of a CPU have always been made.
        resized = [F.interpolate(prob_TCHW, hw, mode="bilinear").half() for prob_TCHW in prob_BTCHW]
        assert frames.label_BHW is not None, "asked for"
        sample = sample_pixels(prob_BTCHW, frames.label_BHW)
        yield predictor.counts(frames, prob_BTCHW), torch.stack(resized), *sample


class ProbStoreWriter:
    """Fills a store, surviving a kill between any two `commit` calls."""

    def __init__(self, folder: Path, layout: records.StoreLayout) -> None:
        """Continue what an earlier call with the same key began in `folder`."""
        self.layout, self._folder = layout, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._attempt, self._prob = attempt_folder(folder), folder / "prob.npy"
        self._note = self._attempt / "progress.json"
        self._progress = noted(records.OofProgress, self._note, layout.key)
        self._partial = [self._attempt / f".prob_t{t:g}.npy" for t in layout.temperatures]
        missing = [path for path in self._partial if not path.exists()]
        if missing and self._progress.folds and self._prob.exists():
            # Stopped between the renaming and the manifest: take the file back.
            self._prob.replace(missing.pop(0))
        if missing or not self._progress.folds:
            self._progress = records.OofProgress(key=layout.key)
            _forget_oof(self._attempt)
        self._arrays = [ResumableArray(path, layout.shape, np.float16) for path in self._partial]
        self._chosen: dict[int, list[int]] = {}
        self._noted: dict[int, list[int]] = {}
        for fold, state in self._progress.folds.items():
            frames, stood = self._frames(fold)[: state.done], self._progress.noted.get(fold)
            digits = self._progress.crc32.get(fold, [""] * len(self._arrays))
            for n, array in enumerate(self._arrays):
                array.recall(frames, stood[n] if stood else None)
                array.recall_digits(frames, digits[n])
            self._noted[fold] = stood or [array.noted(frames) for array in self._arrays]

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
        before, stood = self._progress.folds.get(fold), self._noted.get(fold)
        if before is None or stood is None or before.weights != state.weights:
            done, stood = 0, [0] * len(self._arrays)
        else:
            done = before.done
        frames = self._frames(fold)[done : state.done]
        pairs = zip(self._arrays, stood, strict=True)
        self._noted[fold] = [array.noted(frames, crc) for array, crc in pairs]
        folds = {**self._progress.folds, fold: state}
        self._progress = records.OofProgress(key=self.layout.key, folds=folds, noted=self._noted)
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
        """Keep one temperature, made from what `key` stands for; a manifest says it is whole.

        Raises DamageError if what was written is not what stands there.
        """
        chosen = self.layout.temperatures.index(temperature)
        announce(self._prob, self._arrays[chosen].finish())
        for array in self._arrays:
            array.close()
        forget_sums(self._partial[chosen])
        self._partial[chosen].replace(self._prob)
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

    def _frames(self, fold: int) -> list[int]:
        """Positions of the frames that a fold validates."""
        if fold not in self._chosen:
            self._chosen[fold] = np.flatnonzero(self.layout.fold_of == fold).tolist()
        return self._chosen[fold]


def open_store(folder: Path, key: str | None = None) -> records.ProbStore:
    """Open the finished store of a run's `oof` folder, after reading it once to check it.

    Raises:
        FileNotFoundError: the store was never finished.
        ValueError: it was not made from what `key` stands for, if one is given, or is damaged; or
            the config was changed, which the key is made of.
    """
    manifest_path, prob_path = folder / "manifest.json", folder / "prob.npy"
    if not (manifest_path.exists() and prob_path.exists()):
        raise FileNotFoundError(f"{folder} holds no finished store; {to_complete(folder.parent)}")
    manifest = records.Manifest.read(manifest_path)
    if key not in (None, manifest.key):
        if (changed := changed_config(folder.parent)) is not None:
            made = "was made from other weights, data or settings than its config says now"
            raise ValueError(f"{folder} {made}: {changed}")
        raise ValueError(
            f"{folder} was made from other weights, data or settings; restore what changed since, "
            "or move it away and have engine.train predict again from the weights that are there"
        )
    again = f"delete {folder} and run again"
    sums.check(prob_path)
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


def forget_progress(run: RunDir) -> None:
    """Remove what store and submission kept for going on, once the summary stands."""
    with suppress(OSError):  # on a disk that cannot be written they do no harm
        sums.remove(attempt_folder(run.root) / records.SUBMISSION_NOTE)
        _forget_oof(attempt_folder(run.oof))


def adopt_progress(run: RunDir) -> None:
    """Bring what an older release kept for going on, beside its files, into the lease's attempt."""
    attempt = attempt_folder(run.root)
    begun = run.root / records.SUBMISSION_NOTE, run.root / ".submission.npy.partial"
    for path in (*begun, run.oof / "progress.json", *run.oof.glob(".prob_t*.npy*")):
        for each in (sums.sum_file(path), path):
            if each.exists():
                each.replace(attempt / each.name)


def _forget_oof(folder: Path) -> None:
    sums.remove(folder / "progress.json")
    for path in folder.glob(".prob_t*.npy*"):
        forget(path.with_name(path.name.removesuffix(".crc")))
