"""The exact curve and its peak against counting by plain NumPy in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.selection import sweep as module
from engine.selection.pixels import OofPixels, shared
from engine.selection.sweep import Peak, sweep

IGNORE = 255
MakePixels = Callable[..., OofPixels]
Miou = Callable[..., float]


def pair(classes: int) -> NDArray[np.float64]:
    return np.stack([shared(end_M, classes) for end_M in np.eye(2)])


def at(pixels: OofPixels, share: float) -> NDArray[np.float64]:
    return shared(np.array([1 - share, share]), pixels.classes)


def crossings_of(pixels: OofPixels) -> NDArray[np.float64]:
    """Every share at which anything changes, ascending."""
    shares = [found.share_E for _, found in pixels.sweep(pair(pixels.classes), "x")]
    return np.unique(np.concatenate(shares))


@pytest.fixture(params=[(1000, 1 << 22), (4, 0), (3, 7)], ids=["listed", "refined", "both"])
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass lists every crossing; bins alone; bins, then the crossings of few."""
    monkeypatch.setattr(module, "BINS", request.param[0])
    monkeypatch.setattr(module, "MOST_CROSSINGS", request.param[1])


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("seed", range(4))
def test_the_curve_and_the_peak_are_those_of_counting_everywhere(
    make_pixels: MakePixels, brute_miou: Miou, seed: int
) -> None:
    pixels = make_pixels(seed)
    found = sweep(pixels, pair(pixels.classes))
    for share, miou in list(zip(found.share_J, found.miou_J, strict=True))[
        :: len(found.miou_J) // 3
    ]:
        assert miou == pytest.approx(brute_miou(pixels, at(pixels, share)), abs=1e-12)
    crossing_E = crossings_of(pixels)
    assert len(crossing_E) > 20
    between = (np.concatenate([[0], crossing_E]) + np.concatenate([crossing_E, [1]])) / 2
    values = [brute_miou(pixels, at(pixels, share)) for share in between]
    peak = found.peaks[0]
    assert peak.miou == pytest.approx(max(values), abs=1e-12)
    assert brute_miou(pixels, at(pixels, peak.share)) == pytest.approx(max(values), abs=1e-12)
    assert peak.low <= between[np.argmax(values)] or values.count(max(values)) > 1
    assert peak.high - peak.low > 1e-9


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [None, 4], ids=["smooth", "ties"])
def test_no_grid_of_1001_weights_and_no_run_alone_is_better(
    make_pixels: MakePixels, brute_miou: Miou, seed: int, levels: int | None
) -> None:
    pixels = make_pixels(seed, frames=2, sizes=((2, 3), (3, 4)))
    if levels:
        for prob_NChw in pixels.prob_MNChw:
            prob_NChw[:] = np.round(prob_NChw * levels) / levels
    peak = sweep(pixels, pair(pixels.classes)).peaks[0]
    grid = [brute_miou(pixels, at(pixels, share)) for share in np.linspace(0, 1, 1001)]
    assert peak.miou >= max(grid) - 1e-9
    if peak.high - peak.low > 1e-9:
        assert brute_miou(pixels, at(pixels, peak.share)) == pytest.approx(peak.miou, abs=1e-12)


@pytest.mark.usefixtures("_ways")
def test_a_tie_that_beats_both_of_its_sides_is_found(
    make_pixels: MakePixels, brute_miou: Miou
) -> None:
    # Of two pixels of class 0 one has it before one half, the other after; at the tie both do.
    pixels = make_pixels(0, frames=1, sizes=((1, 2), (1, 2)), classes=2, folds=1)
    pixels.prob_MNChw[0][0] = [[[0.75, 0.25]], [[0.25, 0.75]]]
    pixels.prob_MNChw[1][0] = [[[0.25, 0.75]], [[0.75, 0.25]]]
    pixels.read_label(0)[:] = 0
    peak = sweep(pixels, pair(2)).peaks[0]
    assert (peak.miou, peak.share) == (1.0, 0.5)
    assert brute_miou(pixels, at(pixels, 0.5)) == 1.0
    assert brute_miou(pixels, at(pixels, 0.499)) < 1
    assert brute_miou(pixels, at(pixels, 0.501)) < 1


@pytest.mark.usefixtures("_ways")
def test_many_pixels_that_change_at_once_end_the_search(
    make_pixels: MakePixels, brute_miou: Miou
) -> None:
    pixels = make_pixels(0, frames=2, classes=3, folds=1)
    for prob_NChw, p_C in zip(pixels.prob_MNChw, ([0.5, 0.3, 0.2], [0.1, 0.7, 0.2]), strict=True):
        prob_NChw[:] = np.array(p_C, np.float16)[:, None, None]
    peak = sweep(pixels, pair(3)).peaks[0]
    best = max(brute_miou(pixels, at(pixels, share)) for share in (0, 0.2, 0.6, 1))
    assert peak.miou == pytest.approx(best, abs=1e-12)
    assert peak.high - peak.low > 0.3


def test_two_equal_stores_have_one_flat_curve(make_pixels: MakePixels, brute_miou: Miou) -> None:
    pixels = make_pixels(1)
    twice = OofPixels(pixels.prob_MNChw[:1] * 2, pixels.read_label, pixels.fold_of_N, pixels.frames)
    found = sweep(twice, pair(pixels.classes))
    peak = found.peaks[0]
    assert (peak.low, peak.high, peak.share) == (0, 1, 0.5)
    assert np.ptp(found.miou_J) == 0
    assert peak.miou == pytest.approx(brute_miou(pixels, at(pixels, 0.0)), abs=1e-12)


@pytest.mark.parametrize("lost", ["class", "everything"])
def test_classes_without_pixels_and_frames_without_labels_are_no_trouble(
    make_pixels: MakePixels, brute_miou: Miou, lost: str
) -> None:
    pixels = make_pixels(2)
    for frame in map(int, pixels.frames):
        label_HW = pixels.read_label(frame)
        label_HW[(label_HW == 1) if lost == "class" else slice(None)] = IGNORE
    peak = sweep(pixels, pair(pixels.classes)).peaks[0]
    grid = [brute_miou(pixels, at(pixels, share)) for share in np.linspace(0, 1, 101)]
    assert peak.miou >= max(grid) - 1e-12
    assert brute_miou(pixels, at(pixels, peak.share)) == pytest.approx(peak.miou, abs=1e-12)


@pytest.mark.usefixtures("_ways")
def test_each_curve_counts_its_folds_alone(make_pixels: MakePixels, brute_miou: Miou) -> None:
    pixels = make_pixels(3, folds=2)
    use_GF = np.array([[True, True], [False, True], [True, False]])
    peaks = sweep(pixels, pair(pixels.classes), use_GF).peaks
    for fold, peak in enumerate(peaks[1:]):
        alone = sweep(pixels.without(fold), pair(pixels.classes)).peaks[0]
        assert (peak.miou, peak.low, peak.high) == (alone.miou, alone.low, alone.high)
        counted = brute_miou(pixels.without(fold), at(pixels, peak.share))
        assert counted == pytest.approx(peak.miou, abs=1e-12)
    assert peaks[1].share != peaks[2].share


@pytest.mark.usefixtures("_ways")
def test_a_curve_of_no_folds_is_flat_and_costs_no_pass(
    make_pixels: MakePixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    read = OofPixels.sweep

    def counted(pixels: OofPixels, end_2MC: NDArray[np.float64], name: str) -> Any:
        passes.append(name)
        return read(pixels, end_2MC, name)

    monkeypatch.setattr(OofPixels, "sweep", counted)
    pixels = make_pixels(0)
    (alone,) = sweep(pixels, pair(pixels.classes)).peaks
    expected = passes.copy()
    passes.clear()
    use_GF = np.stack([np.ones(pixels.folds, bool), np.zeros(pixels.folds, bool)])
    both = sweep(pixels, pair(pixels.classes), use_GF).peaks
    assert both == (alone, Peak(0.0, 0.0, 1.0))
    assert passes == expected


def test_thinned_pixels_are_a_part_of_all(make_pixels: MakePixels) -> None:
    pixels = make_pixels(0)
    thinned = pixels.thinned(len(pixels.frames) * 6 * 8 // 3)
    assert thinned.kept is not None
    assert thinned.kept[1][1] == (1, 3, 6)
    whole, part = (
        sum(found.count_CC.sum() for _, found in p.sweep(pair(p.classes), "x"))
        for p in (pixels, thinned)
    )
    assert 0 < part < whole / 2


def test_the_middle_of_a_stretch_lies_in_it() -> None:
    above = float(np.nextafter(0.5, 1))
    assert module.Peak(1, 0.25, 0.75).share == 0.5
    assert module.Peak(1, 0.5, above).share == 0.5
    assert module.Peak(1, 1.0, 1.0).share == 1.0
