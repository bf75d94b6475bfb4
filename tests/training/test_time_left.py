"""The time left that an epoch's row tells: of the folds, validations and views still to come."""

from collections.abc import Callable
from dataclasses import replace

from engine.training.loop import FoldTask
from engine.training.records import EpochLine
from engine.training.time_left import time_left

MakeTask = Callable[..., FoldTask]


def line(epoch: int, train_s: float, validation_s: float | None = None) -> EpochLine:
    """Of an epoch that was validated if that took time."""
    scores = {} if validation_s is None else {"miou": 0.5, "pixel_acc": 0.5}
    return EpochLine(epoch=epoch, **scores, train_s=train_s, validation_s=validation_s or 0.0)


def test_it_is_the_rest_of_all_folds_and_the_views_that_follow(make_task: MakeTask) -> None:
    views = {"scales": (1.0, 2.0), "flip": True}
    task = make_task(training={"epochs": 10, "validate_every": 4}, inference=views)
    # Fold 1 of 2 predicts 12 frames out of fold and 5 test frames, these with both folds; six
    # validation frames took 3 s by one view of ten.
    predicted_s = 3 / 6 * 2 * (1 + 4) * (12 + 5 * 2)
    lines = [line(1, 20), line(2, 20), line(3, 20), line(4, 20, 3)]
    # Validated after epochs 8 and 10.
    assert time_left(lines, task) == shown(6 * 20 + 2 * 3 + predicted_s)
    # As the first of both: a whole fold more.
    both = replace(task, fold=0, later=1)
    assert time_left(lines, both) == shown(16 * 20 + 5 * 3 + predicted_s)
    # Alone: the other fold's frames, and the test frames, are another call's.
    alone = replace(task, fold=0)
    assert time_left(lines, alone) == shown(6 * 20 + 2 * 3 + 3 / 6 * 2 * (1 + 4) * 6)


def test_before_a_validation_it_is_more_than_what_is_known(make_task: MakeTask) -> None:
    task = make_task(training={"epochs": 4, "validate_every": 4})
    assert time_left([line(1, 20)], replace(task, later=1)) == "> 2 min 20 s"


def test_it_follows_the_last_epochs(make_task: MakeTask) -> None:
    task = make_task(training={"epochs": 6, "validate_every": 6})
    assert time_left([line(1, 900), line(2, 2), line(3, 2), line(4, 2)], task) == "> 4.0 s"


def test_patience_makes_it_the_most_that_is_left(make_task: MakeTask) -> None:
    views = {"scales": (1.0,), "flip": False}
    task = make_task(training={"epochs": 10, "patience": 1}, inference=views)
    predicted_s = 3 / 6 * (12 + 5 * 2)
    lines = [line(1, 20, 3), line(2, 20, 3)]
    assert time_left(lines, task) == f"at most {shown(8 * 23 + predicted_s)}"
    # Ended, it is the views that remain, and the folds to come.
    lines[1] = lines[1].model_copy(update={"stopped_early": True})
    assert time_left(lines, task) == "11.0 s"
    both = replace(task, fold=0, later=1)
    assert time_left(lines, both) == f"at most {shown(10 * 23 + predicted_s)}"
    # Before a validation nobody knows how long one takes.
    scored = make_task(training={"epochs": 10, "patience": 1, "validate_every": 4})
    assert time_left([line(1, 20)], scored) == "at most 3 min 00 s and scores"


def shown(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
