"""python -m benchmarks.throughput: the engine against the published recipe in today's libraries."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import at_least, check_installed, load_size, say
from engine.cli import ConfigError, parse_command_line
from engine.command import run_main
from engine.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Bench

ROWS = (
    "data cached",
    "data cold",
    "decode",
    "train step",
    "validation",
    "epoch",
    "oof",
    "blend",
    "chain",
)
CURVES = ("frames", "crops", "runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and report; returns the exit code."""
    options, config = _parse(arguments)
    check_installed()
    if options.gpu:
        _check_gpu()
    for run in options.runs or ():
        _check_run(run)
    settings = _settings(options, config)
    earlier = None
    if options.gate:
        from benchmarks.gate import read_earlier

        # Before anything is measured: a wrong file is to be known now, not in an hour.
        earlier = read_earlier(options.gate, settings)
    try:
        rows = _measure_and_report(options, config, settings)
    except AssertionError as error:
        raise RuntimeError(f"a result is wrong, so it was not timed: {error}") from error
    if earlier is None:
        return 0
    from benchmarks.gate import fallen

    lines = fallen(earlier, rows)
    say("\n".join(["gate: a ratio fell", *lines]) if lines else "gate: no ratio fell")
    return 1 if lines else 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="Time the engine against the published recipe written with OpenCV, "
        "albumentations and segmentation_models_pytorch (benchmarks/plain): same experiment, same "
        "frames, each side in processes of its own, called in turns. A side whose result is wrong "
        "is not timed. Any field of the config can be set, above all --data.root.",
        allow_abbrev=False,
    )
    sizes = (
        "experiment: lite = EfficientNet-Lite0 at 192 x 256, full = ConvNeXt-Base at 576 x 768 "
        "(default: lite, with --gpu full)"
    )
    curves = (
        f"cost against work, some of {', '.join(CURVES)}; without a name: none (default: all, or "
        "none with --rows)"
    )
    rows = f"only these of: {', '.join(map(repr, ROWS))}"
    runs = (
        "blend these finished runs of the same frames (default: two networks trained for a "
        "moment, which agree on little)"
    )
    frames = "training frames of every row (default: by row)"
    rivals = "only these of each row's rivals, such as plain"
    gate = "exit with 1 if a ratio fell, by more than its spread, below that of this JSON"
    add = parser.add_argument
    add("--size", choices=("full", "lite"), help=sizes)
    add("--rows", nargs="+", choices=ROWS, metavar="ROW", help=rows)
    add("--curves", nargs="*", choices=CURVES, metavar="CURVE", help=curves)
    add("--rivals", nargs="+", metavar="NAME", help=rivals)
    add("--frames", type=at_least(2), metavar="N", help=frames)
    add("--rounds", type=at_least(1), metavar="N", help="calls of each side (default: by row)")
    add("--runs", nargs=2, type=Path, metavar="RUN", help=runs)
    add("--gpu", action="store_true", help="both sides on the CUDA device")
    add("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    add("--plot", type=Path, metavar="FILE", help="draw the curves as PNG")
    add("--gate", type=Path, metavar="FILE", help=gate)
    options, flags = parse_command_line(parser, arguments)
    options.size = options.size or ("full" if options.gpu else "lite")
    if options.curves is None:
        options.curves = [] if options.rows else list(CURVES)
    options.rows = options.rows or list(ROWS)
    return options, load_size(options.size, flags, "cuda" if options.gpu else "cpu")


def _check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--gpu, but torch finds no CUDA device; leave it out to use the CPU")


def _check_run(run: Path) -> None:
    from engine.views.store import open_store

    try:
        open_store(run / "oof")
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--runs: {error}") from error


def _settings(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """What a later run has to share for its ratios to be comparable."""
    from engine.rundir import identity

    experiment = identity(config, sections=("data", "model", "training", "inference"))
    return {
        "size": options.size,
        "device": config.runtime.device,
        "frames": options.frames,
        "runs": [run.name for run in options.runs or ()],
        "experiment": experiment[:16],
    }


def _measure_and_report(
    options: argparse.Namespace, config: Config, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Measure, write and print what was asked for; returns the JSON's rows."""
    import tempfile

    import torch

    from benchmarks.measure import Bench
    from benchmarks.rates import machine_rates
    from benchmarks.report import describe_machine, print_curves, print_rows, write_json

    say("measuring the machine")
    threads = config.runtime.threads or torch.get_num_threads()
    rates = machine_rates(threads, config.runtime.device)
    machine = {**describe_machine(), "rates": rates}
    content: dict[str, Any] = {"machine": machine, "settings": settings, "rows": [], "curves": []}
    with tempfile.TemporaryDirectory(prefix="roomsmith-throughput-") as folder:
        bench = Bench(config, Path(folder), rates, say, tuple(options.runs or ()))
        for kind, found in _measured(bench, options):
            content[kind] += found
            if options.json:
                # After each part: what was measured in an hour is not lost by what comes next.
                write_json(options.json, content)
    print_rows(content["rows"])
    print_curves(content["curves"])
    if options.plot and content["curves"]:
        from benchmarks.plot import draw_curves

        draw_curves(content["curves"], options.plot)
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def _measured(
    bench: "Bench", options: argparse.Namespace
) -> "Iterator[tuple[str, list[dict[str, Any]]]]":
    """Yield the JSON of each row, then of each curve, with "rows" or "curves", where it belongs."""
    from dataclasses import replace

    from benchmarks.curves import curves, measure_curve
    from benchmarks.measure import measure
    from benchmarks.rows.catalogue import rows

    known = rows(bench.config.runtime.device)
    for name in options.rows:
        row = known[name]
        rivals = [rival for rival in row.rivals if rival in (options.rivals or row.rivals)]
        if not rivals:
            raise ConfigError(f"--rivals: {name!r} has only {', '.join(map(repr, row.rivals))}")
        job = bench.job(row, options.frames or row.frames)
        yield "rows", measure(bench, name, row, job, rivals, options.rounds or row.rounds)
    for name in options.curves:
        curve = curves()[name]
        row = known[curve.row]
        row = replace(row, frames=options.frames or curve.frames or row.frames)
        rounds = options.rounds or curve.rounds
        yield "curves", [measure_curve(bench, name, curve, row, rounds, options.frames)]


if __name__ == "__main__":
    run_main(main)
