"""What a wrong word of a command line was probably meant to be: one line that says what to type."""

import argparse
import difflib
import functools
import re
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from engine.config import Config
from engine.mistakes import ConfigError, refuse_flag

ELSEWHERE = {
    "backbone": "model.encoder",
    "batch": "training.batch_size",
    "bs": "training.batch_size",
    "checkpoint": "resume",
    "ckpt": "resume",
    "crop": "data.crop_hw",
    "crop_size": "data.crop_hw",
    "data": "data.root",
    "data_dir": "data.root",
    "data_root": "data.root",
    "dataset": "data.root",
    "early_stopping_patience": "training.patience",
    "image_size": "data.input_hw",
    "img_size": "data.input_hw",
    "imgsz": "data.input_hw",
    "learning_rate": "training.lr",
    "max_epochs": "training.epochs",
    "model": "model.encoder",
    "num_epochs": "training.epochs",
    "num_workers": "runtime.workers",
    "optimizer_lr": "training.lr",
    "output": "out",
    "output_dir": "out",
    "pretrained": "model.weights",
    "project": "out",
    "save_dir": "out",
    "wd": "training.weight_decay",
    "work_dir": "out",
}
"""What a field or flag of ours is called elsewhere."""

SAID = {
    "amp": ("--runtime.precision bf16",),
    "cpu": ("--runtime.device cpu", "--device cpu"),
    "cuda": ("--runtime.device cuda", "--device cuda"),
    "fp16": ("--runtime.precision bf16",),
    "gpu": ("--runtime.device cuda", "--device cuda"),
    "gpus": ("--runtime.device cuda", "--device cuda"),
}
"""Flags of elsewhere whose value is another here; the first that a command has."""

_TRUE, _FALSE = {"1", "on", "true", "yes"}, {"0", "false", "no", "off"}


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is a ConfigError of one line, not the usage."""

    def __init__(self, **how: object) -> None:
        super().__init__(**{"allow_abbrev": False, **how})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Refuse what argparse found, and say what to type."""
        lacking = message.removeprefix("the following arguments are required: ")
        if lacking != message:
            refuse_flag(f"{lacking} is missing; type {self.prog} {_needed(self)}")
        if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            choices = [choice.strip("' ") for choice in wrong[2].split(",")]
            near = difflib.get_close_matches(wrong[1], choices, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        elif re.search("--folds: invalid int value", message):
            message += "; configs and folders stand before it"
        refuse_flag(message)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's; what it does not know says what was meant."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            refuse_flag(unknown_argument(unknown, sys.argv[1:] if args is None else args, self))
        return parsed


def unknown_argument(
    words: Sequence[str], typed: Sequence[str], parser: argparse.ArgumentParser
) -> str:
    """What to do about words of what was `typed` that `parser` does not know: the first flag."""
    index = next((n for n, word in enumerate(words) if word.startswith("-")), None)
    if index is None:
        return f"unexpected {words[0]!r}; a list is one word: --data.crop_hw [96,128]"
    flag, equals, value = words[index].partition("=")
    following = typed[typed.index(words[index]) + 1 :] if words[index] in typed else ()
    if not equals and following and not following[0].startswith("-"):
        value = following[0]
    known = [option for action in parser._actions for option in action.option_strings]
    if meant := _meant(flag.lstrip("-").replace("-", "_"), value, known):
        return f"unknown flag {flag}; type {meant}"
    names = [option.lstrip("-") for option in known if option.startswith("--")]
    near = difflib.get_close_matches(flag.lstrip("-"), names, n=1)
    return f"unknown flag {flag}; " + (f"did you mean --{near[0]}?" if near else "see --help")


def no_section(section: str, value: str) -> str:
    """What to do about a section that is used as a flag: one of its fields is meant."""
    field = ELSEWHERE.get(section, "")
    typed = f"--{field} {shlex.quote(value)}" if field else f"--{section}.FIELD VALUE"
    return f"--{section} is a section of fields; type {typed}"


def no_key(key: str, value: str) -> ConfigError:
    """What to do about `key=value` where the key is none of a field."""
    fields, name = _fields(), _field(key)
    if name in fields:
        return ConfigError(f"command line: unknown key {key}; type {name}={shlex.quote(value)}")
    near = difflib.get_close_matches(key, fields, n=1)
    if not near:
        leaves = {field.partition(".")[2]: field for field in reversed(fields)}
        near = [leaves[leaf] for leaf in difflib.get_close_matches(key, leaves, n=1)]
    hint = f"did you mean {near[0]}={shlex.quote(value)}?" if near else "see --help"
    return ConfigError(f"command line: unknown key {key}; {hint}")


def plain_flags(typed: Sequence[str]) -> list[str]:
    """The words of a command line as argparse takes them.

    `section.field=value` becomes the flag that it stands for, and a field that is true or false is
    a flag of its own for each: `--field false` becomes `--no-field`. Raises ConfigError for another
    value of those, and for a section in the place of a field.
    """
    words: list[str] = []
    rest = list(typed)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        key = name.removeprefix("--")
        if name == f"--{key}" and key in Config.model_fields:
            value = value if equals else (rest or [""])[0]
            if not value.startswith("{"):
                refuse_flag(no_section(key, value))
        if key not in _fields() or not (equals or name == f"--{key}"):
            words.append(word)
            continue
        section, _, field = key.partition(".")
        if not isinstance(getattr(getattr(Config(), section), field), bool):
            words.append(word if name != key else f"--{word}")
            continue
        if not equals and rest and rest[0].lower() in _TRUE | _FALSE:
            equals, value = "=", rest.pop(0)
        if equals and value.lower() not in _TRUE | _FALSE:
            refuse_flag(f"{key} = {value!r}; type {key}=true or {key}=false")
        words.append(f"--no-{key}" if equals and value.lower() in _FALSE else f"--{key}")
    return words


def _meant(name: str, value: str, known: Sequence[str]) -> str | None:
    """The flag to type for one called `name`, with its value, if it is among those `known`."""
    field = _field(name)
    if f"--{field}" in known and field != name:
        return " ".join([f"--{field}", *([shlex.quote(value)] if value else [])])
    return next((said for said in SAID.get(name, ()) if said.partition(" ")[0] in known), None)


def _field(name: str) -> str:
    """A field's full name, a flag's, or the name itself: what something is called here."""
    leaf = name.lower()
    if leaf in ELSEWHERE:
        return ELSEWHERE[leaf]
    ends = [field for field in _fields() if field.partition(".")[2] == leaf]
    # Of two sections that have it, training's is meant.
    return next((field for field in ends if field.startswith("training.")), (*ends, name)[0])


@functools.cache
def _fields() -> list[str]:
    sections = {name: type(getattr(Config(), name)) for name in Config.model_fields}
    return [f"{name}.{key}" for name, kind in sections.items() for key in kind.model_fields]


def _needed(parser: argparse.ArgumentParser) -> str:
    """The words that a command needs, as its usage has them."""
    words = []
    for action in parser._actions:
        name = str(action.metavar or action.dest.upper())
        if action.required and action.option_strings:
            words.append(f"{action.option_strings[0]} {name}")
        elif not action.option_strings and action.nargs not in ("?", "*"):
            words.append(f"{name} ..." if action.nargs == "+" else name)
    return " ".join(words)
