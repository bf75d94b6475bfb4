"""A plan as a config: TOML with the reason of each field behind it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tomli_w
from pydantic import JsonValue

from engine.config import Config
from engine.plan.choices import Choice
from engine.whole import write_text

_WIDE = 100


def sections_of(choices: Iterable[Choice]) -> dict[str, dict[str, JsonValue]]:
    """The fields by section, as a config file has them."""
    sections: dict[str, dict[str, JsonValue]] = {}
    for name, value, _ in choices:
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def to_text(head: Sequence[str], choices: Sequence[Choice]) -> str:
    """The TOML, after lines of comment."""
    lines = [f"# {line}".rstrip() for line in head]
    section = ""
    for name, value, reason in choices:
        if name.partition(".")[0] != section:
            section = name.partition(".")[0]
            lines += ["", f"[{section}]"]
        lines += _field(name.partition(".")[2], value, reason)
    return "\n".join(lines) + "\n"


def write_plan(path: Path, head: Sequence[str], choices: Sequence[Choice]) -> None:
    """Write it, whole or not at all, once it is proved to be a config."""
    Config.model_validate(sections_of(choices))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_text(head, choices))


def _field(key: str, value: JsonValue, reason: str) -> list[str]:
    """A line, or several of a long list or a table, with its reason behind or above it."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_plain(name)} = {_plain(one)}" for name, one in value.items())
        text = f"{key} = {{ {pairs} }}"
    else:
        text = f"{key} = {_plain(value)}"
    if len(text) > _WIDE and isinstance(value, list):
        text = tomli_w.dumps({key: value}).rstrip()
    comment = f" # {reason}" if reason else ""
    if "\n" in text or len(text + comment) > _WIDE:
        return [*([f"# {reason}"] if reason else []), text]
    return [text + comment]


def _plain(value: JsonValue) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip()
