"""From what the user typed to a valid `Config`: TOML files left to right, then flags.

Every mistake becomes one `ConfigError` whose message says which file or flag, what came, what was
needed. Nothing heavy is imported here, so that `--help` and a mistake answer at once.
"""

import argparse
import functools
import json
import logging
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import JsonValue, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from engine import sums
from engine.config import Config
from engine.damage import DamageError
from engine.exits import is_typed
from engine.formats import FORMAT, MOVED, Sections, Source, rename
from engine.mistakes import (
    no_table,
    refuse_flag,
    unknown_format,
    unreadable,
    validate,
)
from engine.suggest import Parser, no_key, plain_flags, unknown_argument

_log = logging.getLogger(__name__)


class _Settings(  # type: ignore[misc] # their settings are merged
    BaseSettings, Config, cli_avoid_json=True, cli_hide_none_type=True, cli_implicit_flags=True
):
    """The fields that flags are made for. Never made itself: it would read the environment."""


def parse_command_line(
    parser: Parser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Sections]:
    """Add one flag per config field to a command's parser and parse `arguments`, or `sys.argv`.

    `section.field=value` is `--section.field value`. Where the parser has `words`, a list, what is
    no flag and no flag's value is in them, in order, wherever it stood.

    Returns the command's own options, and the config fields that flags set; raises ConfigError for
    a flag that is unknown, lacks its value or has one that does not fit.
    """
    given = sys.argv[1:] if arguments is None else arguments
    for name in MOVED:
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    source: CliSettingsSource[Any] = CliSettingsSource(_Settings, root_parser=parser)
    parsed, unknown = parser.parse_known_args(plain_flags(given))
    # argparse takes words in one place only: what stands behind a later flag is left over.
    words = [*getattr(parsed, "words", ()), *unknown]
    if any(word.startswith("-") for word in unknown) or (unknown and not hasattr(parsed, "words")):
        refuse_flag(unknown_argument(unknown, given, parser))
    for key, equals, value in (word.partition("=") for word in words):
        if equals and key.replace(".", "_").isidentifier():
            raise no_key(key, value)
    if hasattr(parsed, "words"):
        parsed.words = words
    for name, values in vars(parsed).items():
        if "." in name and isinstance(values, list):
            setattr(parsed, name, [_json_table(value, name) for value in values])
    try:
        source(parsed_args=parsed)
    except SettingsError as error:
        refuse_flag(no_table(str(error)))
    own = {name: value for name, value in vars(parsed).items() if "." not in name}
    return argparse.Namespace(**own), dict(source())


def _json_table(word: str, name: str) -> str:
    """A flag's word, as JSON if it is a table as TOML has it: what a message says can be pasted."""
    if word.startswith("{"):
        with suppress(tomllib.TOMLDecodeError):  # then it is JSON, or a mistake
            return json.dumps(tomllib.loads(f"table = {word}")["table"])
    parts = [part.partition("=") for part in word.split(",")]
    keys = [key.strip() for key, equals, _ in parts if equals]
    for key in keys:
        if len(keys) == len(parts) and keys.count(key) > 1:
            refuse_flag(f"--{name} gives {key!r} twice; give it one value")
    return word


def read_file(file: Path) -> tuple[int, dict[str, JsonValue]]:
    """The format of a config file, and the fields that it sets, as it names them.

    Raises ConfigError for a file that is missing, no TOML, or of a format that is not known yet.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and not is_typed(error):
            raise
        raise unreadable(file, error) from error
    number = content.pop("format", 1)
    if type(number) is not int or number not in range(1, FORMAT + 1):
        raise unknown_format(file, number)
    return number, content


def load_config(
    files: Sequence[Path],
    flags: Mapping[str, JsonValue] | None = None,
    defaults: Mapping[str, JsonValue] | None = None,
) -> Config:
    """Merge `defaults`, TOML `files` left to right, then `flags`, and validate the result.

    Files and flags of format 1 are read too; the first that a process meets are told in one line.
    Raises ConfigError: a file cannot be read, a key is unknown, a value is out of range; one line
    a fault, with the file that set it.
    """
    sources: list[Source] = [("config", defaults or {})]
    for file in files:
        _tell_changed(file)
        sources.append((str(file), read_file(file)[1]))
    sources += [("command line", flags or {})]
    try:
        return Config.model_validate(_merge(sources))
    except ValidationError:
        # Today's fields know no name of format 1.
        sources = rename(sources)
        return validate(_merge(sources), sources)


@functools.cache
def _tell_changed(file: Path) -> None:
    """One line on a config of a run folder that is not as it was written there."""
    try:
        if file.is_file():
            sums.check(file)
    except DamageError as error:
        _log.warning("%s; taken as it is", error.told)


def _merge(sources: Sequence[Source]) -> dict[str, JsonValue]:
    merged: dict[str, JsonValue] = {}
    for _, sections in sources:
        for section, values in sections.items():
            # Sections merge key by key; a table below a section (class weights) is one value.
            before = merged.setdefault(section, {})
            if not isinstance(values, dict):
                merged[section] = values
            elif isinstance(before, dict):
                before.update(values)
    return merged


def to_toml(config: Config) -> str:
    """The resolved config as TOML that `load_config` reads back to an equal value."""
    # An absent value has no TOML form.
    sections = config.model_dump(mode="json", exclude_none=True)
    return tomli_w.dumps({"format": FORMAT, **sections})
