"""Classes pasted from row to row of a batch."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import Config
from engine.data.batch import Batch
from engine.data.class_mix import mix_classes
from engine.data.inputs import class_mix_draws

CLASSES = 6


def batch_of(*labels: list[list[int]]) -> Batch:
    """Pixels whose image, depth and label tell the row that they come from."""
    label = torch.tensor(labels, dtype=torch.uint8)
    row = torch.arange(len(labels), dtype=torch.float32)[:, None, None].expand(label.shape)
    image = torch.stack([row, row + 10, row + 20, row + 30], dim=-1).contiguous()
    depth = (row + 1).contiguous()
    return Batch(image.permute(0, 3, 1, 2), depth, label, np.arange(len(labels)))


def test_the_lower_half_of_the_next_rows_classes_is_pasted_with_depth_and_input() -> None:
    batch = batch_of([[0, 0, 0, 0]], [[1, 2, 3, 255]], [[4, 5, 5, 4]])
    keys = np.tile([0.9, 0.2, 0.5, 0.1, 0.3, 0.6], (3, 1))
    mix_classes(batch, keys, np.array([True, True, True]))
    # Of 1, 2, 3 the one with the lowest key; of 4, 5 too; of the first row's lone class none.
    assert batch.label_BHW.tolist() == [[[0, 0, 3, 0]], [[4, 2, 3, 4]], [[4, 5, 5, 4]]]
    assert batch.depth_BHW.tolist() == [[[1, 1, 2, 1]], [[3, 2, 2, 3]], [[3, 3, 3, 3]]]
    assert batch.image_BCHW[:, 0].tolist() == [[[0, 0, 1, 0]], [[2, 1, 1, 2]], [[2, 2, 2, 2]]]
    assert torch.equal(batch.image_BCHW[:, 3], batch.image_BCHW[:, 0] + 30)
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)


def test_the_first_row_gives_to_the_last_what_it_came_with() -> None:
    batch = batch_of([[0, 1, 1, 1]], [[2, 3, 2, 3]])
    keys = np.tile([0.1, 0.9, 0.2, 0.8, 0.5, 0.5], (2, 1))
    mix_classes(batch, keys, np.array([True, True]))
    assert batch.label_BHW.tolist() == [[[2, 1, 2, 1]], [[0, 3, 2, 3]]]
    assert batch.depth_BHW.tolist() == [[[2, 1, 2, 1]], [[1, 2, 2, 2]]]


def test_rows_that_are_not_said_keep_their_bytes() -> None:
    batch, before = (batch_of([[0, 1]], [[2, 3]], [[4, 5]]) for _ in range(2))
    mix_classes(batch, np.full((3, CLASSES), 0.5), np.array([False, True, False]))
    for part, was in ((batch.image_BCHW, before.image_BCHW), (batch.label_BHW, before.label_BHW)):
        assert torch.equal(part[::2], was[::2])
        assert not torch.equal(part[1], was[1])


def test_which_rows_and_classes_is_a_function_of_seed_epoch_and_sample() -> None:
    whole = class_mix_draws(0.4, seed=1, epoch=2, index=np.arange(2000), classes=CLASSES)
    part = class_mix_draws(0.4, seed=1, epoch=2, index=np.array([7, 3]), classes=CLASSES)
    for all_rows, rows in zip(whole, part, strict=True):
        np.testing.assert_array_equal(rows, all_rows[[7, 3]])
    assert whole[0].shape == (2000, CLASSES)
    assert abs(whole[1].mean() - 0.4) < 0.05
    drawn = (
        class_mix_draws(1, seed=seed, epoch=epoch, index=np.array([5]), classes=3)[0]
        for seed, epoch in itertools.product(range(3), range(3))
    )
    assert len({keys.tobytes() for keys in drawn}) == 9


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 1}, "needs 2 samples a batch"),
        ({"batch_size": 4, "parts": 2}, "type training.parts=1"),
    ],
)
def test_a_batch_without_others_is_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"data": {"class_mix": 0.5}, "training": training})
