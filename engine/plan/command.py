"""`prepare new`: its flags, and what it tells."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from engine.bring.command import add_classes

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def add_new(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command."""
    new = commands.add_parser(
        "new",
        help="write a config for a dataset folder, planned for a stated time",
        description="Check DATA, time some steps here, and write a config that trains in about the "
        "stated time: classes, folds, input size, channels, batch, epochs and views, each with its "
        "reason as a comment.",
    )
    add = new.add_argument
    add("root", type=Path, metavar="DATA", help="dataset folder")
    add(
        "--time",
        type=_seconds,
        default=1800.0,
        metavar="TIME",
        help="for all folds, views and submission: 90s, 30m, 2h (default: 30m)",
    )
    add_classes(new, "by index (default: dataset.toml's, or by the labels' values)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--out", type=Path, metavar="FILE", help="config to write (default: DATA's name .toml)")
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> None:
    from engine.mistakes import ConfigError
    from engine.plan.planned import examine, make_plan
    from engine.plan.written import write_plan
    from engine.runtime.progress import duration

    out = options.out or Path(f"{options.root.resolve().name}.toml")
    if out.suffix != ".toml":
        raise ConfigError(f"--out {out}: a config ends in .toml")
    if out.exists():
        raise ConfigError(f"{out} exists; name another file: --out FILE.toml")
    time_s = options.time
    found, machine = examine(options.root, options.classes, options.device)
    plan = make_plan(found, machine, time_s)
    head = [
        f"Planned by `prepare new` for {options.root}, in about {duration(time_s)} here.",
        "",
        *(f"Measured: {line}." for line in plan.told),
        f"To train: roomsmith train {shlex.quote(str(out))}",
    ]
    write_plan(out, head, plan.choices)
    for choice in plan.choices:
        if choice.reason:
            shown = str(choice.value)
            shown = shown if len(shown) < 60 else f"{shown[:57]}..."
            print(f"{choice.name} = {shown}: {choice.reason}")
    for line in plan.told:
        print(line)
    print(f"{out} is written; to train: roomsmith train {shlex.quote(str(out))}")


def _seconds(text: str) -> float:
    """Seconds of `90s`, `30m` or `1.5h`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError("a time is needed: 90s, 30m or 2h")
    return float(found[1]) * _UNITS_S[found[2]]
