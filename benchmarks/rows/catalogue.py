"""Every row of `benchmarks.throughput`: its sides, what it is checked by, how often it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.plain.recipe import Recipe
from benchmarks.rows import blend, chain, data, epoch, oof, shared, step
from benchmarks.rows.job import Job, with_section
from benchmarks.sides import Prepared
from benchmarks.timing import Work
from engine.config import Config

Check = Callable[[dict[str, Any], dict[str, Any]], None]


@dataclass(frozen=True)
class Rival:
    """A side that is not ours: a preparation and the variant of the recipe that it gets."""

    prepare: Callable[[Job, Recipe], Prepared]
    recipe: Recipe


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        ours: prepares our side.
        rivals: the other sides by name; the first is the plain recipe.
        work: what no side can do without.
        check: raises AssertionError if a rival's first result does not match ours.
        frames: training frames, unless the user names a number.
        rounds: calls of each side, likewise.
        shared: makes, once, what both sides start from.
        configure: changes the experiment's config.
    """

    ours: Callable[[Job], Prepared]
    rivals: Mapping[str, Rival]
    work: Callable[[Job], Work]
    check: Check
    frames: int
    rounds: int
    shared: Callable[[Job], None] | None = None
    configure: Callable[[Config], Config] = field(default=lambda config: config)


def rows(device: str) -> dict[str, Row]:
    """All rows by name, with the rivals that make sense on that device."""
    usual = _usual(device)
    only_plain = {"plain": usual["plain"]}
    passes = only_plain | {"plain, shared passes": Recipe(device, shared_passes=True)}
    return {
        "data cached": Row(
            data.ours_cached,
            _rivals(data.plain_cached, only_plain),
            data.cached_work,
            data.check,
            frames=200,
            rounds=7,
        ),
        "data cold": Row(
            data.ours_cold,
            _rivals(data.plain_cold, only_plain),
            data.cold_work,
            data.check,
            frames=200,
            rounds=5,
        ),
        "decode": Row(
            data.ours_decode,
            _as_is(device, {"plain": data.plain_decode, "Pillow": data.pillow_decode}),
            data.decode_work,
            data.check_decode,
            frames=200,
            rounds=7,
        ),
        "train step": Row(
            step.ours,
            _rivals(step.plain, usual),
            step.work,
            step.check,
            frames=40,
            rounds=15,
            shared=shared.batch,
            configure=step.configure,
        ),
        "validation": Row(
            epoch.ours_validation,
            _rivals(epoch.plain_validation, only_plain),
            epoch.validation_work,
            epoch.check_scores,
            frames=200,
            rounds=5,
            shared=shared.networks,
        ),
        "epoch": Row(
            epoch.ours_epoch,
            _rivals(epoch.plain_epoch, usual),
            epoch.epoch_work,
            epoch.check_epoch,
            frames=200,
            rounds=3,
            configure=one_epoch,
        ),
        "oof": Row(
            oof.ours,
            _rivals(oof.plain, passes),
            oof.work,
            oof.check_scores,
            frames=100,
            rounds=3,
            shared=shared.networks,
            configure=oof.configure,
        ),
        "blend": Row(
            blend.ours,
            _as_is(device, {"plain": blend.plain, "plain SLSQP": blend.plain_slsqp}),
            blend.work,
            blend.check,
            frames=20,
            rounds=3,
            shared=shared.stores,
        ),
        "chain": Row(
            chain.ours,
            _rivals(chain.plain, only_plain),
            chain.work,
            chain.check,
            frames=24,
            rounds=2,
            configure=chain.configure,
        ),
    }


def one_epoch(config: Config) -> Config:
    """One epoch that is validated."""
    return with_section(config, "training", epochs=1, validate_every=1)


def _usual(device: str) -> dict[str, Recipe]:
    """The recipe, and what a user may already do to make it faster."""
    if device == "cpu":
        return {
            "plain": Recipe(device),
            "plain, channels-last": Recipe(device, channels_last=True),
        }
    return {
        "plain": Recipe(device),
        "plain, AMP": Recipe(device, amp=True),
        "plain, AMP, channels-last": Recipe(device, amp=True, channels_last=True),
    }


def _as_is(
    device: str, prepares: Mapping[str, Callable[[Job, Recipe], Prepared]]
) -> dict[str, Rival]:
    """Rivals of the unchanged recipe, which differ by what they do."""
    return {name: Rival(prepare, Recipe(device)) for name, prepare in prepares.items()}


def _rivals(
    prepare: Callable[[Job, Recipe], Prepared], recipes: Mapping[str, Recipe]
) -> dict[str, Rival]:
    return {name: Rival(prepare, recipe) for name, recipe in recipes.items()}
