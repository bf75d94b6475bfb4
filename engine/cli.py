"""From what the user typed to a valid `Config`: TOML files left to right, then flags.

Every mistake becomes one `ConfigError` whose message says which file or flag, what came, what was
needed. Nothing heavy is imported here, so that `--help` and a mistake answer at once.
"""

import argparse
import difflib
import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from engine.config import Config


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
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Add one flag per config field to `parser` and parse `arguments` with it.

    Args:
        parser: the command's own parser, with its own options already added.
        arguments: what was typed; None means `sys.argv`.

    Returns:
        The command's options, and the config fields that flags set, as nested dicts.

    Raises:
        ConfigError: a flag is unknown, lacks its value or has one that does not fit.
    """
    seen: dict[str, argparse.Namespace] = {}

    def fail(message: str) -> NoReturn:
        # argparse would print the usage first: two lines a field, with the message at their end.
        raise ConfigError(f"command line: {message}")

    parser.error = fail  # type: ignore[method-assign]

    def parse(root: argparse.ArgumentParser, typed: Any) -> argparse.Namespace:
        parsed, unknown = root.parse_known_args(typed)
        if unknown:
            raise ConfigError(f"command line: {_unknown_argument(unknown[0], root)}")
        # The source rewrites the namespace it is given; the command's own options must survive.
        seen["options"] = argparse.Namespace(**vars(parsed))
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
    return seen["options"], dict(source())


def load_config(files: Sequence[Path], flags: Mapping[str, Any] | None = None) -> Config:
    """Merge TOML `files` left to right, then `flags`, and validate the result.

    Raises:
        ConfigError: a file is missing or is not TOML, a key is unknown, a value is out of range;
            one line a fault, with the file that set it.
    """
    merged: dict[str, Any] = {}
    origin: dict[tuple[str, ...], str] = {}
    for file in files:
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}; give a config that exists") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid TOML: {error}") from error
        _merge(merged, content, origin, str(file))
    _merge(merged, flags or {}, origin, "command line")
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
    lines: list[str] = []
    for section, values in config.model_dump(mode="json").items():
        lines.append(f"[{section}]")
        # An absent value has no TOML form.
        for key, value in values.items():
            if isinstance(value, dict):
                inner = ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items())
                lines.append(f"{key} = {{{inner}}}")
            elif value is not None:
                lines.append(f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A JSON scalar, list or string is TOML as well, but for one character it must escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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


def _merge(
    into: dict[str, Any],
    new: Mapping[str, Any],
    origin: dict[tuple[str, ...], str],
    name: str,
    path: tuple[str, ...] = (),
) -> None:
    for key, value in new.items():
        here = (*path, key)
        origin[here] = name
        # Sections merge key by key; a table below a section (class weights) is one value.
        if isinstance(value, Mapping) and not path and isinstance(into.get(key, {}), dict):
            _merge(into.setdefault(key, {}), value, origin, name, here)
        else:
            into[key] = value


def _describe(fault: Any, origin: Mapping[tuple[str, ...], str]) -> str:
    path = tuple(str(part) for part in fault["loc"])
    where = next(
        (origin[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origin), "config"
    )
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join((*path[:-1], near[0]))}?" if near else f"known: {known}"
        return f"{where}: unknown key {key}; {hint}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key} = {fault['input']!r}: {message}"


def _known_keys(path: tuple[str, ...]) -> list[str]:
    if not path:
        return list(Config.model_fields)
    section = Config.model_fields[path[0]].annotation
    assert isinstance(section, type)
    assert issubclass(section, BaseModel)
    return list(section.model_fields)
