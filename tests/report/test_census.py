"""What the labels lack is told before training, with names and counts; the hopeless is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import nyuv2
from engine.cli import load_config
from engine.config import Config
from engine.data.folds import Folds
from engine.frames.index import Dataset, load_dataset
from engine.report.census import check_notes, judge_data, take_census
from tests.frames.small_dataset import spec_of

CLASSES = ("a", "b", "c")
HW = (8, 10)


def config_of(classes: Sequence[str] = CLASSES, **data: Any) -> Config:
    fields = {"classes": classes, "folds": 2, "blocks_per_fold": 1, **data}
    return load_config([], {"data": fields})


def write(root: Path, labels: Sequence[NDArray[np.uint8]]) -> Path:
    for kind in ("image", "label"):
        (root / "train" / kind).mkdir(parents=True)
    for number, label in enumerate(labels):
        image = np.zeros((*HW, 3), np.uint8)
        Image.fromarray(image).save(root / "train" / "image" / f"f{number}.png")
        Image.fromarray(label).save(root / "train" / "label" / f"f{number}.png")
    return root


def held(*values: int) -> NDArray[np.uint8]:
    """A label that holds the values."""
    return np.resize(np.array(values, np.uint8), HW)


def load(root: Path, config: Config) -> Dataset:
    return load_dataset(root, spec_of(config.data), workers=1)


def halves(frames: int) -> Folds:
    return Folds("blocked", np.repeat([0, 1], frames // 2), 0.0)


def test_labels_that_lack_nothing_are_not_mentioned(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, [held(0, 1, 2, 255)] * 4), config_of())
    assert take_census(dataset, halves(4), CLASSES, [0, 1]).notes == []
    judge_data(config_of(), dataset, halves(4), [0, 1])
    assert check_notes(config_of(), dataset) == []


def test_what_is_lacking_is_told_by_class_frame_and_fold_in_a_line_each(tmp_path: Path) -> None:
    labels = [held(0, 1), held(1), held(255), held(0), held(0, 2, 255), held(2)]
    classes = (*CLASSES, "d")
    dataset = load(write(tmp_path, labels), config_of(classes))
    census = take_census(dataset, halves(6), classes, [0, 1])
    assert census.notes == [
        "no training frame has a labelled pixel of 1 of 4 classes: d",
        "1 of 6 training frames have no labelled pixel: f2",
        "classes without a labelled pixel to train on: fold 0: b; fold 1: c",
        "classes without a labelled pixel to validate: fold 0: c; fold 1: b",
    ]
    assert census.refusal == ""
    only = take_census(dataset, halves(6), classes, [1]).notes
    assert only[2:] == [
        "classes without a labelled pixel to train on: fold 1: c",
        "classes without a labelled pixel to validate: fold 1: b",
    ]


def test_a_fold_without_a_labelled_pixel_is_told_and_one_that_trains_on_them_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = load(write(tmp_path, [held(255)] * 2 + [held(0, 1, 2)] * 2), config_of())
    judge_data(config_of(), dataset, halves(4), [0])
    said = "fold 0: no validation frame has a labelled pixel, so none of it is scored"
    assert said in caplog.messages
    refused = r"fold 1 cannot be trained: its 2 training frames have no labelled pixel; cut the fo"
    with pytest.raises(ValueError, match=refused):
        judge_data(config_of(), dataset, halves(4), [0, 1])
    # Without epochs nothing is learnt: the weights are taken as they are.
    untrained = config_of().model_copy(
        update={"training": config_of().training.model_copy(update={"epochs": 0})}
    )
    judge_data(untrained, dataset, halves(4), [0, 1])
    notes = check_notes(config_of(), dataset)
    assert said in notes
    assert any(note.startswith("engine.train refuses: fold 1 cannot") for note in notes)


def test_a_fold_that_trains_on_one_class_is_refused_by_name(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, [held(0, 1, 2), held(2), held(1, 255), held(1)]), config_of())
    judge_data(config_of(), dataset, halves(4), [1])
    with pytest.raises(ValueError, match="fold 0 .* its 2 training frames have pixels of b alone"):
        judge_data(config_of(), dataset, halves(4), [0])


def test_masks_of_0_and_255_bring_the_table_that_they_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, two = write(tmp_path, [held(0, 255, 255, 255)] * 4), ("wall", "crack")
    dataset = load(root, config_of(two))
    with pytest.raises(ValueError, match="have pixels of wall alone, as all frames do") as caught:
        judge_data(config_of(two), dataset, halves(4), [0, 1])
    told = "255, in 75.0 % of the pixels, is unlabelled: if it is crack, type data.label_map = "
    told += '{"0" = 0, "255" = 1}'
    assert told in str(caught.value)
    # Once: not in the note as well.
    assert caplog.messages == ["no training frame has a labelled pixel of 1 of 2 classes: crack"]
    typed = config_of(two, label_map={"0": 0, "255": 1})
    mapped = load(root, typed)
    judge_data(typed, mapped, halves(4), [0, 1])
    assert mapped.train.reports[0].class_pixels == [20, 60]


def test_masks_of_0_and_255_without_class_names_bring_these_too(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, [held(0, 255)] * 4), config_of(nyuv2.CLASSES))
    refusal = take_census(dataset, halves(4), nyuv2.CLASSES, [0]).refusal
    assert 'if it is a second class, type data.label_map = {"0" = 0, "255" = 1} and ' in refusal
    assert 'data.classes = ["class0", "class1"]' in refusal


def test_names_of_nyuv2_on_other_labels_are_told_to_be_so(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, [held(0, 1, 2)] * 4), config_of(nyuv2.CLASSES))
    (note,) = take_census(dataset, halves(4), nyuv2.CLASSES, [0, 1]).notes
    assert note.startswith("no training frame has a labelled pixel of 10 of 13 classes: chair, ")
    assert "and 5 more; the classes are NYU Depth v2's, and the labels hold 0..2 only" in note
    assert 'type data.classes = ["class0", "class1", "class2"]' in note


def test_a_line_names_five_and_counts_the_others(tmp_path: Path) -> None:
    labels = [held(0, 1, 2)] + [held(255)] * 7
    dataset = load(write(tmp_path, labels), config_of())
    (note, _) = take_census(dataset, halves(8), CLASSES, [1]).notes
    assert note.endswith(
        "7 of 8 training frames have no labelled pixel: f1, f2, f3, f4, f5, and 2 more"
    )
