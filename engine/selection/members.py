"""The runs of a blend, opened and checked: same classes, frames, data and folds.

Everything is checked from small files and hashes before any probability is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import Config
from engine.data.folds import FoldsFile
from engine.frames.decode import read_label
from engine.frames.index import Dataset
from engine.identity import fold_hashes, load_run, stage_identity, weights_identity
from engine.rundir import RunDir
from engine.runtime.environment import Environment
from engine.selection.pixels import OofPixels
from engine.views.store import Manifest, ProbStore, open_store


@dataclass(frozen=True, eq=False)
class Member:
    """One finished run.

    Attributes:
        run: its folder.
        config: its config.
        store: its out-of-fold probabilities at its temperature.
        fingerprint: of the dataset that it was trained on.
        folds: its folds.
    """

    run: RunDir
    config: Config
    store: ProbStore
    fingerprint: str
    folds: FoldsFile

    @property
    def temperature(self) -> float:
        """Softmax temperature of the store."""
        return self.store.manifest.temperature

    @property
    def fold_of(self) -> list[int]:
        """The fold that each frame validates, in sample order."""
        return list(self.folds.fold_of.values())

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
    return OofPixels(
        prob_MNChw=tuple(member.store.prob_NChw for member in members),
        read_label=lambda frame: read_label(samples[frame]),
        fold_of_N=np.array(members[0].fold_of, np.int64),
        frames=np.arange(len(samples)),
    )


def _open_member(root: Path) -> Member:
    run = RunDir(root)
    config = load_run(run)
    for path in (run.environment, run.folds, run.temperature, run.manifest):
        if not path.exists():
            raise ValueError(
                f"{root} is not finished: it has no {path.name}; complete it with engine.train"
            )
    folds, manifest = FoldsFile.read(run.folds), Manifest.read(run.manifest)
    fingerprint = Environment.read(run.environment).dataset_fingerprint
    stems, fold_of = tuple(folds.fold_of), tuple(folds.fold_of.values())
    again = f"delete {run.oof} and run engine.train again"
    if stems != manifest.stems:
        strays = _examples({*stems} ^ {*manifest.stems})
        raise ValueError(f"{root}: the store and folds.json list other frames ({strays}); {again}")
    if fold_of != manifest.folds:
        raise ValueError(
            f"{root}: the store was made with other folds than folds.json lists; {again}"
        )
    weights = weights_identity(config, run, fingerprint, fold_of)
    store = open_store(run.oof, stage_identity(config, weights, *fold_hashes(config, run)))
    return Member(run, config, store, fingerprint, folds)


def _check_alike(first: Member, other: Member) -> None:
    names = f"{first.run.root} and {other.run.root}"
    classes = [member.config.data.classes for member in (first, other)]
    fold_of, others = first.folds.fold_of, other.folds.fold_of
    if classes[0] != classes[1]:
        differing = _examples({*classes[0]} ^ {*classes[1]}) or "in another order"
        raise ValueError(f"{names} have other classes ({differing}); blend runs of one class list")
    if list(fold_of) != list(others):
        raise ValueError(
            f"{names} have other frames: {len(fold_of)} and {len(others)}, not in both: "
            f"{_examples({*fold_of} ^ {*others})}; train them on one dataset"
        )
    if first.fingerprint != other.fingerprint:
        raise ValueError(
            f"{names} were trained on other data: same frames, but an image, depth map, label or "
            "scenes.csv differs; train them on one dataset"
        )
    moved = {stem for stem, fold in fold_of.items() if others[stem] != fold}
    if moved:
        raise ValueError(
            f"{names} have other folds: {len(moved)} of {len(fold_of)} frames are validated "
            f"by another one ({_examples(moved)}), so one run trained on what the other is scored "
            "on; train them with the same data.fold_* fields"
        )


def _examples(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3])
