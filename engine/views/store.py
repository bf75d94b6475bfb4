"""The store of out-of-fold probabilities: `oof/prob.npy` and its manifest.

While frames are predicted, one hidden file per temperature grows in place and `progress.json`
says how far it is good; `finish` turns the chosen temperature's file into `prob.npy`.

Axes: N samples, C class (truth by prediction), h w half-scale pixels, T temperatures.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.rundir import Record, sync_folder


class ResumableArray:
    """A `.npy` file whose items along the first axis are written one by one, in any order.

    How far it is good is for the caller to note, after `sync` and before what comes next. Plain
    writes, not a memory map: mapped dirty pages would count as the process's own.

    Args:
        path: of the file; continued if it exists, else made full of zeros.
        shape: of the whole array.
        dtype: of its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._item_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        if not path.exists():
            np.lib.format.open_memmap(path, mode="w+", dtype=self.dtype, shape=shape)
        self._header_bytes = path.stat().st_size - shape[0] * self._item_bytes
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, index: int, items: NDArray[np.generic]) -> None:
        """Write items from position `index` on; they are converted to the array's type."""
        content = items.astype(self.dtype, copy=False).tobytes()
        os.pwrite(self._descriptor, content, self._header_bytes + index * self._item_bytes)

    def sync(self) -> None:
        """Make what was written so far durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the file back; what was not synced may be lost."""
        os.close(self._descriptor)


class FoldState(Record):
    """How far a fold's validation frames are predicted, and what was counted on them."""

    weights: str
    """Hash of the weights that predict: what others predicted is predicted again."""
    done: int
    """Frames predicted."""
    elapsed_s: float
    confusion: list[list[list[int]]]
    """(T, C, C) at the labels' own resolution."""

    def counts(self) -> NDArray[np.int64]:
        """(T, C, C): `confusion` as an array."""
        return np.array(self.confusion, np.int64)


class Progress(Record):
    """`oof/progress.json`."""

    key: str
    folds: dict[int, FoldState]


class Manifest(Record):
    """`oof/manifest.json`: what a finished store holds, and what it was made from."""

    key: str
    temperature: float
    shape: tuple[int, int, int, int]
    dtype: str
    classes: tuple[str, ...]
    stems: tuple[str, ...]
    folds: tuple[int, ...]
    """The fold that each sample validates."""
    predicted: dict[int, FoldState]
    """By fold."""


@dataclass(frozen=True)
class StoreLayout:
    """What a store is about.

    Attributes:
        stems: N stems, in sample order.
        fold_of: (N,) the fold whose network may predict each sample.
        classes: class names.
        hw: size of the stored maps, pixels.
        temperatures: T softmax temperatures that are predicted.
        key: hash of the data, folds and settings; each fold's state adds that of its weights.
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


class ProbStoreWriter:
    """Fills a store, surviving a kill between any two `commit` calls."""

    def __init__(self, folder: Path, layout: StoreLayout) -> None:
        """Open `folder` for writing; continue what an earlier call with the same key began."""
        self.folder, self.layout = folder, layout
        folder.mkdir(parents=True, exist_ok=True)
        self._progress_path = folder / "progress.json"
        self._folds: dict[int, FoldState] = {}
        if self._progress_path.exists():
            found = Progress.read(self._progress_path)
            self._folds = dict(found.folds) if found.key == layout.key else {}
        partial = [self._partial(temperature) for temperature in layout.temperatures]
        if not self._folds:
            for path in folder.glob(".prob_t*.npy"):
                path.unlink()
        elif (folder / "prob.npy").exists():
            # Stopped between the renaming and the manifest: take the file back.
            for path in partial:
                if not path.exists():
                    (folder / "prob.npy").replace(path)
                    break
        self._arrays = [ResumableArray(path, layout.shape, np.float16) for path in partial]

    def write(self, index: int, prob_TChw: NDArray[np.float32], fold: int) -> None:
        """Write one sample at every temperature.

        Args:
            index: position of the sample.
            prob_TChw: (T, C, h, w) probabilities; stored as float16.
            fold: the fold whose network predicted it.

        Raises:
            ValueError: that fold trained on the sample, or the shape is not the store's.
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
        # Frames first, then the note that counts them: a note never tells of frames that are not
        # there.
        for array in self._arrays:
            array.sync()
        self._folds[fold] = state
        Progress(key=self.layout.key, folds=self._folds).write(self._progress_path)

    def state(self, fold: int, weights: str) -> FoldState | None:
        """The state last committed for the fold by the weights of that hash; None if none was."""
        state = self._folds.get(fold)
        return state if state is not None and state.weights == weights else None

    def finish(self, temperature: float, key: str) -> None:
        """Keep the probabilities of `temperature` as `prob.npy`; drop the others.

        Args:
            temperature: one of the layout's.
            key: hash of everything the finished store was made from, weights included.

        The manifest is written last: a store with a manifest is whole.
        """
        for array in self._arrays:
            array.close()
        self._arrays = []
        self._partial(temperature).replace(self.folder / "prob.npy")
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
        forget_progress(self.folder)

    def _partial(self, temperature: float) -> Path:
        return self.folder / f".prob_t{temperature:g}.npy"


def forget_progress(folder: Path) -> None:
    """Remove what a writer kept for going on, once the store is finished."""
    for path in [*folder.glob(".prob_t*.npy"), folder / "progress.json"]:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class ProbStore:
    """A finished store.

    Attributes:
        prob_NChw: (N, C, h, w) float16, memory-mapped, read only.
        manifest: what it is.
    """

    prob_NChw: NDArray[np.float16]
    manifest: Manifest


def open_store(folder: Path, key: str | None = None) -> ProbStore:
    """Open a finished store.

    Args:
        folder: the run's `oof` folder.
        key: hash of what the store should have been made from; None accepts any.

    Raises:
        FileNotFoundError: the store was never finished.
        ValueError: it was made from something else, or `prob.npy` is not what the manifest says.
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
