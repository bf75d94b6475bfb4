"""A run's submission as one file, and the files that are kept."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.keep_submission import keep
from engine.mistakes import ConfigError
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.runtime.recorded import Environment

KEPT = Path(__file__).parents[2] / "benchmarks/results"


def committed(run: RunDir, commit: str | None) -> RunDir:
    known = Environment.read(run.environment)
    known.model_copy(update={"commit": commit}).write(run.environment)
    return run


def test_it_holds_the_labels_with_commit_and_hash(copied_run: RunDir, tmp_path: Path) -> None:
    keep(committed(copied_run, "0123456789ab").root, tmp_path / "kept.npz")
    with np.load(tmp_path / "kept.npz", allow_pickle=False) as kept:
        assert kept.files == ["submission", "commit", "config_hash"]
        assert np.array_equal(kept["submission"], np.load(copied_run.submission))
        assert kept["submission"].dtype == np.uint8
        assert str(kept["commit"]) == "0123456789ab"
        assert str(kept["config_hash"]) == Summary.read(copied_run.summary).key


def test_what_cannot_be_told_is_refused(copied_run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no commit: train from a checkout"):
        keep(committed(copied_run, None).root, tmp_path / "kept.npz")
    committed(copied_run, "0123456789ab").submission.unlink()
    with pytest.raises(ConfigError, match="submission.npy is missing: finish the run first"):
        keep(copied_run.root, tmp_path / "kept.npz")
    assert not (tmp_path / "kept.npz").exists()


@pytest.mark.parametrize("path", sorted(KEPT.glob("*_submission.npz")), ids=lambda path: path.stem)
def test_kept_ones_are_labels_of_all_test_frames(path: Path) -> None:
    with np.load(path, allow_pickle=False) as kept:
        labels_NHW = kept["submission"]
        assert labels_NHW.shape == (654, 480, 640)
        assert labels_NHW.dtype == np.uint8
        # All 13 classes are somewhere.
        assert np.bincount(labels_NHW.ravel(), minlength=13).nonzero()[0].tolist() == [*range(13)]
        assert len(str(kept["config_hash"])) == 64
        assert "dirty" not in str(kept["commit"])
