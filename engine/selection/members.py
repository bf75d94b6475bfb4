"""The runs of a blend: opened, checked, their stores read together.

They have to have the same classes, frames, data and folds; all of that is checked from small files
and hashes before any probability is read.

Axes: N samples, C class, h w stored pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.data.folds import FoldsFile
from engine.frames.decode import read_label
from engine.identity import fold_hashes, stage_identity, weights_identity
from engine.rundir import RunDir, load_run, refuse_unfinished, refuse_unscored, to_complete
from engine.runtime.recorded import Environment
from engine.views.records import Manifest

if TYPE_CHECKING:
    # Not to refuse runs that do not fit together: they load PyTorch.
    from engine.frames.index import Dataset
    from engine.selection.pixels import OofPixels


class Member(NamedTuple):
    """One finished run.

    Attributes:
        run: its folder.
        config: its config.
        prob_NChw: (N, C, h, w) float16 out-of-fold probabilities, memory-mapped.
        manifest: what they are: their temperature, classes, frames and folds, and what of.
        fingerprint: of the dataset that it was trained on.
        leakage: share of frames with a neighbour among the training frames of their fold.
    """

    run: RunDir
    config: Config
    prob_NChw: NDArray[np.float16]
    manifest: Manifest
    fingerprint: str
    leakage: float

    def predicting(self, runtime: str | None) -> Config:
        """The config, with another `runtime.inference` if one is named."""
        named = {} if runtime is None else {"inference": runtime}
        changed = self.config.runtime.model_copy(update=named)
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
    return tuple(_open_member(one) for one in check_members(roots))


class Told(NamedTuple):
    """What the small files of a finished run tell."""

    run: RunDir
    config: Config
    folds: FoldsFile
    manifest: Manifest
    fingerprint: str


def check_members(roots: Sequence[Path]) -> tuple[Told, ...]:
    """Refuse, as `open_members`, what the runs' small files show to be unfit; loads no PyTorch."""
    if len(roots) < 2:
        raise ValueError(f"a blend needs two runs or more, got {len(roots)}")
    told = tuple(_read_member(root) for root in roots)
    for other in told[1:]:
        _check_alike(told[0], other)
    return told


def check_dataset(members: Sequence[Member], dataset: "Dataset") -> None:
    """Refuse a dataset that is not what the runs were trained on.

    Raises:
        ValueError: a file of the dataset was changed, added or removed since.
    """
    if dataset.fingerprint != members[0].fingerprint:
        raise ValueError(
            f"the dataset is not the one that {members[0].run.root} was trained on: a file was "
            "changed, added or removed since; restore it, or name its folder with --data"
        )


def open_pixels(members: Sequence[Member], dataset: "Dataset") -> "OofPixels":
    """The members' stores with the labels of a dataset that `check_dataset` let pass."""
    from engine.selection.pixels import OofPixels

    samples = dataset.train.samples
    stores_M = tuple(member.prob_NChw for member in members)
    fold_of_N = np.array(members[0].manifest.folds, np.int64)
    return OofPixels(stores_M, lambda n: read_label(samples[n]), fold_of_N, np.arange(len(samples)))


def _read_member(root: Path) -> Told:
    run = RunDir(root)
    config = load_run(run)
    told = "no weights of a blend can be found for it; engine.predict takes several runs alike"
    refuse_unscored(run, told)
    refuse_unfinished(run, run.environment, run.folds, run.temperature, run.manifest)
    folds, manifest = FoldsFile.read(run.folds), Manifest.read(run.manifest)
    fingerprint = Environment.read(run.environment).dataset_fingerprint
    stems, fold_of = tuple(folds.fold_of), tuple(folds.fold_of.values())
    again = f"move {run.oof} away and predict again from the weights: {to_complete(root)}"
    if stems != manifest.stems:
        strays = _examples({*stems} ^ {*manifest.stems})
        raise ValueError(f"{root}: the store and folds.json list other frames ({strays}); {again}")
    if fold_of != manifest.folds:
        raise ValueError(
            f"{root}: the store was made with other folds than folds.json lists; {again}"
        )
    return Told(run, config, folds, manifest, fingerprint)


def refuse_other_config(config: Config, run: RunDir) -> None:
    """Refuse the `config` of a finished run, which was changed, if its store was not made with it.

    Raises DamageError, or ValueError as `open_store`.
    """
    from engine.views.store import open_store

    open_store(run.oof, _store_key(config, run, FoldsFile.read(run.folds)))


def _open_member(told: Told) -> Member:
    from engine.views.store import open_store

    run, config, folds, _, fingerprint = told
    store = open_store(run.oof, _store_key(config, run, folds))
    return Member(run, config, store.prob_NChw, store.manifest, fingerprint, folds.leakage)


def _store_key(config: Config, run: RunDir, folds: FoldsFile) -> str:
    fingerprint = Environment.read(run.environment).dataset_fingerprint
    weights = weights_identity(config, run, fingerprint, [*folds.fold_of.values()])
    return stage_identity(config, weights, *fold_hashes(config, run))


def _check_alike(first: Told, other: Told) -> None:
    names = f"{first.run.root} and {other.run.root}"
    a, b = first.manifest, other.manifest
    if a.classes != b.classes:
        differing = _examples({*a.classes} ^ {*b.classes}) or "in another order"
        raise ValueError(f"{names} have other classes ({differing}); blend runs of one class list")
    if a.stems != b.stems:
        raise ValueError(
            f"{names} have other frames: {len(a.stems)} and {len(b.stems)}, not in both: "
            f"{_examples({*a.stems} ^ {*b.stems})}; train them on one dataset"
        )
    if first.fingerprint != other.fingerprint:
        raise ValueError(
            f"{names} were trained on other data: same frames, but an image, depth map, label or "
            "scenes.csv differs; train them on one dataset"
        )
    deep = [run.config.data.depth_invalid for run in (first, other) if run.config.needs_depth]
    if len(set(deep)) > 1:
        raise ValueError(
            f"{names} take other depths for missing (data.depth_invalid = {deep[0]}, {deep[1]}); "
            "train them with the same"
        )
    moved = {stem for stem, one, two in zip(a.stems, a.folds, b.folds, strict=True) if one != two}
    if moved:
        raise ValueError(
            f"{names} have other folds: {len(moved)} of {len(a.stems)} frames are validated "
            f"by another one ({_examples(moved)}), so one run trained on what the other is scored "
            "on; train them with the same data.fold_* fields"
        )


def _examples(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3])
