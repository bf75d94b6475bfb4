"""Depth in another unit than it is taken for is told, with the unit that fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import nyuv2
from engine.cli import load_config
from engine.data.folds import Folds
from engine.frames.dataset import Split
from engine.frames.decode import Sample
from engine.frames.depth import spread_of
from engine.frames.index import Dataset, DatasetSpec, load_dataset
from engine.frames.kinds import FrameReport
from engine.report.census import check_notes, judge_data
from engine.report.depth_check import depth_notes
from engine.rooms.dataset import render_rooms
from tests.frames.small_dataset import spec_of

HW = (60, 80)


def room(number: int) -> NDArray[np.float64]:
    """Metres of a floor that rises from 0.9 m to 5 m, and a box before it; a tenth is missing."""
    rng = np.random.default_rng(number)
    depth_HW = np.repeat(np.linspace(5, 0.9, HW[0])[:, None], HW[1], axis=1)
    depth_HW[20:40, 10 : 30 + number] = 1.2 + 0.3 * number
    depth_HW += rng.normal(0, 0.01, HW)
    depth_HW[rng.random(HW) < 0.1] = 0
    return depth_HW


def write(root: Path, maps: list[NDArray[Any]]) -> Path:
    for number, depth in enumerate(maps):
        parts: dict[str, NDArray[Any]] = {
            "image": np.zeros((*HW, 3), np.uint8),
            "label": np.resize(np.arange(2, dtype=np.uint8), HW),
            "depth": depth.astype(np.uint16),
        }
        for kind, pixels in parts.items():
            path = root / "train" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def checked(root: Path, **data: Any) -> tuple[list[str], Dataset]:
    config = load_config([], {"data": {"classes": ["a", "b"], "blocks_per_fold": 1, **data}})
    dataset = load_dataset(root, spec_of(config.data), workers=1)
    return [note for note in check_notes(config, dataset) if note.startswith("depth")], dataset


UNITS = {
    "x8": (8000.0, "data.depth_scale = 0.000125 (millimetres x 8, as SUN RGB-D has it)"),
    "TUM": (5000.0, "data.depth_scale = 0.0002 (1/5000 m, as TUM has it)"),
    "centimetres": (100.0, "data.depth_scale = 0.01 (centimetres)"),
    "metres": (1.0, "data.depth_scale = 1 (metres)"),
}


@pytest.mark.parametrize("unit", UNITS)
def test_another_unit_is_told_with_the_scale_that_fits_it(unit: str, tmp_path: Path) -> None:
    per_metre, told = UNITS[unit]
    # As converted from a sensor's millimetres where that loses nothing.
    maps = [np.round(np.round(1000 * room(n)) * (per_metre / 1000)) for n in range(5)]
    (note,), _ = checked(write(tmp_path, maps))
    assert told in note
    assert "% of the pixels lie " in note
    assert "distinct values a map" in note
    scale = float(told.split()[2])
    assert checked(tmp_path, depth_scale=scale)[0] == []


def test_millimetres_are_not_mentioned(tmp_path: Path) -> None:
    assert checked(write(tmp_path, [np.round(1000 * room(n)) for n in range(5)]))[0] == []


def test_rendered_rooms_are_not_mentioned(tmp_path: Path) -> None:
    render_rooms(tmp_path / "rooms", scenes=3, frames=4, hw=(60, 80))
    spec = DatasetSpec(nyuv2.CLASSES, ())
    assert depth_notes(load_dataset(tmp_path / "rooms", spec).train, 0.001) == []


def test_nyu_depth_v2_is_not_mentioned(nyuv2_root: Path) -> None:
    paths = sorted((nyuv2_root / "train" / "depth").iterdir())[::40]
    spreads = [spread_of(np.array(Image.open(path)), 0.001) for path in paths]
    samples = [Sample(path.stem, path, path, None, (480, 640), None) for path in paths]
    reports = [FrameReport(depth=spread) for spread in spreads]
    assert depth_notes(Split(tuple(samples), tuple(reports), []), 0.001) == []


def test_a_scale_that_does_not_fit_is_told_as_well(tmp_path: Path) -> None:
    write(tmp_path, [np.round(1000 * room(n)) for n in range(5)])
    (note,), _ = checked(tmp_path, depth_scale=0.0001)
    assert "nearer than 0.3 m" in note
    assert "data.depth_scale = 0.001 (millimetres)" in note


def test_what_no_scale_mends_is_told_to_be_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (note,), _ = checked(write(tmp_path, [rng.integers(1, 65536, HW) for _ in range(5)]))
    assert "may be disparity, or relative depth, which no scale mends" in note


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.arange(1, 256), "no value is above 255: 8 bits in 16"),
        (np.arange(1, 256) * 257, "every value is a multiple of 257: 8 bits stretched to 16"),
        (np.array([1000, 2000]), "a map has few values"),
    ],
)
def test_what_a_byte_or_less_held_is_told(
    values: NDArray[np.int64], told: str, tmp_path: Path
) -> None:
    (note,), _ = checked(write(tmp_path, [np.resize(values, HW)] * 5))
    assert told in note


def test_another_value_for_missing_is_told(tmp_path: Path) -> None:
    def spoilt(number: int) -> NDArray[Any]:
        depth = np.round(1000 * room(number))
        return np.where(depth == 0, 65535, depth)

    (note,), _ = checked(write(tmp_path, [spoilt(n) for n in range(5)]))
    assert "% of the pixels hold 65535, which is 65.5 m at data.depth_scale = 0.001" in note
    assert note.endswith("; if it means missing, data.depth_invalid = [0, 65535]")
    assert checked(tmp_path, depth_invalid=[0, 65535])[0] == []


def test_maps_of_one_value_are_counted_and_named(tmp_path: Path) -> None:
    maps = [np.full(HW, 3000), np.zeros(HW), *(np.round(1000 * room(n)) for n in range(3))]
    (note,), _ = checked(write(tmp_path, maps))
    assert note == "depth: 2 of 5 maps hold one value or none: 0, 1"


def test_depth_that_training_does_not_use_is_judged_by_the_check_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes, dataset = checked(write(tmp_path, [8000 * room(n) for n in range(5)]))
    folds = Folds("random", np.array([0, 1, 0, 1, 0]), 0.0)
    sections: dict[str, Any] = {"data": {"classes": ["a", "b"]}, "training": {"depth_weight": 0}}
    judge_data(load_config([], sections), dataset, folds, [0, 1])
    assert caplog.messages == []
    sections["training"] = {}
    judge_data(load_config([], sections), dataset, folds, [0, 1])
    assert caplog.messages == notes != []


def test_the_spread_is_of_the_known_pixels() -> None:
    depth = np.zeros((10, 20), np.uint16)
    depth[:5] = np.arange(100).reshape(5, 20) * 24 + 240
    depth[0, 0] = 65535
    found = spread_of(depth, 0.002)
    assert (found.known, found.distinct, found.divisor, found.most) == (100, 100, 24, 65535)
    assert (found.near, found.far) == (0, 1)
    assert found.low == sorted(depth[:5].ravel())[5]
    assert found.middle == sorted(depth[:5].ravel())[50]
    nothing = spread_of(np.zeros((3, 3), np.uint16), 0.001)
    assert nothing.known == nothing.distinct == nothing.divisor == 0
