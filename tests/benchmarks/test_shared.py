"""Finished runs in the place of the benchmark's own stores."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.rows import ours
from benchmarks.subset import Job, Subset
from benchmarks.throughput import main
from engine.mistakes import ConfigError
from engine.views.records import StoreLayout
from engine.views.store import ProbStoreWriter


def finished(root: Path, stems: tuple[str, ...], classes: tuple[str, ...]) -> NDArray[np.float16]:
    """A run's store of random numbers; (N, C, h, w)."""
    shape, fold_of = (len(stems), len(classes), 8, 12), np.zeros(len(stems), np.int64)
    layout = StoreLayout(shape, stems, fold_of, classes, (1.0,), "key")
    prob_NChw = np.random.default_rng(len(root.name)).random(layout.shape).astype(np.float16)
    writer = ProbStoreWriter(root / "oof", layout)
    for n, prob_Chw in enumerate(prob_NChw):
        writer.write(n, prob_Chw[None].astype(np.float32), 0)
    writer.finish(1.0, "key")
    return prob_NChw


def job_of(subset: Subset, folder: Path, *runs: Path) -> Job:
    opened = subset.config, subset.dataset, subset.folds
    return Job(*opened, folder / "networks", folder / "shared", folder, models=3, runs=runs)


def test_the_stores_of_runs_are_taken_frame_by_frame(tiny_subset: Subset, tmp_path: Path) -> None:
    stems = tuple(sample.stem for sample in tiny_subset.dataset.train.samples)
    classes = tiny_subset.config.data.classes
    runs = tmp_path / "a", tmp_path / "bb"
    # A run on more frames, in another order.
    first, second = (finished(run, ("extra", *stems[::-1]), classes) for run in runs)
    job = job_of(tiny_subset, tmp_path, *runs)
    ours.stores(job)
    np.testing.assert_array_equal(np.load(job.store(0)), first[:0:-1])
    np.testing.assert_array_equal(np.load(job.store(1)), second[:0:-1])
    assert np.load(job.store(2)).shape == (12, 13, 8, 12)
    assert not job.networks.exists()


def test_a_run_of_other_frames_or_classes_is_refused(tiny_subset: Subset, tmp_path: Path) -> None:
    stems = tuple(sample.stem for sample in tiny_subset.dataset.train.samples)
    classes = tiny_subset.config.data.classes
    finished(tmp_path / "few", stems[1:], classes)
    finished(tmp_path / "other", stems, classes[::-1])
    with pytest.raises(ValueError, match=f"few does not hold frame {stems[0]}"):
        ours.stores(job_of(tiny_subset, tmp_path, tmp_path / "few"))
    with pytest.raises(ValueError, match="other has other classes"):
        ours.stores(job_of(tiny_subset, tmp_path, tmp_path / "other"))


@pytest.mark.bench("albumentations")
def test_a_run_without_a_store_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--runs: .*none.* holds no finished store"):
        main(["--runs", str(tmp_path / "none"), str(tmp_path / "none")])
