"""Configs by name: those that come with the engine, wherever it is installed; what a word means.

`roomsmith train exp093_5 lite DATA`: configs by name or path, in order, and a dataset folder, told
from a config by being a folder.
"""

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.config import Config
from engine.mistakes import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
"""Beside the engine: in a checkout, and where pip installs both."""

OVERLAYS = ("exp093_ensemble", "lite")
"""Those of the names that are put behind an experiment's own."""


class Asked(NamedTuple):
    """What the words of a command line come to."""

    files: list[Path]
    """Configs, in order."""
    root: Path | None
    """The dataset folder, if one was named."""


def config_names() -> list[str]:
    """Names of the configs that come with the engine."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def config_file(word: str) -> Path:
    """The file of a config by name (`lite`, `lite.toml`) or path; a path of `.toml` is unproved.

    Raises ConfigError where neither a file nor a config of that name is there.
    """
    path = Path(word)
    is_name = path.name == word
    if path.suffix == ".toml" and (path.exists() or not is_name):
        return path
    if is_name and (named := CONFIGS / f"{path.stem}.toml").is_file():
        return named
    if path.is_dir():
        told = f"--config {word}: Is a directory; for a dataset type --data.root"
        raise ConfigError(f"{told} {shlex.quote(word)}")
    if path.is_file():
        return path
    raise ConfigError(f"{word}: No such file, and no config of that name; {_nearest(path.stem)}")


def sort_words(words: Sequence[str], typed: Sequence[str]) -> Asked:
    """What words that are no flags come to; `typed` is the whole command line.

    Raises ConfigError, which says what to type, for a word that is neither config nor folder, for
    a run folder, and for a second dataset folder.
    """
    files: list[Path] = []
    root: Path | None = None
    for word in words:
        path, quoted = Path(word), shlex.quote(word)
        if path.is_dir():
            is_run = (path / "config.toml").is_file()
            as_folder = f"--out {quoted} --resume" if is_run else f"--data.root {quoted}"
            if path.name == word and (CONFIGS / f"{word}.toml").is_file():
                told = f"{word} is a config, and a folder here; type --config {word} or {as_folder}"
                raise ConfigError(told)
            if is_run:
                raise ConfigError(f"{word} is a run folder; to go on with it type {as_folder}")
            if root is not None:
                told = f"{root} and {word} are both folders; a run has one dataset"
                raise ConfigError(f"{told}: type --data.root {quoted}")
            root = path
        elif path.is_file() and path.suffix != ".toml":
            needed = "training takes a folder with train/image and train/label"
            raise ConfigError(f"{word} is a file; {needed}: type --data.root FOLDER")
        else:
            if not path.exists() and (lists := _list_before(word, typed)):
                raise ConfigError(lists)
            if "/" in word and not path.exists() and path.suffix != ".toml":
                told = f"{word}: no such file or folder; type a config's name or path"
                raise ConfigError(f"{told}, or --data.root FOLDER")
            files.append(config_file(word))
    return Asked(files, root)


def _list_before(word: str, typed: Sequence[str]) -> str | None:
    """What to do about a word behind the value of a flag that takes a list, which is one word."""
    at = len(typed) - 1 - [*reversed(typed)].index(word) if word in typed else 0
    flag = next((n for n in range(at, -1, -1) if typed[n].startswith("-")), None)
    if flag is None or (CONFIGS / f"{Path(word).stem}.toml").is_file():
        return None
    section, _, key = typed[flag].lstrip("-").partition("=")[0].partition(".")
    values = typed[flag + 1 : at + 1]
    if section and key and _is_list(section, key):
        return f"unexpected {word!r}; a list is one word: {typed[flag]} {','.join(values)}"
    if re.fullmatch(r"[-\d.,=x\[\]]+", word):
        return f"unexpected {word!r}; a list is one word: --data.crop_hw [96,128]"
    return None


def _is_list(section: str, key: str) -> bool:
    fields = type(getattr(Config(), section)).model_fields if section in Config.model_fields else {}
    return key in fields and isinstance(fields[key].get_default(), tuple | dict)


def _nearest(name: str) -> str:
    experiments = [one for one in config_names() if one not in OVERLAYS]
    near = difflib.get_close_matches(name, config_names(), n=3)
    told = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{told}there are {', '.join(experiments)}, and over them {', '.join(OVERLAYS)}"
