"""Some frames of a dataset as a dataset: spread evenly, the same files, the same faults."""

from pathlib import Path

import pytest

from benchmarks.subset import evenly, open_subset, with_section
from engine.config import Config
from engine.frames.index import DatasetError


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (3, [0, 3, 6]), (5, [0, 2, 4, 6, 8]), (99, list(range(10)))]
)
def test_items_are_spread_evenly(count: int, chosen: list[int]) -> None:
    assert evenly(range(10), count) == chosen


def test_half_of_the_frames_link_to_their_files(tiny_config: Config, tmp_path: Path) -> None:
    subset = open_subset(tiny_config, 6, tmp_path)
    samples = subset.dataset.train.samples
    assert [sample.stem for sample in samples] == ["000", "002", "004", "006", "008", "010"]
    assert len(subset.dataset.test.samples) == 2
    original = Path(tiny_config.data.root) / "train" / "image" / "004.png"
    assert samples[2].image.resolve() == original.resolve()
    assert subset.folds.count == 2
    assert subset.config.data.root == str(tmp_path)


def test_scenes_go_with_their_frames(tiny_config: Config, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        (data / split).symlink_to(Path(tiny_config.data.root) / split)
    lines = "".join(f"{number:03d},room{number // 4}\n" for number in range(12))
    (data / "scenes.csv").write_text("stem,scene\n" + lines, encoding="utf-8")
    config = with_section(tiny_config, "data", root=str(data), fold_kind="scene")
    subset = open_subset(config, 6, tmp_path / "subset")
    scenes = [sample.scene for sample in subset.dataset.train.samples]
    assert scenes == ["room0", "room0", "room1", "room1", "room2", "room2"]


def test_another_config_splits_the_same_frames_anew(tiny_config: Config, tmp_path: Path) -> None:
    subset = open_subset(tiny_config, 12, tmp_path)
    other = subset.configured(with_section(tiny_config, "data", folds=3, root="elsewhere"))
    assert other.folds.count == 3
    assert other.config.data.root == str(tmp_path)
    assert other.dataset is subset.dataset


def test_a_small_subset_has_fewer_blocks_a_fold(tiny_config: Config, tmp_path: Path) -> None:
    config = with_section(tiny_config, "data", folds=3, blocks_per_fold=4)
    assert open_subset(config, 6, tmp_path).folds.count == 3


def test_a_folder_that_is_not_there_is_named(tiny_config: Config, tmp_path: Path) -> None:
    config = with_section(tiny_config, "data", root=str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match=r"nowhere(?s:.*)--data.root"):
        open_subset(config, 6, tmp_path / "subset")
