"""What is written of out-of-fold counts. C: classes. N: frames."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator

from engine.rundir import Record
from engine.selection.calibration import Calibration

AT_LABELS = "OOF mIoU at label resolution"
"""What the out-of-fold pass counts at the size of each label, before anything is stored: of a run,
its folds and temperatures."""

AT_STORE = "OOF mIoU at store resolution"
"""What is counted later, on the probabilities that the store keeps at half scale, resized to each
label: of the error atlas, a comparison and a blend. A run has both, a little apart."""

Figure = Annotated[
    float | None, AfterValidator(lambda x: None if x is None or math.isnan(x) else x)
]
"""A score of a part; None where there is no pixel to count, as JSON knows no NaN."""


class Scores(Record):
    """Mean IoU and pixel accuracy of one confusion matrix."""

    miou: float
    pixel_acc: float


class Interval(Record):
    """A score, and where it would be with other groups of frames; see `bootstrap`."""

    value: float
    """Of all frames."""
    low: float | None
    """Lower end of the 95 % interval; None where it rests on too few groups."""
    high: float | None
    """Its upper end, likewise."""
    groups: int
    """Number of groups that the figure rests on."""
    groups_of: str = "group"
    """What the groups are, "scene" or "block", where that is known."""

    def __str__(self) -> str:
        """`0.6224 [0.6010, 0.6431], 26 scenes`."""
        groups = f"{self.groups} {self.groups_of}s"
        if self.low is None or self.high is None:
            return f"{self.value:.4f} (no interval: {groups} are too few)"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}], {groups}"


class OofScores(Scores):
    """What the out-of-fold predictions of all frames reach."""

    temperature: float | None
    """Softmax temperature; None for a blend of runs that have different ones."""
    iou: dict[str, Figure]
    """By class."""
    confusion: list[list[int]]
    """(C, C) pixels, truth by prediction."""


class SubmissionScores(Scores):
    """What the submission reaches on the test frames that have labels."""

    frames: int
    """Those that have."""
    iou: dict[str, Figure]
    """By class."""
    labels: str
    """Hash of these frames' files, the labels among them."""


class MemberScore(Record):
    """One of several networks of a fold: what `FoldScore` says of a lone one."""

    network: int
    best_epoch: int
    validation_miou: float | None = None
    stopped_after: int | None = None


class FoldScore(Record):
    """What one fold's validation frames reach; the rest is left out for a blend."""

    fold: int
    miou: float
    best_epoch: int | None = None
    """The epoch that its weights are from."""
    validation_miou: float | None = None
    """What that epoch's validation measured, by a single view."""
    stopped_after: int | None = None
    """The epoch after which `training.patience` ended it; left out where that was the last one."""
    members: list[MemberScore] | None = None
    """Its networks, where there are several: then they say this, and the fold does not."""


class TemperatureScore(Record):
    """What one temperature reaches on all out-of-fold pixels."""

    temperature: float
    miou: float
    pixel_acc: float


class TemperatureChoice(Record):
    """`temperature.json`: the temperature of the store and of new frames."""

    best: float
    index: int
    """Its place in `inference.temperatures`."""
    chosen_by: Literal["oof miou", "config"]
    scores: list[TemperatureScore]
    calibration: Calibration | None = None
    """At each of the temperatures; left out where it was not measured, as by older releases."""


class Groups(Record):
    """Which frames an interval draws together."""

    kind: str
    """"scene" (scenes.csv) or "block" (neighbouring frames)."""
    count: int
    of: list[int]
    """The group, 0 .. count - 1, of each of N frames."""
