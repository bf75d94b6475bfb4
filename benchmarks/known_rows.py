"""Every row of `benchmarks.throughput`: its sides, what they are checked by, how often they run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from benchmarks.figures import Facts, Work
from benchmarks.plain.decoders import by_imagecodecs, by_pyspng
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import grid_weights, slsqp_weights
from benchmarks.rows import light, ours, plain, work
from benchmarks.sides import Prepared
from benchmarks.subset import Job, with_section
from engine.config import Config

Rivals = Mapping[str, Callable[[Job], Prepared]]

_SCORE_TOLERANCE = 0.002
"""mIoU; OpenCV rounds resized images to bytes, the engine does not."""

_SHARED = {
    "train step": ours.batch,
    "validation": ours.networks,
    "oof": ours.networks,
    "blend": ours.stores,
}
"""What is made before a row's sides are started."""

_VIEWS = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5), "temperatures": (0.7, 0.8, 0.9, 1.0), "flip": True}
"""Ten views and four temperatures, as the published experiments have."""

_CHANGES: dict[str, dict[str, dict[str, object]]] = {
    "train step": {"model": {"dropout": 0.0, "drop_path": 0.0}},
    "epoch": {"training": {"epochs": 1, "validate_every": 1}},
    "oof": {"inference": _VIEWS},
    "chain": {"data": {"folds": 2}, "training": {"epochs": 3, "validate_every": 3}},
}
"""By row, section and field. A step without dropout, so that both sides' first loss is the same
number; two folds of three epochs in a chain, validated after the last."""


def _alike(ours: Facts, theirs: Facts) -> None:
    """The same frames, pixels and colours, and scores and a first loss that are alike."""
    assert ours.frames == theirs.frames, f"frames: {ours.frames} and {theirs.frames}"
    assert ours.pixels == theirs.pixels, f"pixels: {ours.pixels} and {theirs.pixels}"
    for number, pair in enumerate(zip(ours.middles, theirs.middles, strict=True)):
        assert pair[0] == pair[1], f"frame {number}, middle pixel: {pair[0]} and {pair[1]}"
    # Same batch, same weights; half precision rounds.
    gap = abs(ours.loss - theirs.loss)
    assert gap <= 0.01 * ours.loss, f"first losses are {ours.loss} and {theirs.loss}"
    gaps = [abs(a - b) for a, b in zip(ours.mious, theirs.mious, strict=True)]
    alike = ours.rounded or max(gaps, default=0) < _SCORE_TOLERANCE
    assert alike, f"mIoU: {ours.mious} and {theirs.mious}"


def _not_worse(ours: Facts, theirs: Facts) -> None:
    """Ours is not worse, but for pixels that tie to the last bit."""
    assert ours.mious[0] > theirs.mious[0] - 1e-4, f"mIoU: {ours.mious} and {theirs.mious}"


def _blends_hold(ours: Facts, theirs: Facts) -> None:
    """Both blends score as well as their own runs, but for the maps' half size."""
    assert ours.frames == theirs.frames, f"frames: {ours.frames} and {theirs.frames}"
    for name, facts in (("ours", ours), ("plain", theirs)):
        gap = max(facts.singles) - facts.mious[0]
        assert gap < 0.05, f"{name}: the blend scores {gap:.4f} less than the best run"


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        name: for messages and the JSON.
        ours: prepares our side.
        rivals: prepare the other sides, by name; the first is the plain recipe.
        work: what no side can do without.
        frames: training frames, unless the user names a number.
        rounds: calls of each side, likewise.
        check: takes our first result and a rival's; raises AssertionError if they do not match.
        shared: makes, once, what both sides start from.
        changes: of the experiment's config, by section and field.
    """

    name: str
    ours: Callable[[Job], Prepared]
    rivals: Rivals
    work: Callable[[Job], Work]
    frames: int
    rounds: int
    check: Callable[[Facts, Facts], None] = _alike
    shared: Callable[[Job], None] | None = None
    changes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def configured(self, config: Config) -> Config:
        """The experiment as this row has it."""
        for section, changes in self.changes.items():
            config = with_section(config, section, **changes)
        return config


def rows(device: str) -> dict[str, Row]:
    """All rows by name, with the rivals that make sense on the device of both sides' networks."""
    published = Recipe(device)
    # What a user may already do to the recipe to make it faster.
    shared = published._replace(shared_passes=True)
    onnx = {"ONNX Runtime": shared._replace(onnx=True)} if device == "cpu" else {}
    passes = {"plain, shared passes": shared, **onnx}
    quick = published._replace(channels_last=True)
    faster = {"plain, channels-last": quick}
    framework = {"Lightning, channels-last": quick._replace(lightning=True)}
    if device != "cpu":
        quick = quick._replace(amp=True)
        faster = {
            "plain, AMP": published._replace(amp=True),
            "plain, AMP, channels-last": quick,
            "plain, AMP, channels-last, compiled": quick._replace(compiled=True),
        }
        framework = {"Lightning, AMP, channels-last": quick._replace(lightning=True)}
    # As it is written first; of an epoch, which takes long, only the quicker one.
    first = {"Lightning": published._replace(lightning=True)}
    steps, epochs = {**faster, **first, **framework}, {**faster, **framework}

    def by(side: Callable[..., Prepared], more: Mapping[str, Recipe] | None = None) -> Rivals:
        recipes = {"plain": published, **(more or {})}
        return {name: partial(side, recipe=recipe) for name, recipe in recipes.items()}

    decoders: Rivals = {
        "plain": light.decoding_by_opencv,
        "Pillow": light.decoding_by_pillow,
        "imagecodecs": partial(light.decoding_by, read=by_imagecodecs),
        "pyspng": partial(light.decoding_by, read=by_pyspng),
    }
    searches: Rivals = {
        "plain": partial(light.blending_by, search=grid_weights),
        "plain SLSQP": partial(light.blending_by, search=slsqp_weights),
    }
    found = [
        Row("data cached", ours.data_cached, by(plain.data_cached), work.data_cached, 200, 7),
        Row("data cold", ours.data_cold, by(plain.data_cold), work.data_cold, 200, 5),
        Row("decode", light.decoding, decoders, work.decode, 200, 7),
        Row("train step", ours.train_step, by(plain.train_step, steps), work.train_step, 40, 15),
        Row("validation", ours.validation, by(plain.validation, onnx), work.validation, 200, 5),
        Row("epoch", ours.epoch, by(plain.epoch, epochs), work.epoch, 100, 3),
        Row("oof", ours.oof, by(plain.oof, passes), work.oof, 40, 3),
        Row("blend", light.blending, searches, work.blend_weights, 10, 3, _not_worse),
        Row("chain", ours.chain, by(plain.chain), work.chain, 24, 3, _blends_hold),
    ]
    starts, changes = _SHARED.get, _CHANGES.get
    return {r.name: replace(r, shared=starts(r.name), changes=changes(r.name, {})) for r in found}
