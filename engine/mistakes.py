"""What the user is told of a mistake in a config file, a flag or a file of a run."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from engine.config import Config
from engine.damage import remedy
from engine.formats import FORMAT, Source


class ConfigError(ValueError):
    """A mistake in a config file or a flag; the message is meant for the user."""


def refuse_flag(message: str) -> NoReturn:
    """In place of argparse's, which prints the usage first: two lines a field."""
    raise ConfigError(f"command line: {message}")


def to_install(*packages: str) -> str:
    """What to type for what an extra of ours would bring: ours is on no index, these are."""
    return f"pip install {' '.join(packages)}"


def no_table(told: str) -> str:
    """What to do about a flag's word that is neither a table nor a list; pydantic `told` so."""
    name = told.removeprefix("Parsing error encountered for ").partition(":")[0]
    table = "--training.class_weights bed=2,tv=1.5 or --data.label_map 0=ignore,1=0"
    return f"--{name} cannot be read; a table is one word: {table}"


def unreadable(file: Path, error: OSError | ValueError) -> ConfigError:
    """Why a config file cannot be read; a ValueError says that it is no TOML, or not UTF-8."""
    if isinstance(error, OSError):
        return ConfigError(f"{file}: {error.strerror}; give a config that exists")
    return ConfigError(f"{file}: not valid TOML: {error}")


def unknown_format(file: Path, number: JsonValue) -> ConfigError:
    """What to do about a file of a later release."""
    told = f"{file}: format = {number!r}; this engine reads 1 to {FORMAT}, use a later one"
    return ConfigError(told)


def damaged(path: Path, error: ValidationError, where: str = "") -> str:
    """What to do about a file of a run folder that does not fit, `where` it does not."""
    fault = error.errors()[0]
    field = ".".join(map(str, fault["loc"])) or "file"
    told = f"{where}{field}: {fault['msg']}"
    return f"{path} is damaged or of another release ({told}); {remedy(path)}"


def validate(merged: Mapping[str, JsonValue], sources: Sequence[Source]) -> Config:
    """A config of what sources say together.

    Raises ConfigError with one line a fault, each with the source that was the last to set it.
    """
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_describe_all(error, sources)) from None


def _describe_all(error: ValidationError, sources: Sequence[Source]) -> str:
    origin: dict[str, str] = {}
    for source, sections in sources:
        for section, values in sections.items():
            keys = values if isinstance(values, dict) else {}
            origin |= dict.fromkeys((section, *(f"{section}.{key}" for key in keys)), source)
    # What is no table stays, whatever later sources set below it.
    for source, sections in sources:
        wrong = (name for name, values in sections.items() if not isinstance(values, dict))
        origin |= dict.fromkeys(wrong, source)
    return "\n".join(_describe(fault, origin) for fault in error.errors())


def _describe(fault: ErrorDetails, origin: Mapping[str, str]) -> str:
    """A fault, as pydantic tells it; `origin` is what set a section, or a field by full name."""
    path = [str(part) for part in fault["loc"]]
    above = (".".join(path[:n]) for n in range(len(path), 0, -1))
    where = next((origin[name] for name in above if name in origin), "config")
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key {key}; {_nearest(path)}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key} = {fault['input']!r}: {message}"


def _nearest(path: Sequence[str]) -> str:
    """What may have been meant by a key that there is not: beside it, or in another section."""
    # Tables below a section hold names that the user chose: none of them is unknown.
    fields = {name: type(getattr(Config(), name)).model_fields for name in Config.model_fields}
    beside = list(fields[path[0]]) if len(path) > 1 else list(fields)
    above, word = ".".join((*path[:-1], "")), path[-1]
    if near := difflib.get_close_matches(word, beside, n=1):
        return f"did you mean {above}{near[0]}?"
    others = {key: f"{section}.{key}" for section, keys in fields.items() for key in keys}
    if near := difflib.get_close_matches(word, others, n=1):
        return f"did you mean {others[near[0]]}?"
    (nearest,) = difflib.get_close_matches(word, beside, n=1, cutoff=0)
    return f"the nearest is {above}{nearest}; python -m engine.train --help lists all"
