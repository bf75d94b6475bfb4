"""Every row of `benchmarks.throughput`: its sides, what it is checked by, how often it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from benchmarks.figures import Facts, Work
from benchmarks.plain.recipe import Recipe
from benchmarks.rows import light, ours, plain, shared, work
from benchmarks.sides import Prepared
from benchmarks.subset import Job, with_section
from engine.config import Config

Rivals = Mapping[str, Callable[[Job], Prepared]]

_SCORE_TOLERANCE = 0.002
"""mIoU; OpenCV rounds resized images to bytes, the engine does not."""

_SHARED = {
    "train step": shared.batch,
    "validation": shared.networks,
    "oof": shared.networks,
    "blend": shared.stores,
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
    assert max(gaps, default=0) < _SCORE_TOLERANCE, f"mIoU: {ours.mious} and {theirs.mious}"


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
        ours: prepares our side.
        rivals: prepare the other sides, by name; the first is the plain recipe.
        work: what no side can do without.
        frames: training frames, unless the user names a number.
        rounds: calls of each side, likewise.
        check: takes our first result and a rival's; raises AssertionError if they do not match.
        shared: makes, once, what both sides start from.
        changes: of the experiment's config, by section and field.
    """

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


def rows(device: str, workers: int = 2) -> dict[str, Row]:
    """All rows by name, with the rivals that make sense on that device.

    Args:
        device: where both sides' networks run.
        workers: processes of the recipe's DataLoaders.
    """
    published = Recipe(device, workers=workers)
    # What a user may already do to the recipe to make it faster.
    passes = {"plain, shared passes": replace(published, shared_passes=True)}
    faster = {"plain, channels-last": replace(published, channels_last=True)}
    if device != "cpu":
        faster = {"plain, AMP": replace(published, amp=True)}
        faster["plain, AMP, channels-last"] = replace(published, amp=True, channels_last=True)

    def by(side: Callable[..., Prepared], more: Mapping[str, Recipe] | None = None) -> Rivals:
        recipes = {"plain": published, **(more or {})}
        return {name: partial(side, recipe=recipe) for name, recipe in recipes.items()}

    decoders: Rivals = {"plain": light.decoding_by_opencv, "Pillow": light.decoding_by_pillow}
    searches: Rivals = {"plain": light.blending_by_grid, "plain SLSQP": light.blending_by_slsqp}
    found = {
        "data cached": Row(ours.data_cached, by(plain.data_cached), work.data_cached, 200, 7),
        "data cold": Row(ours.data_cold, by(plain.data_cold), work.data_cold, 200, 5),
        "decode": Row(light.decoding, decoders, work.decode, 200, 7),
        "train step": Row(ours.train_step, by(plain.train_step, faster), work.train_step, 40, 15),
        "validation": Row(ours.validation, by(plain.validation), work.validation, 200, 5),
        "epoch": Row(ours.epoch, by(plain.epoch, faster), work.epoch, 200, 3),
        "oof": Row(ours.oof, by(plain.oof, passes), work.oof, 100, 3),
        "blend": Row(light.blending, searches, work.blend_weights, 20, 3, _not_worse),
        "chain": Row(ours.chain, by(plain.chain), work.chain, 24, 2, _blends_hold),
    }
    return {
        name: replace(row, shared=_SHARED.get(name), changes=_CHANGES.get(name, {}))
        for name, row in found.items()
    }
