"""The runs of a sweep: every combination, with a name that says what is special about it."""

import hashlib
import itertools
import json
import logging
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import JsonValue

from engine.cli import load_config
from engine.config import Config
from engine.mistakes import ConfigError
from engine.named import config_file
from engine.rundir import NOT_MEASURED
from engine.sweep.sweep_file import Asked, Distribution, Random, SweepFile

_log = logging.getLogger(__name__)

Values = dict[str, JsonValue]

_LONGEST = 96
"""Characters of a run's name: a file system allows 255 for a file, and logs have longer ones."""

_FOLDER = "{sweep}"

_DIGITS = 4
"""Of a number that is drawn: enough to tell draws apart, few enough to be read in a name."""


@dataclass(frozen=True)
class Run:
    """A training of a sweep.

    Attributes:
        name: of its folder.
        experiment: what its configs are called together.
        configs: as they are typed.
        values: fields over them, by full name.
        base: what the configs alone come to.
        config: what all that comes to.
        folds: those to train.
        after: experiments that have to be finished before.
    """

    name: str
    experiment: str
    configs: tuple[str, ...]
    values: Values
    base: Config
    config: Config
    folds: tuple[int, ...]
    after: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all folds are trained, so that it can be finished."""
        return len(self.folds) == self.config.networks


def runs_of(sweep: SweepFile, file: Path, root: Path) -> list[Run]:
    """All runs of a sweep, in order: experiments, grid, variants, draws, seeds.

    Two that come to the same config are one, which the log says. In words, `{sweep}` stands for the
    sweep's folder `root`. Raises ConfigError for a config
    that there is not, and for values that do not fit, each in a line that names the run.
    """
    points = [
        (asked, {**sweep.fields, **asked.fields}, varied)
        for asked in sweep.experiments
        for varied in _variations(sweep)
    ]
    fields = {field for _, _, varied in points for field in varied}
    special = {
        field
        for field in fields
        if len({as_word(varied[field]) if field in varied else None for _, _, varied in points}) > 1
    }
    names = [
        _name("-".join([asked.called, *_words(varied, special)]), varied)
        for asked, _, varied in points
    ]
    counts = Counter(names)
    found: dict[str, Run] = {}
    for name, (asked, fixed, varied) in zip(names, points, strict=True):
        values = {
            field: value.replace(_FOLDER, str(root)) if isinstance(value, str) else value
            for field, value in {**fixed, **varied}.items()
        }
        own = name if counts[name] == 1 else f"{name}-{_hash(values)}"
        run = _run(own, asked, values, sweep, file)
        same = found.setdefault(run.config.model_dump_json(), run)
        if same is not run:
            _log.warning("%s is %s once more: left out", name, same.name)
    return list(found.values())


def as_word(value: JsonValue) -> str:
    """A value as a flag of the command line takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _run(name: str, asked: Asked, values: Values, sweep: SweepFile, file: Path) -> Run:
    files = [config_file(word) for word in asked.configs]
    flags: dict[str, dict[str, JsonValue]] = {}
    for field, value in values.items():
        section, _, key = field.partition(".")
        flags.setdefault(section, {})[key] = value
    try:
        config = load_config(files, flags)
    except ConfigError as error:
        told = str(error).replace("command line: ", f"{file}: {name}: ")
        raise ConfigError(told) from None
    if not config.holds_out:
        told = f'{name} has training.frames = "all", and a sweep compares runs; {NOT_MEASURED}'
        raise ConfigError(f"{file}: {told}: type engine.train, once folds have chosen")
    count = config.data.folds
    for fold in sweep.folds or ():
        if fold >= count:
            exist = f"data.folds = {count}, so 0 .. {count - 1} exist"
            raise ConfigError(f"{file}: folds: {fold}: {name} has {exist}")
    # Every network of a fold is a command of its own.
    chosen = range(count) if sweep.folds is None else sweep.folds
    folds = [first + fold for first in range(0, config.networks, count) for fold in chosen]
    base = load_config(files)
    found = base, config, tuple(folds), asked.after
    return Run(name, asked.called, asked.configs, values, *found)


def _variations(sweep: SweepFile) -> Iterator[Values]:
    """Every combination of grid, variants, draws and seeds."""
    grid = [[(name, value) for value in values] for name, values in sweep.grid.items()]
    draws = [*_draws(sweep.random)] if sweep.random else [{}]
    seeds: list[Values] = [{"training.seed": seed} for seed in sweep.seeds] or [{}]
    variants = list(sweep.variants) or [{}]
    for point in itertools.product(*grid):
        for parts in itertools.product(variants, draws, seeds):
            values = dict(point)
            for part in parts:
                values |= part
            yield values


def _draws(how: Random) -> Iterator[Values]:
    for number in range(how.count):
        yield {
            name: _drawn(one, random.Random(f"{how.seed} {number} {name}").random())
            for name, one in how.fields.items()
        }


def _drawn(one: Distribution, share: float) -> JsonValue:
    """The value at a share, from 0 to below 1, of a distribution."""
    if one.choice is not None:
        return one.choice[int(share * len(one.choice))]
    if one.integer is not None:
        low, high = one.integer
        return low + int(share * (high - low + 1))
    if one.uniform is not None:
        start, end = one.uniform
        return _rounded(start + share * (end - start))
    assert one.log_uniform is not None, "exactly one is given"
    start, end = map(math.log, one.log_uniform)
    return _rounded(math.exp(start + share * (end - start)))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _words(varied: Mapping[str, JsonValue], special: set[str]) -> list[str]:
    """A word a `special` field, `lr0.001`; with its section where two are called alike."""
    leaves = Counter(name.partition(".")[2] for name in special)
    words = []
    for name, value in varied.items():
        leaf = name.partition(".")[2]
        if name in special:
            words.append((leaf if leaves[leaf] == 1 else name.replace(".", "_")) + _shown(value))
    return words


def _shown(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "x".join(map(_shown, value))
    if isinstance(value, dict):
        return "-".join(f"{key}{_shown(one)}" for key, one in value.items())
    return as_word(value)


def _name(name: str, varied: Values) -> str:
    """A name that is a folder's: few kinds of characters, and not too many."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).lstrip(".-") or "run"
    if len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 9]}-{_hash(varied)}"


def _hash(values: Values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def matching(patterns: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    """Runs whose names fit one of some patterns, in the sweep's order."""
    return [run for run in runs if any(fnmatchcase(run.name, one) for one in patterns)]
