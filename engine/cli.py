"""From what the user typed to a valid `Config`: TOML files left to right, then flags.

Every mistake becomes one `ConfigError` whose message says which file or flag, what came, what was
needed. Nothing heavy is imported here, so that `--help` and a mistake answer at once.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tomli_w
from pydantic import JsonValue, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource

from engine.config import Config
from engine.formats import FORMAT, MOVED, Sections, Source, rename
from engine.mistakes import describe, unknown_argument


class ConfigError(ValueError):
    """A mistake in a config file or a flag; the message is meant for the user."""


class _Settings(BaseSettings, Config):  # type: ignore[misc] # their settings are merged
    """The fields that flags are made for. Never made itself: it would read the environment."""


def parse_command_line(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Sections]:
    """Add one flag per config field to a command's parser and parse `arguments`, or `sys.argv`.

    Returns the command's own options, and the config fields that flags set; raises ConfigError for
    a flag that is unknown, lacks its value or has one that does not fit.
    """
    options = argparse.Namespace()

    def fail(message: str) -> NoReturn:
        # argparse would print the usage first: two lines a field, with the message at their end.
        raise ConfigError(f"command line: {message}")

    def parse(root: argparse.ArgumentParser, typed: Any) -> argparse.Namespace:
        parsed, unknown = root.parse_known_args(typed)
        if unknown:
            fail(unknown_argument(unknown[0], root))
        # The source rewrites the namespace it is given; the command's own options must survive.
        vars(options).update({name: vars(parsed)[name] for name in vars(parsed) if "." not in name})
        return parsed

    parser.error = fail  # type: ignore[method-assign]
    for name in MOVED:
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    source: CliSettingsSource[Any] = CliSettingsSource(
        _Settings,
        cli_parse_args=True if arguments is None else list(arguments),
        root_parser=parser,
        parse_args_method=parse,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )
    return options, dict(source())


def read_file(file: Path) -> tuple[int, dict[str, JsonValue]]:
    """The format of a config file, and the fields that it sets, as it names them.

    Raises ConfigError for a file that is missing, no TOML, or of a format that is not known yet.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; give a config that exists") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    number = content.pop("format", 1)
    if number not in range(1, FORMAT + 1):
        raise ConfigError(
            f"{file}: format = {number!r}; this engine reads 1 to {FORMAT}, use a later one"
        )
    return number, content


def load_config(
    files: Sequence[Path],
    flags: Mapping[str, JsonValue] | None = None,
    defaults: Mapping[str, JsonValue] | None = None,
) -> Config:
    """Merge `defaults`, TOML `files` left to right, then `flags`, and validate the result.

    Files and flags of format 1 are read too; the first that a process meets are told in one line.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is out of range; one line a
            fault, with the file that set it.
    """
    sources: list[Source] = [("config", defaults or {})]
    sources += [(str(file), read_file(file)[1]) for file in files]
    sources += [("command line", flags or {})]
    merged, origin = _merge(sources)
    if not MOVED.keys().isdisjoint(origin):
        merged, origin = _merge(rename(sources))
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(fault, origin) for fault in error.errors())) from None


def _merge(sources: Sequence[Source]) -> tuple[dict[str, JsonValue], dict[str, str]]:
    """The sections together; and which source was the last to set each section, and each field."""
    merged: dict[str, JsonValue] = {}
    origin: dict[str, str] = {}
    for source, sections in sources:
        for section, values in sections.items():
            origin[section] = source
            if not isinstance(values, dict):
                merged[section] = values
                continue
            origin |= dict.fromkeys((f"{section}.{key}" for key in values), source)
            # Sections merge key by key; a table below a section (class weights) is one value.
            before = merged.setdefault(section, {})
            if isinstance(before, dict):
                before.update(values)
    return merged, origin


def to_toml(config: Config) -> str:
    """The resolved config as TOML that `load_config` reads back to an equal value."""
    # An absent value has no TOML form.
    sections = config.model_dump(mode="json", exclude_none=True)
    return tomli_w.dumps({"format": FORMAT, **sections})
