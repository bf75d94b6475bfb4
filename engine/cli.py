"""From what the user typed to a valid `Config`: TOML files left to right, then flags.

Every mistake becomes one `ConfigError` whose message says which file or flag, what came, what was
needed. Nothing heavy is imported here, so that `--help` and a mistake answer at once.
"""

import argparse
import difflib
import logging
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tomli_w
from pydantic import JsonValue, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from engine.config import Config
from engine.formats import FORMAT, OLD_NAMES, FieldPath, Sections, fields_of

_log = logging.getLogger(__name__)

_told: list[str] = []
"""What this process has said of renamed fields: it says it once."""


class ConfigError(ValueError):
    """A mistake in a config file or a flag; the message is meant for the user."""


class _Settings(BaseSettings, Config):
    """`Config` that also reads flags; environment variables are left out on purpose."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the name belongs to the overridden method
        init_settings: Any,
        *_: Any,
        **__: Any,
    ) -> tuple[Any, ...]:
        return (init_settings,)


def parse_command_line(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Sections]:
    """Add one flag per config field to `parser` and parse `arguments` with it.

    Args:
        parser: the command's own parser, with its own options already added.
        arguments: what was typed; None means `sys.argv`.

    Returns:
        The command's options, and the config fields that flags set.

    Raises:
        ConfigError: a flag is unknown, lacks its value or has one that does not fit.
    """
    options, old = argparse.Namespace(), dict[str, JsonValue]()

    def fail(message: str) -> NoReturn:
        # argparse would print the usage first: two lines a field, with the message at their end.
        raise ConfigError(f"command line: {message}")

    parser.error = fail  # type: ignore[method-assign]
    for name in OLD_NAMES:
        hidden = argparse.SUPPRESS
        parser.add_argument(f"--{name}", dest=name, default=hidden, help=hidden)

    def parse(root: argparse.ArgumentParser, typed: Any) -> argparse.Namespace:
        parsed, unknown = root.parse_known_args(typed)
        if unknown:
            raise ConfigError(f"command line: {_unknown_argument(unknown[0], root)}")
        for name in OLD_NAMES:
            if hasattr(parsed, name):
                old[name] = vars(parsed).pop(name)
        # The source rewrites the namespace it is given; the command's own options must survive.
        vars(options).update(vars(parsed))
        return parsed

    source: CliSettingsSource[Any] = CliSettingsSource(
        _Settings,
        cli_parse_args=sys.argv[1:] if arguments is None else list(arguments),
        root_parser=parser,
        parse_args_method=parse,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )
    flags: Sections = dict(source())
    for name, value in old.items():
        section, _, key = name.partition(".")
        flags.setdefault(section, {})[key] = value
    return options, flags


def read_file(file: Path) -> tuple[int, Sections]:
    """The format of a config file, and the fields that it sets, as it names them.

    Raises:
        ConfigError: the file is missing, is not TOML, or has a format that is not known yet.
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
    flags: Mapping[str, Mapping[str, JsonValue]] | None = None,
    defaults: Mapping[str, Mapping[str, JsonValue]] | None = None,
) -> Config:
    """Merge `defaults`, TOML `files` left to right, then `flags`, and validate the result.

    Files and flags of format 1 are read too; the first that a process meets are told in one line.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is out of range; one line a
            fault, with the file that set it.
    """
    sources: list[tuple[str, Mapping[str, Mapping[str, JsonValue]]]] = [("config", defaults or {})]
    sources += [(str(file), read_file(file)[1]) for file in files]
    sources += [("command line", flags or {})]
    merged: dict[str, Any] = {}
    origin: dict[FieldPath, str] = {}
    renamed: list[str] = []
    for source, sections in sources:
        fields, old = fields_of(sections)
        renamed += old
        for path, value in fields.items():
            origin[path] = origin[path[:1]] = source
            # Sections merge key by key; a table below a section (class weights) is one value.
            section = merged.setdefault(path[0], {})
            if len(path) == 1:
                merged[path[0]] = value
            elif isinstance(section, dict):
                section[path[1]] = value
    if renamed and not _told:
        _told.extend(dict.fromkeys(renamed))
        _log.info("config: %s", ", ".join(_told))
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(fault, origin) for fault in error.errors())) from None


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit: 2 for the user's mistakes, 1 for the world's, 130 for Ctrl-C.

    A mistake prints its message alone; an error nobody foresaw keeps its traceback.
    """
    from engine.runtime.progress import start_logging

    start_logging()
    try:
        code = main()
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("stopped; --resume continues where the last checkpoint stands", file=sys.stderr)
        code = 130
    raise SystemExit(code)


def to_toml(config: Config) -> str:
    """The resolved config as TOML that `load_config` reads back to an equal value."""
    # An absent value has no TOML form.
    sections = config.model_dump(mode="json", exclude_none=True)
    return tomli_w.dumps({"format": FORMAT, **sections})


def differences(old: Config, new: Config) -> list[str]:
    """One line for each field in which two configs differ: `training.lr: 0.1 -> 0.2`."""
    was, now = old.model_dump(), new.model_dump()
    return [
        f"{section}.{key}: {was[section][key]} -> {now[section][key]}"
        for section in was
        for key in was[section]
        if was[section][key] != now[section][key]
    ]


def _unknown_argument(word: str, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        return f"unexpected {word!r}; a list is one word: --data.crop_hw [96,128]"
    flag = word.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, known, n=1)
    return f"unknown flag {flag}; " + (f"did you mean {near[0]}?" if near else "see --help")


def _describe(fault: Any, origin: Mapping[FieldPath, str]) -> str:
    path = tuple(str(part) for part in fault["loc"])
    where = next(
        (origin[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origin), "config"
    )
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        # Tables below a section hold names that the user chose: none of them is unknown.
        section = getattr(Config(), path[0]) if len(path) > 1 else Config()
        known = list(type(section).model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join((*path[:-1], near[0]))}?" if near else f"known: {known}"
        return f"{where}: unknown key {key}; {hint}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key} = {fault['input']!r}: {message}"
