"""python -m benchmarks.throughput: the engine against the published recipe in today's libraries.

The recipe is written with OpenCV, albumentations and segmentation_models_pytorch
(benchmarks/plain): same experiment, same frames, each side in processes of its own, called in
turns, until its ratio is settled or its share of the budget is spent, at least three times. A side
whose result is wrong is not timed; a rival that is not installed is left out. Each row is printed,
and written, when it is there. Sizes: lite = EfficientNet-Lite0 at 192 x 256, full = ConvNeXt-Base
at 576 x 768. Any field of the config can be set, above all --data.root.
"""

import argparse
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.figures import Figures, say
from benchmarks.gate import fallen, read_earlier
from engine.cli import parse_command_line
from engine.command import run_main
from engine.config import Config
from engine.mistakes import ConfigError

if TYPE_CHECKING:
    from benchmarks.measure import Bench

ROWS = (
    *("data cached", "data cold", "decode", "train step", "validation"),
    *("epoch", "oof", "blend", "chain"),
)
_BY_NAME = ("chain",)
"""Measured only when it is named: a call is minutes, of what other rows measure one by one."""
CURVES = ("frames", "crops", "runs")

_BUDGET_S, _CURVE_S = 720, 900
"""Rows answer while one waits; a curve is as many measurements of a row as it has points."""

_WORK_VERSIONS = {"chain": 2, "epoch": 2, "oof": 2, "blend": 2}
"""Of rows that do something else than they once did; files that name none are older. Our chain's
second ends in `engine.blend`, whose honest scores, intervals and atlas come on top; the others'
second has half the frames or less, unless their number is given."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and report; returns the exit code."""
    options, config = _parse(arguments)
    libraries = "cv2", "albumentations", "matplotlib", "segmentation_models_pytorch"
    command.check_ready(*libraries, gpu=options.gpu)
    from engine.views.store import open_store

    for run in options.runs or ():
        try:
            open_store(run / "oof")
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"--runs: {error}") from error
    settings = _settings(options, config)
    # Before anything is measured: a wrong file is to be known now, not in an hour.
    earlier = read_earlier(options.gate, settings) if options.gate else None
    rows = _report(options, config, settings)
    lines = [] if earlier is None else fallen(earlier, rows)
    if earlier is not None:
        say("\n".join(["gate: a ratio fell", *lines]) if lines else "gate: no ratio fell")
    return 1 if lines else 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    parser = command.parser("throughput", __doc__)
    add, at_least = parser.add_argument, command.at_least
    add("--size", choices=("full", "lite"), help="default: lite; with --gpu full")
    without = f"default: all but {', '.join(_BY_NAME)}"
    add("--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"only some of {ROWS}; {without}")
    curves = f"cost against work, and no row but --rows: some of {', '.join(CURVES)}"
    add("--curves", nargs="+", choices=CURVES, metavar="CURVE", default=[], help=curves)
    add("--rivals", nargs="+", metavar="NAME", help="only these of each row's, such as plain")
    add("--frames", type=at_least(2), metavar="N", help="training frames (default: by row)")
    rounds = "calls of each side at most (default: by row)"
    add("--rounds", type=at_least(1), metavar="N", help=rounds)
    command.add_budget(parser, f"{_BUDGET_S}, and {_CURVE_S} for each curve")
    runs = "blend these finished runs of the same frames (default: two hardly trained networks)"
    add("--runs", nargs=2, type=Path, metavar="RUN", help=runs)
    add("--gpu", action="store_true", help="both sides on the CUDA device")
    add("--plot", type=Path, metavar="FILE", help="draw the curves as PNG")
    gate = "exit with 1 if a ratio fell, by more than its spread, below that of this JSON"
    add("--gate", type=Path, metavar="FILE", help=gate)
    options, flags = parse_command_line(parser, arguments)
    options.size = options.size or ("full" if options.gpu else "lite")
    if not (options.rows or options.curves):
        options.rows = [row for row in ROWS if row not in _BY_NAME]
    options.rows = options.rows or []
    return options, command.load_size(options.size, flags, "cuda" if options.gpu else "cpu")


def _settings(options: argparse.Namespace, config: Config) -> Figures:
    """What a later run has to share for its ratios to be comparable."""
    from engine.identity import identity

    return {
        "size": options.size,
        "device": config.runtime.device,
        "frames": options.frames,
        "runs": [run.name for run in options.runs or ()],
        "experiment": identity(config, sections=("data", "model", "training", "inference"))[:16],
        **{f"work of {row}": n for row, n in _WORK_VERSIONS.items() if row in options.rows},
    }


def _report(options: argparse.Namespace, config: Config, settings: Figures) -> list[Figures]:
    """Measure, write and print what was asked for; returns the JSON's rows."""
    import tempfile

    import torch

    from benchmarks.measure import Bench
    from benchmarks.pace import Pace
    from benchmarks.report import draw_curves, print_curves, print_rows
    from benchmarks.timing import machine_rates

    say("measuring the machine")
    threads = config.runtime.threads or torch.get_num_threads()
    rates = machine_rates(threads, config.runtime.device)
    machine = {**command.describe_machine(), "rates": rates}
    content: Figures = {"machine": machine, "settings": settings, "rows": [], "curves": []}
    curves = [f"curve of {name}" for name in options.curves]
    parts = [*options.rows, *curves]
    sheet = command.Sheet(options.json, content, parts)
    budget_s = options.budget_s or _BUDGET_S + _CURVE_S * len(curves)
    with (
        tempfile.TemporaryDirectory(prefix="roomsmith-throughput-") as folder,
        Pace(budget_s, parts) as pace,
    ):
        bench = Bench(config, Path(folder), rates, tuple(options.runs or ()), pace)
        for part, kind, found in _measured(bench, options):
            sheet.add(part, kind, found)
    print_rows(content["rows"])
    print_curves(content["curves"])
    if options.plot and content["curves"]:
        draw_curves(content["curves"], options.plot)
    return list(content["rows"])


def _measured(
    bench: "Bench", options: argparse.Namespace
) -> Iterator[tuple[str, str, list[Figures]]]:
    """Yield the JSON of each row, then of each curve, with its part and "rows" or "curves"."""
    from benchmarks.known_rows import rows

    known = rows(bench.config.runtime.device)
    chosen = {name: _chosen(known[name].rivals, options.rivals, name) for name in options.rows}
    for name, rivals in chosen.items():
        if rivals and bench.pace.begin(name):
            row = known[name]
            job = bench.job(row, options.frames or row.frames)
            yield name, "rows", bench.measure(row, job, rivals, options.rounds or row.rounds)
    for name in options.curves:
        part = f"curve of {name}"
        if bench.pace.begin(part):
            yield part, "curves", [bench.measure_curve(name, options.rounds, options.frames)]


def _chosen(rivals: Collection[str], asked: Sequence[str] | None, row: str) -> list[str]:
    """A row's rivals that were asked for and can be had here.

    Raises:
        ConfigError: it has none of those that were asked for.
    """
    wanted = [rival for rival in rivals if rival in (asked or rivals)]
    if not wanted:
        raise ConfigError(f"--rivals: {row!r} has only {', '.join(map(repr, rivals))}")
    return [rival for rival in wanted if command.has(rival)]


if __name__ == "__main__":
    run_main(main)
