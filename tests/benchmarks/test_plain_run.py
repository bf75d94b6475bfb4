"""The rival trains, chooses and submits like the engine: same files' shapes, best weights kept."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.subset import Subset, with_section

pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks.plain.recipe import Recipe
from benchmarks.plain.run import blend, load_best, run, train_fold

pytestmark = pytest.mark.bench

_RECIPE = Recipe(workers=0)


def test_a_fold_is_validated_when_the_config_says_and_learns(
    tiny_subset: Subset, tmp_path: Path
) -> None:
    config = with_section(tiny_subset.config, "training", epochs=4, validate_every=3)
    samples = tiny_subset.dataset.train.samples
    history = train_fold(config, samples[:8], samples[8:], 0, tmp_path / "best.pt", _RECIPE)
    assert ["miou" in line for line in history] == [False, False, True, True]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[0]["loss"] == pytest.approx(
        history[0]["segmentation_loss"] + 0.1 * history[0]["depth_loss"]
    )
    load_best(config, tmp_path / "best.pt", _RECIPE)


def test_two_runs_end_in_a_blended_submission(tiny_subset: Subset, tmp_path: Path) -> None:
    config = with_section(tiny_subset.config, "training", epochs=1)
    runs = []
    for seed in (1, 2):
        seeded = with_section(config, "training", seed=seed)
        folder = tmp_path / str(seed)
        runs.append(run(seeded, tiny_subset.dataset, tiny_subset.folds, folder, _RECIPE))
        prob_NChw = np.load(folder / "prob.npy", mmap_mode="r")
        assert prob_NChw.shape == (12, 13, 24, 32)
        np.testing.assert_allclose(prob_NChw.sum(axis=1), 1, atol=2e-3)
        assert len(list(folder.glob("prob*.npy"))) == 1
        assert runs[-1].temperature in config.inference.temperatures
        masks_NHW = np.load(folder / "submission.npy")
        assert masks_NHW.shape == (5, 48, 64)
        with zipfile.ZipFile(folder / "submission.zip") as archive:
            assert archive.namelist() == ["submission.npy"]
    weights, miou = blend(runs, tiny_subset.dataset, tmp_path / "blend.npy", _RECIPE)
    assert weights.sum() == pytest.approx(1)
    assert 0 < miou < 1
    assert np.load(tmp_path / "blend.npy").shape == (5, 48, 64)
