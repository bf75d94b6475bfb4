"""The store of out-of-fold probabilities: `oof/prob.npy` and its manifest.

While frames are predicted, one hidden file per temperature grows in place and `progress.json`
says how far it is good; `finish` turns the chosen temperature's file into `prob.npy`.

Axes: N samples, C class, h w half-scale pixels, T temperatures.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.rundir import read_json, sync_folder, write_json


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
        self.progress: dict[str, Any] = {"key": layout.key, "folds": {}}
        if self._progress_path.exists():
            found = read_json(self._progress_path)
            if found["key"] == layout.key:
                self.progress = found
        self._files = [self._partial(temperature) for temperature in layout.temperatures]
        if not self.progress["folds"]:
            for path in folder.glob(".prob_t*.npy"):
                path.unlink()
        self._streams = [self._open(path) for path in self._files]
        self._offset = self._header_bytes()

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
        expected = (len(self._streams), *self.layout.shape[1:])
        if prob_TChw.shape != expected:
            raise ValueError(f"probabilities must be {expected}, got {prob_TChw.shape}")
        size = int(np.prod(self.layout.shape[1:])) * 2
        for stream, prob_Chw in zip(self._streams, prob_TChw.astype(np.float16), strict=True):
            # Plain writes, not a memory map: mapped dirty pages would count as the process's own.
            os.pwrite(stream, prob_Chw.tobytes(), self._offset + index * size)

    def commit(self, fold: int, state: dict[str, Any]) -> None:
        """Make what was written so far durable and note `state` of the fold in progress."""
        for stream in self._streams:
            os.fsync(stream)
        self.progress["folds"][str(fold)] = state
        write_json(self._progress_path, self.progress)

    def state(self, fold: int, weights: str) -> dict[str, Any]:
        """The state last committed for the fold by the weights of that hash; {} if none was."""
        state: dict[str, Any] = self.progress["folds"].get(str(fold), {})
        return state if state.get("weights") == weights else {}

    def finish(self, temperature: float, key: str) -> None:
        """Keep the probabilities of `temperature` as `prob.npy`; drop the others.

        Args:
            temperature: one of the layout's.
            key: hash of everything the finished store was made from, weights included.

        The manifest is written last: a store with a manifest is whole.
        """
        for stream in self._streams:
            os.close(stream)
        self._streams = []
        self._partial(temperature).replace(self.folder / "prob.npy")
        sync_folder(self.folder)
        write_json(
            self.folder / "manifest.json",
            {
                "key": key,
                "temperature": temperature,
                "shape": self.layout.shape,
                "dtype": "float16",
                "classes": self.layout.classes,
                "stems": self.layout.stems,
                "folds": self.layout.fold_of.tolist(),
                "predicted": self.progress["folds"],
            },
        )
        forget_progress(self.folder)

    def _partial(self, temperature: float) -> Path:
        return self.folder / f".prob_t{temperature:g}.npy"

    def _open(self, path: Path) -> int:
        finished = self.folder / "prob.npy"
        if not path.exists() and self.progress["folds"] and finished.exists():
            # Stopped between the renaming and the manifest: take the file back.
            finished.replace(path)
        if not path.exists():
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=self.layout.shape)
        return os.open(path, os.O_RDWR)

    def _header_bytes(self) -> int:
        payload = int(np.prod(self.layout.shape)) * 2
        return self._files[0].stat().st_size - payload


def forget_progress(folder: Path) -> None:
    """Remove what a writer kept for going on, once the store is finished."""
    for path in [*folder.glob(".prob_t*.npy"), folder / "progress.json"]:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class ProbStore:
    """A finished store.

    Attributes:
        prob_NChw: (N, C, h, w) float16, memory-mapped, read only.
        manifest: what `finish` wrote.
    """

    prob_NChw: NDArray[np.float16]
    manifest: dict[str, Any]

    @property
    def stems(self) -> Sequence[str]:
        """N stems, in sample order."""
        stems: list[str] = self.manifest["stems"]
        return stems


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
    manifest = read_json(manifest_path)
    if key is not None and manifest["key"] != key:
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
    if list(prob_NChw.shape) != manifest["shape"] or prob_NChw.dtype != np.float16:
        raise ValueError(
            f"{prob_path} holds {prob_NChw.dtype} {prob_NChw.shape}, the manifest says "
            f"float16 {tuple(manifest['shape'])}; delete {folder} and run again"
        )
    return ProbStore(prob_NChw, manifest)
