"""The crossings of a frame against plain NumPy, and what they add up to."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.blend_sweep import (
    Bins,
    Crossings,
    add_to_bins,
    edge_values,
    frame_crossings,
    inside,
    reference,
    soft_counts,
    widest_peak,
)
from kernels.blend_sweep.cpu_curve import LISTED, SINGLE, SKIPPED

IGNORE = 255
WHOLE = (0, 1, 8)
LABEL_HW = (8, 11)
SAME, DIFFERENT = [(4, 5), (4, 5)], [(4, 5), (3, 7)]

Probs = list[NDArray[np.float32]]


def make(
    sizes_hw: list[tuple[int, int]], classes: int = 4, seed: int = 0
) -> tuple[Probs, NDArray[np.uint8]]:
    """Models of half precision, as stores have them, and labels of which a fifth are none."""
    rng = np.random.default_rng(seed)
    probs = [
        rng.dirichlet(np.ones(classes), hw).transpose(2, 0, 1).astype(np.float16).astype(np.float32)
        for hw in sizes_hw
    ]
    label = rng.integers(0, classes, LABEL_HW).astype(np.uint8)
    label[rng.random(LABEL_HW) < 0.2] = IGNORE
    return probs, label


def shared(classes: int, *ends: list[float]) -> NDArray[np.float64]:
    return np.repeat(np.array(ends, np.float64)[:, :, None], classes, axis=2)


def by_share(found: Crossings) -> list[tuple[float, int, int, int]]:
    """Rounded, so that the order of crossings at one share does not depend on the last bit."""
    rows = zip(found.share_E, found.kind_E3.tolist(), strict=True)
    return sorted((round(float(share), 12), *kind) for share, kind in rows)


@pytest.mark.parametrize(
    ("sizes_hw", "ends"),
    [
        pytest.param(SAME, [[1, 0], [0, 1]], id="from one model to the other"),
        pytest.param(DIFFERENT, [[1, 0], [0, 1]], id="of different sizes"),
        pytest.param([LABEL_HW] * 2, [[1, 0], [0.2, 0.8]], id="of the labels' size"),
        pytest.param([(4, 5)] * 3, [[0.2, 0.3, 0.5], [0.6, 0, 0.4]], id="three models"),
        pytest.param(SAME, [[1, -0.5], [-0.3, 0.4]], id="signed weights"),
        pytest.param([(2, 1), (2, 1)], [[1, 0], [0, 1]], id="one column"),
    ],
)
def test_it_lists_the_changes_that_plain_numpy_finds(
    sizes_hw: list[tuple[int, int]], ends: list[list[float]]
) -> None:
    probs, label = make(sizes_hw)
    count_CC, expected = reference.frame_crossings(probs, shared(4, *ends), label, WHOLE)
    found = frame_crossings(probs, shared(4, *ends), label, WHOLE)
    assert np.array_equal(found.count_CC, count_CC)
    assert by_share(found) == sorted((round(share, 12), *kind) for share, *kind in expected)
    assert len(expected) > 3


def test_every_class_may_have_its_own_line() -> None:
    probs, label = make(SAME)
    ends = np.random.default_rng(1).random((2, 2, 4))
    count_CC, expected = reference.frame_crossings(probs, ends, label, WHOLE)
    found = frame_crossings(probs, ends, label, WHOLE)
    assert np.array_equal(found.count_CC, count_CC)
    assert by_share(found) == sorted((round(share, 12), *kind) for share, *kind in expected)


@pytest.mark.parametrize("sizes_hw", [SAME, DIFFERENT])
def test_rows_of_a_frame_are_those_of_the_whole(sizes_hw: list[tuple[int, int]]) -> None:
    probs, label = make(sizes_hw)
    ends = shared(4, [1, 0], [0, 1])
    rest = label.copy()
    rest[1::3] = IGNORE
    whole, without = (frame_crossings(probs, ends, x, WHOLE) for x in (label, rest))
    rows = frame_crossings(probs, ends, label[1::3], (1, 3, 8))
    assert sorted(by_share(without) + by_share(rows)) == by_share(whole)
    assert np.array_equal(without.count_CC + rows.count_CC, whole.count_CC)
    assert len(by_share(rows)) > 3


@pytest.mark.parametrize("corner", range(4))
@pytest.mark.parametrize("end", range(2))
def test_one_cell_that_differs_at_one_end_is_enough_to_look_closer(corner: int, end: int) -> None:
    probs = [np.array([[[0.6] * 2] * 2, [[0.4] * 2] * 2], np.float32) for _ in range(2)]
    probs[end].reshape(2, 4)[:, corner] = 0.0, 1.0
    label = np.zeros((8, 8), np.uint8)
    count_CC, expected = reference.frame_crossings(probs, shared(2, [1, 0], [0, 1]), label, WHOLE)
    found = frame_crossings(probs, shared(2, [1, 0], [0, 1]), label, WHOLE)
    assert np.array_equal(found.count_CC, count_CC)
    assert by_share(found) == sorted((round(share, 12), *kind) for share, *kind in expected)
    # More pixels change than the four whose nearest cell it is and that lie beyond the others.
    assert len(expected) > 4


def test_it_is_the_same_backwards() -> None:
    probs, label = make(SAME)
    there, back = (
        frame_crossings(probs, shared(4, *ends), label, WHOLE)
        for ends in ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]])
    )
    turned = sorted((round(1 - t, 12), truth, b, a) for t, truth, a, b in by_share(there))
    assert [row[1:] for row in turned] == [row[1:] for row in by_share(back)]
    np.testing.assert_allclose([r[0] for r in turned], [r[0] for r in by_share(back)], atol=1e-11)


@pytest.mark.parametrize(
    ("first_C", "second_C", "expected"),
    [
        # The lower class has the crossing itself, the higher one what follows.
        ([0.25, 0.75], [0.75, 0.25], [(0.5, 0, 1, 0)]),
        ([0.75, 0.25], [0.25, 0.75], [(float(np.nextafter(0.5, 1)), 0, 0, 1)]),
        # Three classes meet: the lowest has the crossing alone.
        (
            [0.25, 0.75, -0.25],
            [0.25, -0.25, 0.75],
            [(0.5, 0, 1, 0), (np.nextafter(0.5, 1), 0, 0, 2)],
        ),
        # At the end of the line the lower class wins at 1, the higher one never.
        ([0.25, 0.75], [0.5, 0.5], [(1.0, 0, 1, 0)]),
        ([0.75, 0.25], [0.5, 0.5], []),
        # At its start the lower class wins, and the higher one at once beyond it.
        ([0.5, 0.5], [0.25, 0.75], [(float(np.nextafter(0, 1)), 0, 0, 1)]),
        ([0.5, 0.5], [0.75, 0.25], []),
        # Lines that coincide do not cross.
        ([0.5, 0.5], [0.5, 0.5], []),
    ],
)
def test_right_on_a_crossing_the_lower_class_wins(
    first_C: list[float], second_C: list[float], expected: list[tuple[float, ...]]
) -> None:
    probs = [np.array(p_C, np.float32)[:, None, None] for p_C in (first_C, second_C)]
    ends = shared(len(first_C), [1, 0], [0, 1])
    found = frame_crossings(probs, ends, np.zeros((1, 1), np.uint8), (0, 1, 1))
    rows = zip(found.share_E.tolist(), found.kind_E3.tolist(), strict=True)
    assert [(share, *kind) for share, kind in rows] == expected


def test_a_frame_without_labels_has_nothing() -> None:
    probs, label = make(SAME)
    found = frame_crossings(probs, shared(4, [1, 0], [0, 1]), np.full_like(label, IGNORE), WHOLE)
    assert found.count_CC.sum() == 0
    assert len(found.share_E) == 0
    assert not soft_counts(probs, np.full_like(label, IGNORE), WHOLE).any()


def test_soft_counts_are_sums_of_resized_probabilities() -> None:
    probs, label = make(SAME)
    ones = np.ones_like(label) * 0
    # Where every label is class 0, the hits of class 0 are its sum over all pixels.
    total_2MC = soft_counts(probs, ones, WHOLE)
    np.testing.assert_allclose(total_2MC[0, :, 0], total_2MC[1, :, 0])
    assert not total_2MC[0, :, 1:].any()
    np.testing.assert_allclose(total_2MC[1].sum(axis=1), label.size, rtol=1e-3)
    parts = []
    for c in range(4):
        only = np.where(label == c, label, IGNORE).astype(np.uint8)
        parts.append(soft_counts(probs, only, WHOLE))
        np.testing.assert_allclose(parts[c][0, :, c], parts[c][1, :, c])
    np.testing.assert_allclose(sum(parts), soft_counts(probs, label, WHOLE))


@pytest.mark.parametrize("inner", [[0.25, 0.5, 0.75], [0.4, 0.45, 0.9], [1e-9, 2e-9, 0.999]])
def test_bins_add_up_to_the_counts_at_their_edges(inner: list[float]) -> None:
    probs, label = make(SAME)
    found = frame_crossings(probs, shared(4, [1, 0], [0, 1]), label, WHOLE)
    # Some right on an edge, which end the bin before it.
    found.share_E[:3] = inner
    edge_J = np.array([0.0, *inner, 1.0])
    note_K4C = np.zeros((4, 4, 4), np.int64)
    low_K, high_K = np.full(4, np.inf), np.full(4, -np.inf)
    add_to_bins(note_K4C, low_K, high_K, edge_J, found)
    assert note_K4C[:, [0, 2]].sum() == note_K4C[:, [1, 3]].sum() == len(found.share_E)
    for k in range(4):
        inside_E = (found.share_E > edge_J[k]) & (found.share_E <= edge_J[k + 1])
        assert low_K[k] == found.share_E[inside_E].min(initial=np.inf)
        assert high_K[k] == found.share_E[inside_E].max(initial=-np.inf)
        assert note_K4C[k, [1, 3]].sum() == inside_E.sum()
        only = inside(found, edge_J, np.arange(4) == k)
        assert np.array_equal(only.share_E, found.share_E[inside_E])
        assert np.array_equal(only.kind_E3, found.kind_E3[inside_E])


def test_counts_at_an_edge_have_all_bins_before_it() -> None:
    probs, label = make(SAME)
    found = frame_crossings(probs, shared(4, [1, 0], [0, 1]), label, WHOLE)
    edge_J, note_K4C = np.linspace(0, 1, 5), np.zeros((4, 4, 4), np.int64)
    add_to_bins(note_K4C, np.full(4, np.inf), np.full(4, -np.inf), edge_J, found)
    hits = [frame_crossings(probs, shared(4, [1 - t, t], [0, 1]), label, WHOLE) for t in edge_J]
    change_KC = note_K4C[:, 0] - note_K4C[:, 1]
    for k in range(1, 5):
        hit_C = np.diagonal(found.count_CC) + change_KC[:k].sum(axis=0)
        assert np.array_equal(hit_C, np.diagonal(hits[k].count_CC))


def test_the_widest_of_equal_stretches_is_found() -> None:
    # One class of ten pixels; right ones come and go: 5, then 8 on [.1, .2), 6, 8 on [.6, .9), 7.
    shares = [0.1] * 3 + [0.2] * 2 + [0.6] * 2 + [0.9]
    kinds = [(0, 1, 0)] * 3 + [(0, 0, 1)] * 2 + [(0, 1, 0)] * 2 + [(0, 0, 1)]
    hit_JC = np.array([[5, 0], [6, 0], [7, 0]])
    bins = Bins(
        np.array([0.0, 0.5, 1.0]),
        np.array([LISTED, LISTED], np.uint8),
        np.array([0.1, 0.6]),
        hit_JC,
        np.array([[0, 5], [0, 4], [0, 3]]),
        np.array([10, 0]),
    )
    share_E, kind_E3 = np.array(shares), np.array(kinds, np.uint8)
    # Class 1 has no pixel but is predicted, so it counts as 0.
    assert widest_peak(bins, share_E, kind_E3) == (0.8 / 2, 0.6, 0.9)
    skipped = bins._replace(state_K=np.array([LISTED, SKIPPED], np.uint8))
    assert widest_peak(skipped, share_E[:5], kind_E3[:5]) == (0.8 / 2, 0.1, 0.2)
    single = bins._replace(state_K=np.array([SINGLE, SINGLE], np.uint8))
    assert widest_peak(single, share_E[:0], kind_E3[:0]) == (0.7 / 2, 0.6, 1.0)
    assert edge_values(*bins[3:]).tolist() == [0.25, 0.3, 0.35]


def test_arguments_that_do_not_fit_are_refused() -> None:
    probs, label = make(SAME)
    ends = shared(4, [1, 0], [0, 1])
    with pytest.raises(ValueError, match=r"must be \(2, M, C\) = \(2, 2, 4\), got \(2, 1, 4\)"):
        frame_crossings(probs, ends[:, :1], label, WHOLE)
    with pytest.raises(ValueError, match="models must agree in at most 255 classes"):
        frame_crossings([probs[0], probs[1][:3]], ends, label, WHOLE)
    with pytest.raises(ValueError, match=r"must be \(C, h, w\) of one model or more"):
        frame_crossings([], ends[:, :0], label, WHOLE)
    with pytest.raises(ValueError, match="labels must be 2-D uint8, got int64"):
        frame_crossings(probs, ends, label.astype(np.int64), WHOLE)
    with pytest.raises(ValueError, match=r"rows 0, 2 .. of 8 are 4, got 8 rows"):
        frame_crossings(probs, ends, label, (0, 2, 8))
