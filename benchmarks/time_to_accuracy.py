"""python -m benchmarks.time_to_accuracy: how much mIoU in how many minutes of training?

One fold is trained by each recipe, a list of configs and fields such as `wide: exp093_2 lite
training.lr=2e-3`, and by the plain PyTorch recipe (benchmarks/plain) where it is asked for. Each
training is a process of its own, seeds interleaved. Validation is no part of its time; it is told.

By itself: a curve of each recipe, whose own schedule is spread over --minutes. With --compare:
recipes against the last one at equal training time, each one's difference with interval and p
appended to a file of levers.
With --to-plain: how long ours takes to the plain recipe's mIoU after all its epochs. With --table:
a file of levers as a table.

What was stopped goes on when the command is typed again with the same --work.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import command
from benchmarks.recipes import PLAIN, Recipe, by_name, check_names, recipe
from engine.command import run_main
from engine.mistakes import ConfigError

if TYPE_CHECKING:
    from benchmarks.equal_time import Measured

POINTS = 20
"""Of a curve over --minutes, where --every does not say otherwise."""

_WITHOUT_MINUTES_S = 60.0
_PLAIN_APART = 10
"""Times as far apart are the points of the plain recipe in a race, where its end alone counts: it
takes longer to train and to look."""

_PLAIN_WORDS = ("exp093_2", "lite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, print and write; returns the exit code."""
    options = _parse(arguments)
    if options.table:
        from benchmarks.levers import markdown, read

        print(markdown(read(options.table)), end="")
        return 0
    recipes = _recipes(options)
    if any(one.plain for one in recipes):
        command.check_ready("cv2", "albumentations", "segmentation_models_pytorch")
    for one in recipes:
        if options.fold >= one.config.data.folds:
            told = f"{one.name} has data.folds = {one.config.data.folds}"
            raise ConfigError(
                f"--fold {options.fold}: {told}, so 0 .. {one.config.data.folds - 1} exist"
            )
    if options.compare:
        _compare(options, recipes)
    else:
        _curves(options, recipes)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser("time_to_accuracy", __doc__)
    add, at_least = parser.add_argument, command.at_least
    words = "a recipe: NAME: first if it has one, configs by name or path, fields; once for each"
    add("--config", nargs="+", action="append", default=[], metavar="WORD", help=words)
    plain = f"the plain recipe, too (default: {' '.join(_PLAIN_WORDS)}), as {PLAIN!r}"
    add("--plain", nargs="*", metavar="WORD", help=plain)
    add("--root", type=Path, metavar="DATA", help="dataset folder")
    add("--fold", type=at_least(0), default=0, metavar="K", help="which (default: 0)")
    minutes = "of training, over which each schedule is spread (default: its recipe's own epochs)"
    add("--minutes", type=float, metavar="M", help=minutes)
    add("--seeds", type=at_least(1), default=1, metavar="N", help="how many (default: 1)")
    every = f"of training between points (default: a {POINTS}th of --minutes, else 60)"
    add("--every", type=float, metavar="SECONDS", help=every)
    add("--work", type=Path, metavar="DIR", help="folder for the trainings")
    add("--plot", type=Path, metavar="FILE", help="draw the curves as .png or .svg")
    only = parser.add_mutually_exclusive_group()
    add = only.add_argument
    add("--compare", nargs="+", metavar="NAME", help="what each gains over the last of them")
    add("--to-plain", action="store_true", help="one recipe's time to the plain one's last mIoU")
    add("--table", type=Path, metavar="FILE", help="print a file of levers as a table")
    parser.add_argument("--lever", metavar="NAME", help="of the only row (default: the recipe's)")
    options = parser.parse_args(arguments)
    if not options.table:
        _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    """Refuse, by a ConfigError, what cannot be done together."""
    for flag in ("root", "work"):
        if getattr(options, flag) is None:
            raise ConfigError(f"--{flag} is missing; type --{flag} FOLDER")
    for flag in ("minutes", "every"):
        if getattr(options, flag) is not None and getattr(options, flag) <= 0:
            raise ConfigError(f"--{flag} {getattr(options, flag):g}: must be above 0")
    if not options.config:
        raise ConfigError("--config is missing; type a recipe: --config exp093_2 lite")
    if options.plot and options.plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot {options.plot}: name a .png or .svg")
    if options.compare:
        _check_compare(options)
    if options.to_plain and len(options.config) != 1:
        raise ConfigError("--to-plain takes one recipe: --config ... once")


def _check_compare(options: argparse.Namespace) -> None:
    if options.minutes is None:
        raise ConfigError("--compare is at equal time; type --minutes M")
    if options.seeds < 2:
        raise ConfigError("--compare: one seed tells nothing of chance; type --seeds 2 or more")
    if options.plot:
        raise ConfigError("--plot draws curves, and --compare has none")
    if len(set(options.compare)) < max(2, len(options.compare)):
        raise ConfigError("--compare: name two recipes or more, each once; the last is the rival")
    if options.lever and len(options.compare) > 2:
        raise ConfigError("--lever names one row; leave it out: rows have their recipes' names")


def _recipes(options: argparse.Namespace) -> list[Recipe]:
    found = [recipe(words, options.root) for words in options.config]
    if options.plain is not None or options.to_plain:
        found.append(recipe(options.plain or _PLAIN_WORDS, options.root, plain=True))
    check_names(found)
    if options.compare:
        from benchmarks.levers import check_comparable, differing

        found = [by_name(found, name) for name in options.compare]
        for one in found[:-1]:
            differing(one, found[-1])
            check_comparable(one, found[-1])
    return found


def _compare(options: argparse.Namespace, recipes: Sequence[Recipe]) -> None:
    """Train recipes for equal times; what each gains over the last becomes a row of the levers."""
    from benchmarks.equal_time import Trained, train_and_predict
    from benchmarks.figures import say
    from benchmarks.levers import append, row_of
    from benchmarks.work import WorkFolder

    work = WorkFolder(options.work, options.fold)
    measured = work.measured(recipes)
    *levers, rival = _fitted(recipes, measured, 60 * options.minutes)
    trained: dict[str, Trained] = {}
    for one in _in_turns([*levers, rival], options.seeds):
        trained[one.name] = found = Trained(**work.once(one, train_and_predict))
        say(f"{one.name}: mIoU {found.miou:.4f} in {found.train_s:.0f} s of training")
    for one, lever in zip(recipes, levers, strict=False):
        pairs = [
            (trained[f"{lever.name}-{number}"], trained[f"{rival.name}-{number}"])
            for number in range(options.seeds)
        ]
        row = {**_told(options, one, recipes[-1], lever, rival, measured), **row_of(pairs)}
        say(f"{row['lever']} against {row['rival']}: {row['told']}; {row['decision']}")
        if options.json:
            append(options.json, row)


def _told(
    options: argparse.Namespace,
    one: Recipe,
    rival: Recipe,
    fitted: Recipe,
    fitted_rival: Recipe,
    measured: Mapping[str, "Measured"],
) -> dict[str, Any]:
    """What a row says of how it was measured."""
    from benchmarks.equal_time import told_measured
    from benchmarks.levers import differing

    return {
        "lever": options.lever or one.name,
        "rival": rival.name,
        "differs": differing(one, rival),
        "data": options.root.name,
        "fold": options.fold,
        "seeds": [fitted.seeded(n).config.training.seed for n in range(options.seeds)],
        "seconds": 60 * options.minutes,
        "epochs": fitted.config.training.epochs,
        "rival_epochs": fitted_rival.config.training.epochs,
        "measured": told_measured({name: measured[name] for name in (one.name, rival.name)}),
        "machine": command.describe_machine(),
    }


def _curves(options: argparse.Namespace, recipes: Sequence[Recipe]) -> None:
    """Train each recipe and tell its curve, and how long ours takes to the plain one's mIoU."""
    from benchmarks.curves import draw, train_curve
    from benchmarks.equal_time import told_measured
    from benchmarks.figures import say
    from benchmarks.work import WorkFolder

    work = WorkFolder(options.work, options.fold)
    fitted, measured, every_s = list(recipes), dict[str, "Measured"](), options.every
    if options.minutes is not None:
        # The target is what the plain recipe has after its own epochs.
        spread = [one for one in recipes if not (options.to_plain and one.plain)]
        measured = work.measured(spread)
        fitted = _fitted(spread, measured, 60 * options.minutes)
        fitted += [one for one in recipes if one not in spread]
    if every_s is None:
        every_s = 60 * options.minutes / POINTS if options.minutes else _WITHOUT_MINUTES_S
    curves: list[dict[str, Any]] = []
    content = {"data": options.root.name, "fold": options.fold, "every_s": every_s}
    content |= {"measured": told_measured(measured), "curves": curves}
    for one in _in_turns(fitted, options.seeds):
        name, seed = one.name.rpartition("-")[0], one.config.training.seed
        apart_s = every_s * (_PLAIN_APART if options.to_plain and one.plain else 1)
        curve = {"name": name, "seed": seed, **work.once(one, train_curve, apart_s)}
        curves.append(curve)
        say(
            f"{name}, seed {seed}: mIoU {curve['miou']:.4f} by one view, "
            f"{curve['all_views_miou']:.4f} by all, after {curve['epochs']} epochs in "
            f"{curve['train_s'] / 60:.1f} min of training; validation "
            f"{curve['validation_s'] / 60:.1f} min besides"
        )
        _write(options, content)
    _print_reached(curves)
    if options.to_plain:
        content["to_plain"] = _races(curves)
    _write(options, content)
    if options.plot:
        draw(curves, options.plot)


def _races(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each seed, how long ours took to the plain recipe's last mIoU; told."""
    from benchmarks.figures import say
    from benchmarks.points import race

    ours = {curve["seed"]: curve for curve in curves if curve["name"] != PLAIN}
    plain = {curve["seed"]: curve for curve in curves if curve["name"] == PLAIN}
    rows = [race(ours[seed], plain[seed]) for seed in sorted(ours)]
    for row in rows:
        target = f"{row['miou']:.4f}, the plain recipe's after {row['plain_s']:.0f} s of training"
        reached = "not reached"
        if row["ratio"] is not None:
            reached = f"{row['seconds']:.0f} s, {row['ratio']:.2f} x less"
        say(f"seed {row['seed']}: {target}; ours: {reached}")
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    if len(ratios) < len(rows):
        say(f"not reached with {len(rows) - len(ratios)} of {len(rows)} seeds")
    else:
        low, high = min(ratios), max(ratios)
        say(f"median {statistics.median(ratios):.2f} x less ({low:.2f} .. {high:.2f})")
    return rows


def _print_reached(curves: Sequence[Mapping[str, Any]]) -> None:
    from benchmarks.report import print_table

    lines = []
    for curve in curves:
        times = ("not reached" if s is None else f"{s:.0f} s" for s in curve["reached_s"].values())
        lines.append((curve["name"], str(curve["seed"]), *times, f"{curve['miou']:.4f}"))
    title = "seconds of training to an mIoU by one view; between points in a straight line"
    print_table(title, ("recipe", "seed", *curves[0]["reached_s"], "last mIoU"), lines)


def _write(options: argparse.Namespace, content: dict[str, Any]) -> None:
    if options.json:
        command.write_json(options.json, {"machine": command.describe_machine(), **content})


def _in_turns(recipes: Sequence[Recipe], seeds: int) -> Iterator[Recipe]:
    """Each recipe with each seed; every other seed begins with the last one."""
    for number in range(seeds):
        for one in recipes if number % 2 == 0 else reversed(recipes):
            yield one.seeded(number)


def _fitted(
    recipes: Sequence[Recipe], measured: Mapping[str, "Measured"], seconds: float
) -> list[Recipe]:
    from benchmarks.equal_time import fitted

    return [fitted(one, measured[one.name].epoch_s, seconds) for one in recipes]


if __name__ == "__main__":
    run_main(main)
