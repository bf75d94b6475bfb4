"""The decisions of a plan, each with its reason: from a fingerprint, a machine and a pace.

Numbers are `lite.toml`'s where nothing else is said; `python -m benchmarks.planned` measures what
they come to.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic import JsonValue

from engine.plan.fingerprint import Fingerprint

STRIDE = 32
"""Crops are multiples of the encoder's last stride."""

ZOOMS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Sizes of the input that are thought of, as shares of a frame's sides."""

LONGEST = 320
"""Pixels of the longer side to which small frames are enlarged at most: the last features of the
network are of every fourth pixel, so that small things vanish in frames of 160."""

CROP = 0.8
"""Side of a crop, as a share of the input's: the published experiments'."""

SEEN, STEPS = 3, 60
"""Epochs and steps of a fold below which a smaller input is worth more than more pixels. They are
few, because pixels are worth much. In equal time: on 40 frames of 192 x 256 whose classes differ by
size, 6 epochs at 240 x 320 reached a mIoU of 0.886 where 11 epochs at 96 x 128 reached 0.822; on
the embedded rooms, 120 x 160, 2 epochs (104 steps) at 240 x 320 reached 0.654, 6 at 90 x 120 0.603.
"""

MOST_EPOCHS = 200

RARE = 0.03
"""Share of the labelled pixels below which a class is rare: crops are centred on it."""


MOST_WEIGHT = 2.0
"""Of a class in the loss, at most: caution, not measured."""


class Choice(NamedTuple):
    """A field of the config and why it has its value."""

    name: str
    """`section.key`."""
    value: JsonValue
    reason: str


class Machine(NamedTuple):
    """What a plan is for."""

    device: str
    """`cpu`, or `cuda:N`."""
    memory: int
    """Bytes."""
    encoder: str
    weights: str


@dataclass(frozen=True)
class Shape:
    """How frames pass the network in training."""

    zoom: float
    input_hw: tuple[int, int]
    crop_hw: tuple[int, int]
    batch: int

    @property
    def pixels(self) -> int:
        """Of a sample."""
        return self.crop_hw[0] * self.crop_hw[1]


def shapes(found: Fingerprint, batch: int) -> list[Shape]:
    """What the input may be, ascending: no side under two strides, small frames enlarged."""
    made = []
    for zoom in ZOOMS:
        if zoom > 1 and max(found.hw) * zoom > LONGEST:
            continue
        height, width = (round(side * zoom) for side in found.hw)
        crop_hw = _crop(height), _crop(width)
        if min(height, width) >= 2 * STRIDE:
            made.append(Shape(zoom, (height, width), crop_hw, batch))
    if not made:
        # A frame of a few pixels: as much as the network needs.
        zoom = 2 * STRIDE / min(found.hw)
        height, width = (max(2 * STRIDE, round(side * zoom)) for side in found.hw)
        made = [Shape(zoom, (height, width), (_crop(height), _crop(width)), batch)]
    return made


def batch_size(found: Fingerprint) -> int:
    """Samples a step: `lite.toml`'s eight, fewer where an epoch would have no four steps."""
    trains = found.frames - found.frames // int(str(found.folds["folds"]))
    return max(2, min(8, 1 << int(math.log2(max(2, trains // 4)))))


def data_choices(found: Fingerprint, shape: Shape) -> list[Choice]:
    """Fields of `[data]`."""
    height, width = found.hw
    many = f", of {found.sizes} sizes" if found.sizes > 1 else ""
    fields = {"classes": None, **found.labels.data}
    given = [Choice(f"data.{key}", value, "") for key, value in fields.items()]
    root = Choice("data.root", str(found.root), "")
    chosen = [root, given[0]._replace(reason=found.labels.reason), *given[1:]]
    known = {choice.name for choice in chosen}
    folds = [Choice(f"data.{key}", value, "") for key, value in found.folds.items()]
    folds = [one for one in folds if one.name not in known]
    if folds:
        chosen += [folds[0]._replace(reason=found.folds_reason), *folds[1:]]
    if found.depth_scale != 0.001 and "data.depth_scale" not in known:
        reason = "the unit that puts the depth maps' values where rooms are, metres"
        chosen.append(Choice("data.depth_scale", found.depth_scale, reason))
    chosen += [
        Choice(
            "data.input_hw",
            list(shape.input_hw),
            f"frames of {height} x {width}{many}, times {shape.zoom:g}",
        ),
        Choice("data.crop_hw", list(shape.crop_hw), f"{CROP:g} of it, to multiples of {STRIDE}"),
        Choice("data.scale_limit", 0.25, "as lite.toml; 0 where size alone tells classes apart"),
        Choice("data.scale_p", 1.0, "as lite.toml"),
    ]
    return [*chosen, *_rare(found)]


def model_choices(found: Fingerprint, machine: Machine) -> list[Choice]:
    """Fields of `[model]`."""
    small = machine.device == "cpu"
    what = "a CPU trains it in minutes" if small else "as published, on a GPU"
    chosen = [
        Choice("model.encoder", machine.encoder, what),
        Choice("model.weights", machine.weights, "ImageNet's"),
    ]
    if found.depth:
        chosen.append(Choice("model.input", "rgb", found.depth))
    else:
        reason = "every frame has depth: inverse depth is a fourth channel"
        chosen.append(Choice("model.input", "rgbd", reason))
    if small:
        chosen += [
            Choice("model.pyramid_channels", 96, "as lite.toml"),
            Choice("model.segmentation_channels", 64, "as lite.toml"),
            Choice("model.dropout", 0.1, "as lite.toml"),
        ]
    return chosen


def training_choices(
    found: Fingerprint, shape: Shape, epochs: int, told: str, accumulate: int = 1
) -> list[Choice]:
    """Fields of `[training]`; `told` is how the epochs were found."""
    trains = found.frames - found.frames // int(str(found.folds["folds"]))
    steps = epochs * math.ceil(trains / shape.batch)
    decay = round(min(0.999, max(0.9, 1 - 10 / max(steps, 1))), 4)
    each = "an epoch has few frames" if shape.batch < 8 else "as lite.toml"
    chosen = [
        Choice("training.epochs", epochs, told),
        Choice("training.batch_size", shape.batch, each),
    ]
    if accumulate > 1:
        reason = "a batch at once would take half of the memory"
        chosen.append(Choice("training.accumulate", accumulate, reason))
    every = math.ceil(epochs / 3)
    return [
        *chosen,
        *_weights(found),
        Choice("training.lr", 1e-3, "as lite.toml"),
        Choice("training.schedule", "warmup_cosine", "as lite.toml"),
        Choice("training.clip_norm", 1.0, "as lite.toml"),
        Choice("training.ema_decay", decay, f"an average over a tenth of {steps} steps"),
        Choice("training.ema_warmup", True, "few steps: the average follows from the first"),
        Choice("training.validate_every", every, "three times a fold: the best of them is kept"),
    ]


def inference_choices(scales: Iterable[float], told: str, batch: int) -> list[Choice]:
    """Fields of `[inference]`; `told` is why so many views."""
    return [
        Choice("inference.scales", list(scales), told),
        Choice("inference.batch_size", batch, "as in training"),
    ]


def least_epochs(steps: int) -> int:
    """Epochs of so many steps that a fold should be trained for."""
    return max(SEEN, math.ceil(STEPS / steps))


def with_zoom(chosen: list[Shape], step_s: float, steps: int, at: Shape, budget_s: float) -> Shape:
    """The largest input that leaves `least_epochs` of a fold in a time; the smallest if none does.

    Args:
        chosen: what it may be, ascending.
        step_s: seconds of a step, measured `at` one of them; it grows with the pixels.
        steps: of an epoch.
        at: which one.
        budget_s: seconds that a fold's training may take.
    """
    least_s = step_s * steps * least_epochs(steps)
    fits = [each for each in chosen if least_s * each.pixels / at.pixels <= budget_s]
    return fits[-1] if fits else chosen[0]


def shrunk(shape: Shape, parts: int) -> Shape:
    """The same with a batch that can be cut into parts."""
    return replace(shape, batch=max(parts, shape.batch // parts * parts))


def _rare_shares(found: Fingerprint) -> dict[str, float]:
    """Shares of the classes that are rare and yet there; none where all are."""
    each = zip(found.classes, found.share_C, found.frames_C, strict=True)
    rare = {name: share for name, share, frames in each if share < RARE and frames}
    return rare if len(rare) < len(found.classes) else {}


def _weights(found: Fingerprint) -> list[Choice]:
    rare = _rare_shares(found)
    weights: dict[str, JsonValue] = {
        name: round(min(MOST_WEIGHT, math.sqrt(RARE / share)), 2) for name, share in rare.items()
    }
    reason = f"rare ones count by the root of how rare they are, {MOST_WEIGHT:g} times at most"
    return [Choice("training.class_weights", weights, reason)] if weights else []


def _rare(found: Fingerprint) -> list[Choice]:
    rare = [*_rare_shares(found)]
    if not rare:
        return [Choice("data.small_classes", [], f"no class is below {100 * RARE:g} % of pixels")]
    reason = f"below {100 * RARE:g} % of the labelled pixels: half of the crops are centred on one"
    return [Choice("data.small_classes", list(rare), reason)]


def _crop(side: int) -> int:
    """Of a side of the input, rounded to the nearest multiple that it holds."""
    most = side // STRIDE * STRIDE
    return max(STRIDE, min(most, round(CROP * side / STRIDE) * STRIDE))
