"""Counts of single frames, by member, blend and honest blend."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.selection.blend import Fit
from engine.selection.pixels import OofPixels, frame_confusions, shared
from kernels.metrics import mean_iou

MakePixels = Callable[..., OofPixels]


@pytest.mark.parametrize("by_class", [False, True])
def test_each_frame_is_counted_with_its_own_folds_weights(
    make_pixels: MakePixels, brute_miou: Callable[..., float], by_class: bool
) -> None:
    pixels = make_pixels(3, frames=4, folds=2)
    rng = np.random.default_rng(0)
    weights = rng.random((3, 2, 3)) if by_class else np.repeat(rng.random((3, 2, 1)), 3, axis=2)
    count_KNCC = frame_confusions(pixels, Fit(weights[0], weights[1:]).systems)
    assert count_KNCC.shape == (4, 4, 3, 3)
    for k, weight_MC in enumerate((shared([1, 0], 3), shared([0, 1], 3), weights[0])):  # type: ignore[arg-type]
        counted = mean_iou(count_KNCC[k].sum(axis=0))
        assert counted == pytest.approx(brute_miou(pixels, weight_MC), abs=1e-12)
        alone_FKMC = np.stack([weight_MC[None]] * pixels.folds)
        assert np.array_equal(frame_confusions(pixels, alone_FKMC)[0], count_KNCC[k])
    for fold in range(2):
        own = pixels.fold_of_N == fold
        counted = mean_iou(count_KNCC[3, own].sum(axis=0))
        part = pixels.without(1 - fold)
        assert counted == pytest.approx(brute_miou(part, weights[1 + fold]), abs=1e-12)
