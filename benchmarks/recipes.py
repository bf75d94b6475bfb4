"""Recipes by name: config files and fields over them, trained by the engine or by benchmarks/plain.

A recipe is typed as words: `wide: exp093_2 lite training.lr=2e-3`, the name first if it has one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from engine.cli import load_config, parse_command_line
from engine.config import Config
from engine.mistakes import ConfigError
from engine.named import sort_words
from engine.suggest import Parser

PLAIN = "plain"
"""The name of the rival: the published recipe in plain PyTorch, trained by `benchmarks.plain`."""


class Recipe(NamedTuple):
    """How a fold is trained.

    Attributes:
        name: a file's name, too.
        config: the experiment.
        plain: trained by `benchmarks.plain`, not by the engine.
    """

    name: str
    config: Config
    plain: bool = False

    def having(self, **training: object) -> "Recipe":
        """The same with other fields of [training]."""
        # Not above: it loads PyTorch, and a mistake in a config is told before that.
        from benchmarks.subset import with_section

        return self._replace(config=with_section(self.config, "training", **training))

    def seeded(self, number: int) -> "Recipe":
        """The same with the seed of another training, under a name of its own."""
        other = self.having(seed=self.config.training.seed + 1000 * number)
        return other._replace(name=f"{self.name}-{number}")


def recipe(words: Sequence[str], root: Path, *, plain: bool = False) -> Recipe:
    """The recipe that words stand for, on the frames of a folder; raises ConfigError."""
    name, given = "", list(words)
    if given and given[0].endswith(":"):
        name = given.pop(0)[:-1]
    if plain:
        name = PLAIN
    parser = Parser(prog="--config")
    parser.add_argument("words", nargs="*")
    options, flags = parse_command_line(parser, given)
    asked = sort_words(options.words, given)
    if asked.root is not None:
        raise ConfigError(f"--config {asked.root}: a folder of frames; type --root {asked.root}")
    if not asked.files:
        raise ConfigError(f"--config {' '.join(words)}: names no config; type --config demo")
    name = name or "-".join([file.stem for file in asked.files] + _fields(given))
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(f"--config {name!r}: letters, digits and -_. make a name; type one first")
    changes: dict[str, dict[str, JsonValue]] = {
        "data": {"root": str(root)},
        "runtime": {"device": "cpu"},
    }
    merged: dict[str, Any] = {
        section: {**changes.get(section, {}), **flags.get(section, {})}
        for section in {**changes, **flags}
    }
    config = load_config(asked.files, merged)
    if not config.holds_out:
        told = 'training.frames = "all" holds no frame out to be scored'
        raise ConfigError(f"--config {name}: {told}; type training.frames=folds")
    return Recipe(name, config, plain)


def by_name(recipes: Sequence[Recipe], name: str) -> Recipe:
    """The recipe of this name; raises ConfigError."""
    for one in recipes:
        if one.name == name:
            return one
    raise ConfigError(f"{name}: no recipe of that name; there are {_names(recipes)}")


def check_names(recipes: Sequence[Recipe]) -> None:
    """Refuse, by a ConfigError, two recipes of one name."""
    if len({one.name for one in recipes}) < len(recipes):
        told = "two recipes have one name"
        raise ConfigError(f"{told}: {_names(recipes)}; type another first: --config NAME: ...")


def _names(recipes: Sequence[Recipe]) -> str:
    return ", ".join(one.name for one in recipes)


def _fields(words: Sequence[str]) -> list[str]:
    """Of `training.lr=2e-3` what a name may hold of it: `lr2e-3`."""
    pairs = (word.partition("=") for word in words if "=" in word)
    kept = (f"{key.rpartition('.')[2]}{value}" for key, _, value in pairs)
    return ["".join(c for c in text if c.isalnum() or c in "-_.") for text in kept]
