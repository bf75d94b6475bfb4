"""The runs of a blend, opened and checked: same classes, frames, data and folds.

Everything is checked from small files and hashes before any probability is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cli import load_config
from engine.config import Config
from engine.frames.decode import read_label
from engine.frames.index import Dataset
from engine.rundir import RunDir, read_json
from engine.runtime.environment import fold_hashes, stage_identity, weights_identity
from engine.selection.pixels import OofPixels
from engine.views.store import ProbStore, open_store


@dataclass(frozen=True, eq=False)
class Member:
    """One finished run.

    Attributes:
        run: its folder.
        config: its config.
        store: its out-of-fold probabilities at its temperature.
        temperature: softmax temperature of the store.
        fingerprint: of the dataset that it was trained on.
        fold_of: the fold that each training frame validates, by stem, in sample order.
        leakage: share of frames with a neighbour among the training frames of their fold.
    """

    run: RunDir
    config: Config
    store: ProbStore
    temperature: float
    fingerprint: str
    fold_of: Mapping[str, int]
    leakage: float

    @property
    def key(self) -> str:
        """Hash of everything that the store was made from."""
        key: str = self.store.manifest["key"]
        return key

    def predicting(self, runtime: str | None) -> Config:
        """The config, with another `runtime.inference` if one is named."""
        if runtime is None:
            return self.config
        changed = self.config.runtime.model_copy(update={"inference": runtime})
        return self.config.model_copy(update={"runtime": changed})


def open_members(roots: Sequence[Path]) -> tuple[Member, ...]:
    """Open run folders whose out-of-fold probabilities can be blended.

    Args:
        roots: two run folders of `engine.train` or more; one may come twice.

    Raises:
        ValueError: there are fewer than two, a run is not finished or its files do not belong
            together, or two runs differ in classes, frames, data or folds; the message names the
            first of these.
        FileNotFoundError: a run has no finished store.
    """
    if len(roots) < 2:
        raise ValueError(f"a blend needs two runs or more, got {len(roots)}")
    members = tuple(_open_member(root) for root in roots)
    for other in members[1:]:
        _check_alike(members[0], other)
    return members


def check_dataset(members: Sequence[Member], dataset: Dataset) -> None:
    """Refuse a dataset that is not what the runs were trained on.

    Raises:
        ValueError: a file of the dataset was changed, added or removed since.
    """
    if dataset.fingerprint != members[0].fingerprint:
        raise ValueError(
            f"the dataset is not the one that {members[0].run.root} was trained on: a file was "
            "changed, added or removed since; restore it, or name its folder with --data"
        )


def open_pixels(members: Sequence[Member], dataset: Dataset) -> OofPixels:
    """The members' stores with the labels of a dataset that `check_dataset` let pass."""
    samples = dataset.train.samples

    def label(frame: int) -> NDArray[np.uint8]:
        return read_label(samples[frame])

    return OofPixels(
        prob_MNChw=tuple(member.store.prob_NChw for member in members),
        read_label=label,
        fold_of_N=np.array(list(members[0].fold_of.values()), np.int64),
        frames=np.arange(len(samples)),
    )


def _open_member(root: Path) -> Member:
    run = RunDir(root)
    if not run.config.exists():
        raise ValueError(f"{root} is not a run folder: it has no {run.config.name}")
    for path in (run.environment, run.folds, run.temperature, run.oof / "manifest.json"):
        if not path.exists():
            raise ValueError(
                f"{root} is not finished: it has no {path.name}; complete it with engine.train"
            )
    config = load_config([run.config])
    fingerprint: str = read_json(run.environment)["dataset_fingerprint"]
    folds: dict[str, Any] = read_json(run.folds)
    fold_of: dict[str, int] = folds["fold_of"]
    _check_frames(root, fold_of, read_json(run.oof / "manifest.json"))
    weights = weights_identity(config, fingerprint, list(fold_of.values()))
    store = open_store(run.oof, stage_identity(config, weights, *fold_hashes(config, run)))
    temperature: float = store.manifest["temperature"]
    return Member(run, config, store, temperature, fingerprint, fold_of, float(folds["leakage"]))


def _check_frames(root: Path, fold_of: Mapping[str, int], manifest: Mapping[str, Any]) -> None:
    """The store has the frames and folds that folds.json lists."""
    if list(fold_of) != manifest["stems"]:
        strays = _examples(set(fold_of) ^ set(manifest["stems"]))
        raise ValueError(
            f"{root}: the store and folds.json list other frames ({strays}); delete "
            f"{root / 'oof'} and run engine.train again"
        )
    if list(fold_of.values()) != manifest["folds"]:
        raise ValueError(
            f"{root}: the store was made with other folds than folds.json lists; delete "
            f"{root / 'oof'} and run engine.train again"
        )


def _check_alike(first: Member, other: Member) -> None:
    names = f"{first.run.root} and {other.run.root}"
    if first.config.data.classes != other.config.data.classes:
        differing = _examples(set(first.config.data.classes) ^ set(other.config.data.classes))
        raise ValueError(
            f"{names} have other classes ({differing or 'in another order'}); blend runs of one "
            "class list"
        )
    if list(first.fold_of) != list(other.fold_of):
        raise ValueError(
            f"{names} have other frames: {len(first.fold_of)} and {len(other.fold_of)}, not in "
            f"both: {_examples(set(first.fold_of) ^ set(other.fold_of))}; train them on one dataset"
        )
    if first.fingerprint != other.fingerprint:
        raise ValueError(
            f"{names} were trained on other data: same frames, but an image, depth map, label or "
            "scenes.csv differs; train them on one dataset"
        )
    if first.fold_of != other.fold_of:
        moved = {stem for stem, fold in first.fold_of.items() if other.fold_of[stem] != fold}
        raise ValueError(
            f"{names} have other folds: {len(moved)} of {len(first.fold_of)} frames are validated "
            f"by another one ({_examples(moved)}), so one run trained on what the other is scored "
            "on; train them with the same data.fold_* fields"
        )


def _examples(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3])
