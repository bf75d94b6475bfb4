import itertools
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.config import DataConfig
from engine.data.batch import Draws
from engine.data.file_source import sample_positions
from engine.data.inputs import draw, epoch_order, whole_frame_draws

SIDES = st.integers(33, 5000)
SEEDS = st.integers(0, 2**63 - 1)

FROZEN_BOX = [55.312744140625, 0.000244140625, 424.6875, 566.25]
FROZEN_LIGHT = (True, 1.0397685766220093, -0.10244268923997879)
FROZEN_ORDER = [1, 7, 2, 4, 5, 3, 0, 6]


def config_of(input_hw: tuple[int, int], crop_hw: tuple[int, int], **fields: float) -> DataConfig:
    return DataConfig.model_validate({"input_hw": input_hw, "crop_hw": crop_hw, **fields})


@st.composite
def geometries(draw_: st.DrawFn) -> tuple[DataConfig, NDArray[np.int64], int]:
    """A config and the size of one frame, with a seed."""
    crop = (32 * draw_(st.integers(1, 8)), 32 * draw_(st.integers(1, 8)))
    size = (crop[0] + draw_(st.integers(0, 300)), crop[1] + draw_(st.integers(0, 300)))
    limit = draw_(st.floats(0, 0.7))
    config = config_of(size, crop, scale_limit=limit, scale_p=1)
    return config, np.array([[draw_(SIDES), draw_(SIDES)]]), draw_(SEEDS)


def one(config: DataConfig, hw: NDArray[np.int64], seed: int, pixel: list[int] | None) -> Draws:
    pixels = np.array([] if pixel is None else [pixel], dtype=np.int32).reshape(-1, 2)
    return draw(config, seed=seed, epoch=0, index=np.array([0]), hw=hw, small_pixels=[pixels])


def assert_equal(a: Draws, b: Draws) -> None:
    for ours, theirs in zip(astuple(a), astuple(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_no_position_is_a_whole_number_and_float32_holds_every_one_inside(
    geometry: tuple[DataConfig, NDArray[np.int64], int],
) -> None:
    config, hw, seed = geometry
    for axis, positions in enumerate(sample_positions(one(config, hw, seed, None), config.crop_hw)):
        inside = positions[(positions >= 0) & (positions < hw[0, axis])]
        assert inside.size
        assert (inside != np.round(inside)).all()
        np.testing.assert_array_equal(inside.astype(np.float32).astype(np.float64), inside)


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_a_crop_lies_inside_the_frame_or_covers_it(
    geometry: tuple[DataConfig, NDArray[np.int64], int],
) -> None:
    config, hw, seed = geometry
    draws = one(config, hw, seed, None)
    for axis, positions in enumerate(sample_positions(draws, config.crop_hw)):
        length, side = draws.box[0, 2 + axis], hw[0, axis]
        if length <= side:
            assert positions.min() > 0
            assert positions.max() < side
        else:
            # One position at each end of the frame, at most a step apart from its edge.
            step = length / config.crop_hw[axis]
            inside = positions[(positions > 0) & (positions < side)]
            assert inside.min() <= step
            assert inside.max() >= side - step - 1e-2


@settings(max_examples=60, deadline=None)
@given(geometries(), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_class_aware_crop_holds_its_pixel_as_near_the_centre_as_the_frame_allows(
    geometry: tuple[DataConfig, NDArray[np.int64], int], row: float, column: float
) -> None:
    config, hw, seed = geometry
    config = config.model_copy(update={"class_aware_p": 1.0})
    pixel = [int(row * hw[0, 0]), int(column * hw[0, 1])]
    top, left, height, width = one(config, hw, seed, pixel).box[0]
    for start, length, at, side in (
        (top, height, pixel[0], hw[0, 0]),
        (left, width, pixel[1], hw[0, 1]),
    ):
        assert start < at + 0.5 < start + length
        if 0.1 < start < side - length - 0.1:
            assert abs(start + length / 2 - (at + 0.5)) < 2e-3


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 1000), st.permutations(range(12)), st.integers(1, 12))
def test_a_row_depends_on_its_sample_alone_and_not_on_its_batch(
    seed: int, epoch: int, order: list[int], batch: int
) -> None:
    config = config_of((96, 128), (64, 96))
    hw = np.array([[60 + i, 90 + 2 * i] for i in range(12)])
    pixels = [np.array([[i, i]], dtype=np.int32) for i in range(12)]
    fields = {"seed": seed, "epoch": epoch, "hw": hw, "small_pixels": pixels}
    index = np.array(order)
    whole = draw(config, index=index, **fields)  # type: ignore[arg-type]
    parts = [
        draw(config, index=index[i : i + batch], **fields)  # type: ignore[arg-type]
        for i in range(0, 12, batch)
    ]
    for i, part in zip(range(0, 12, batch), parts, strict=True):
        assert_equal(part, whole.at(slice(i, i + batch)))


def test_seed_epoch_and_sample_each_change_the_draw() -> None:
    config = config_of((96, 128), (64, 96))
    hw, pixels = np.full((5, 2), 480), [np.zeros((0, 2), np.int32)] * 5
    boxes = {
        draw(
            config, seed=seed, epoch=epoch, index=np.array([sample]), hw=hw, small_pixels=pixels
        ).box.tobytes()
        for seed, epoch, sample in itertools.product(range(3), range(3), range(5))
    }
    assert len(boxes) == 45


def test_the_numbers_are_those_of_the_first_release() -> None:
    # A run that was begun with one version must go on the same with another.
    config = config_of((240, 320), (192, 256), jitter_p=1)
    draws = draw(
        config,
        seed=42,
        epoch=3,
        index=np.array([7]),
        hw=np.full((8, 2), (480, 640)),
        small_pixels=[np.array([[400, 10], [30, 500]], np.int32)] * 8,
    )
    np.testing.assert_array_equal(draws.box, [FROZEN_BOX])
    assert (bool(draws.flip[0]), *draws.light[0].tolist()) == FROZEN_LIGHT
    np.testing.assert_array_equal(epoch_order(42, 3, np.arange(8)), FROZEN_ORDER)


def test_probabilities_and_limits_are_those_of_the_config() -> None:
    config = config_of((240, 320), (192, 256), scale_p=0.3, flip_p=0.25, jitter_p=0.7)
    n = 4000
    draws = draw(
        config,
        seed=0,
        epoch=0,
        index=np.arange(n),
        hw=np.full((n, 2), (480, 640)),
        small_pixels=[np.zeros((0, 2), np.int32)] * n,
    )
    scale = 2 * 192 / draws.box[:, 2]
    for share, expected in (
        ((scale != 1).mean(), 0.3),
        (draws.flip.mean(), 0.25),
        ((draws.light[:, 0] != 1).mean(), 0.7),
        ((draws.light[:, 1] != 0).mean(), 0.7),
    ):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    for values, low, high in (
        (scale, 0.8, 1.2),
        (draws.light[:, 0], 0.8, 1.2),
        (draws.light[:, 1], -0.2, 0.2),
    ):
        assert low - 1e-3 <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high + 1e-3
    free = scale == 1  # the crop starts anywhere between the frame's edges
    assert draws.box[free, 0].min() < 1
    assert draws.box[free, 0].max() > 480 - 384 - 1
    assert abs(draws.box[free, 1].mean() - (640 - 512) / 2) < 3


def test_without_augmentation_and_with_crop_equal_to_input_the_box_is_the_frame() -> None:
    config = config_of((96, 128), (96, 128), scale_p=0, flip_p=0, jitter_p=0)
    draws = one(config, np.array([[192, 256]]), 0, None)
    np.testing.assert_allclose(draws.box, [[0, 0, 192, 256]], atol=1e-3)
    assert not draws.flip[0]
    assert (*draws.light[0],) == (1, 0)


@pytest.mark.parametrize(
    ("input_hw", "hw"),
    [((720, 960), (480, 640)), ((96, 128), (192, 256)), ((99, 33), (300, 100)), ((70, 70), (7, 7))],
    ids=str,
)
def test_a_frame_of_the_inputs_own_aspect_is_drawn_alike_by_either_fit(
    input_hw: tuple[int, int], hw: tuple[int, int]
) -> None:
    fields = {"index": np.arange(50), "hw": np.full((50, 2), hw), "seed": 0, "epoch": 0}
    pixels = [np.zeros((0, 2), np.int32)] * 50
    kept, stretched = (
        draw(
            DataConfig.model_validate({"input_hw": input_hw, "crop_hw": (32, 32), "fit": fit}),
            small_pixels=pixels,
            **fields,  # type: ignore[arg-type]
        )
        for fit in ("keep", "stretch")
    )
    assert_equal(kept, stretched)


def test_a_crop_wider_than_a_kept_frame_holds_all_of_its_width_undistorted() -> None:
    config = config_of((720, 960), (576, 768), scale_p=0)
    for seed in range(20):
        draws = one(config, np.array([[640, 480]]), seed, None)
        top, left, height, width = draws.box[0]
        np.testing.assert_allclose((height, width), (576 / 1.5, 768 / 1.5), atol=0.5)
        assert top > 0
        assert top + height < 640
        assert left <= 0.001
        assert left + width >= 480


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 10**6), st.sets(st.integers(0, 10**6), max_size=50))
def test_an_epoch_visits_every_sample_once(seed: int, epoch: int, samples: set[int]) -> None:
    index = np.array(sorted(samples), dtype=np.int64)
    order = epoch_order(seed, epoch, index)
    np.testing.assert_array_equal(np.sort(order), index)
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, index))


def test_epochs_differ_in_order() -> None:
    orders = {epoch_order(0, epoch, np.arange(20)).tobytes() for epoch in range(10)}
    assert len(orders) == 10


def test_whole_frame_draws_show_the_frame_as_it_is() -> None:
    draws = whole_frame_draws(np.array([2, 0]), np.array([[10, 20], [30, 40], [50, 60]]))
    np.testing.assert_array_equal(draws.box, [[0, 0, 50, 60], [0, 0, 10, 20]])
    rows, columns = sample_positions(draws, (50, 60))
    np.testing.assert_allclose(rows[0], np.arange(50) + 0.5)
    np.testing.assert_allclose(columns[0], np.arange(60) + 0.5)
    assert not draws.flip.any()
    assert (draws.light == [1, 0]).all()


@pytest.mark.parametrize("sample", [-1, 1])
def test_a_sample_outside_the_split_is_refused(sample: int) -> None:
    with pytest.raises(ValueError, match=r"samples must be in \[0, 1\)"):
        draw(
            DataConfig(),
            seed=0,
            epoch=0,
            index=np.array([sample]),
            hw=np.array([[9, 9]]),
            small_pixels=[np.zeros((0, 2), np.int32)],
        )


@pytest.mark.parametrize("short", ["index", "box", "flip", "light"])
def test_draws_of_different_lengths_are_refused(short: str) -> None:
    draws = whole_frame_draws(np.array([0, 1]), np.full((2, 2), 4))
    with pytest.raises(ValueError, match="must have a row a sample, got .*1"):
        replace(draws, **{short: getattr(draws, short)[:1]})


LOOKS = {"hue": 0.1, "saturation": 0.5, "depth_dropout": 0.3}


def many(config: DataConfig, n: int = 4000) -> Draws:
    hw, none = np.full((n, 2), (480, 640)), [np.zeros((0, 2), np.int32)] * n
    return draw(config, seed=0, epoch=0, index=np.arange(n), hw=hw, small_pixels=none)


def test_colours_and_hidden_depth_move_no_other_draw_and_are_none_where_they_are_off() -> None:
    plain, looks = (many(config_of((240, 320), (192, 256), **f), 50) for f in ({}, LOOKS))
    assert plain.colour is None
    assert plain.hidden is None
    for ours, theirs in zip(astuple(plain)[:4], astuple(looks)[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    alone = many(config_of((240, 320), (192, 256), depth_dropout=0.3), 50)
    assert alone.colour is None
    np.testing.assert_array_equal(alone.hidden, looks.hidden)


def test_rows_with_colours_depend_on_their_sample_alone() -> None:
    config = config_of((240, 320), (192, 256), jitter_p=1, **LOOKS)
    hw, none = np.full((9, 2), (480, 640)), [np.zeros((0, 2), np.int32)] * 9
    fields: dict[str, Any] = {"hw": hw, "small_pixels": none}
    whole = draw(config, seed=1, epoch=2, index=np.arange(9), **fields)
    assert_equal(
        draw(config, seed=1, epoch=2, index=np.array([4, 5]), **fields), whole.at(slice(4, 6))
    )
    seen = set()
    for seed, epoch in itertools.product(range(3), range(3)):
        drawn = draw(config, seed=seed, epoch=epoch, index=np.arange(9), **fields).colour
        assert drawn is not None
        seen |= {row.tobytes() for row in drawn}
    assert len(seen) == 81


def test_colours_and_hidden_depth_are_as_often_and_as_strong_as_the_config_says() -> None:
    draws = many(config_of((240, 320), (192, 256), jitter_p=0.7, **LOOKS))
    assert draws.colour is not None
    assert draws.hidden is not None
    np.testing.assert_array_equal(draws.colour[:, 0] != 0, draws.light[:, 1] != 0)
    assert abs(draws.hidden.mean() - 0.3) < 0.03
    for values, low, high in ((draws.colour[:, 0], -0.1, 0.1), (draws.colour[:, 1], 0.5, 1.5)):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high


def test_a_scale_range_is_as_often_halved_as_doubled() -> None:
    config = config_of((240, 320), (192, 256), scale_range=(0.5, 2), scale_p=0.8)  # type: ignore[arg-type]
    plain = many(config_of((240, 320), (192, 256), scale_p=0.8))
    draws = many(config)
    scale = 2 * 192 / draws.box[:, 2]
    assert 0.5 - 1e-3 <= scale.min() < 0.51
    assert 1.98 < scale.max() <= 2 + 2e-3
    moved = np.abs(scale - 1) > 1e-6
    assert abs(moved.mean() - 0.8) < 0.03
    assert abs((scale[moved] < 1).mean() - 0.5) < 0.03
    # The same rows are scaled; one whose scale rounds to 1 may tell otherwise.
    assert (moved == (np.abs(2 * 192 / plain.box[:, 2] - 1) > 1e-6)).mean() > 0.999


@pytest.mark.parametrize("given", [[0.5], [2, 0.5], [0.5, 1, 2], [0, 1]])
def test_a_scale_range_that_is_none_is_refused(given: list[float]) -> None:
    with pytest.raises(ValueError, match="data.scale_range = |greater than 0"):
        DataConfig.model_validate({"scale_range": given})
