"""The commands by name: `roomsmith VERB ...` and `python -m engine VERB ...` are one.

A command is a module with `main(arguments) -> int`; a new one needs a line in `VERBS`.
"""

import argparse
import difflib
import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn

from engine.command import AGAIN, run_main
from engine.mistakes import ConfigError
from engine.named import config_names
from engine.runtime.machine import commit

_SCRIPT = "roomsmith"
"""The distribution, and the console script that pip makes of it."""


class Verb(NamedTuple):
    """A command."""

    module: str
    summary: str
    """One line of the list."""
    go_on: str = AGAIN
    """What its user is told to do when it was stopped."""


VERBS = {
    "train": Verb(
        "engine.train",
        "train the folds of an experiment, to a temperature and a submission",
        "run the same command again, with --resume",
    ),
    "predict": Verb("engine.predict", "masks of images, by runs or a blend"),
    "blend": Verb("engine.blend", "the best weights of several runs, and their submission"),
    "compare": Verb("engine.compare", "two runs: difference in IoU, interval and p"),
    "evaluate": Verb("engine.evaluate", "scores, intervals and errors on a labelled folder"),
    "report": Verb("engine.report_command", "a run's report.html again; of several, a leaderboard"),
    "sweep": Verb("engine.sweep.command", "many trainings by one file, here or on a cluster"),
    "export": Verb("engine.export.command", "one graph for ONNX, OpenVINO, PyTorch or AOTI"),
    "prepare": Verb(
        "engine.prepare", "bring, check or pack a dataset, plan a config for it, verify a run"
    ),
}
"""By name, in the order of a first use."""


def program(verb: str) -> str:
    """How a command was called, for its usage: by the console script, or by its module."""
    return f"{_SCRIPT} {verb}" if _is_script() else f"python -m engine.{verb}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb that the first word names with the words behind it; returns its exit code.

    Lists the verbs where there is no word, or `--help`. Raises ConfigError for a verb that there is
    not; else what the verb's own `main` raises.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in VERBS:
        return int(import_module(VERBS[words[0]].module).main(words[1:]))
    parser = _parser()
    if words and words[0] not in ("-h", "--help", "--version"):
        raise ConfigError(_no_verb(words[0]))
    if not words:
        parser.print_help()
    parser.parse_args(words[:1])
    return 0


def run() -> NoReturn:
    """Run what `sys.argv` asks for, and exit: the console script, and `python -m engine`."""
    word = next(iter(sys.argv[1:]), "")
    go_on = VERBS[word].go_on if word in VERBS else AGAIN
    run_main(main, go_on, several=word == "train")


def version() -> str:
    """What is installed, in one line: release, commit where it runs from a checkout, PyTorch."""
    told = [f"{_SCRIPT} {_installed(_SCRIPT)}"]
    if found := commit():
        told.append(f"commit {found}")
    told += [f"Python {platform.python_version()}", f"torch {_installed('torch')}"]
    return ", ".join(told)


def _is_script() -> bool:
    return bool(sys.argv) and Path(sys.argv[0]).stem == _SCRIPT


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


class _Version(argparse.Action):
    """Asks for the versions when they are asked for, not for every `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        sys.stdout.write(f"{version()}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    prog = _SCRIPT if _is_script() else "python -m engine"
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} VERB ...",
        description=f"verbs:\n{verbs}",
        epilog=f"{prog} VERB --help tells what a verb takes; a first run: {prog} train demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="what is installed")
    return parser


def _no_verb(word: str) -> str:
    near = difflib.get_close_matches(word, VERBS, n=1)
    if word in config_names() or word.endswith(".toml"):
        return f"{word!r} is a config, no verb; type train {word}"
    hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
    kind = "flag" if word.startswith("-") else "verb"
    return f"unknown {kind} {word!r}; {hint}"
