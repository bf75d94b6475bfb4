"""python -m benchmarks.throughput: the engine against the published recipe in today's libraries."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.cli import ConfigError, load_config, parse_command_line, run_main
from engine.config import Config

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

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_SIZES = {"lite": ("exp093_2.toml", "lite.toml"), "full": ("exp093_2.toml",)}


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
        return _measure_and_report(options, config, settings, earlier)
    except AssertionError as error:
        raise RuntimeError(f"a result is wrong, so it was not timed: {error}") from error


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="Time the engine against the published recipe written with OpenCV, "
        "albumentations and segmentation_models_pytorch (benchmarks/plain): same experiment, same "
        "frames, each side in processes of its own, called in turns. A side whose result is wrong "
        "is not timed. Any field of the config can be set, above all --data.root.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--size",
        choices=sorted(_SIZES),
        help="experiment: lite = EfficientNet-Lite0 at 192 x 256, full = ConvNeXt-Base at "
        "576 x 768 (default: lite, with --gpu full)",
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help=f"only these of: {', '.join(map(repr, ROWS))}"
    )
    parser.add_argument(
        "--curves",
        nargs="*",
        metavar="CURVE",
        help=f"cost against work, some of {', '.join(CURVES)}; without a name: none "
        "(default: all, or none with --rows)",
    )
    parser.add_argument(
        "--rivals", nargs="+", metavar="NAME", help="only these of each row's rivals, such as plain"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="training frames of every row (default: by row)"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="calls of each side (default: by row)"
    )
    parser.add_argument(
        "--runs",
        nargs=2,
        type=Path,
        metavar="RUN",
        help="blend these finished runs of the same frames (default: two networks trained for a "
        "moment, which agree on little)",
    )
    parser.add_argument("--gpu", action="store_true", help="both sides on the CUDA device")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves as PNG")
    parser.add_argument(
        "--gate",
        type=Path,
        metavar="FILE",
        help="exit with 1 if a ratio fell, by more than its spread, below that of this JSON",
    )
    options, flags = parse_command_line(parser, arguments)
    _check_names("--rows", options.rows, ROWS)
    _check_names("--curves", options.curves, CURVES)
    for name, least in (("rounds", 1), ("frames", 2)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be at least {least}, got {value}")
    options.size = options.size or ("full" if options.gpu else "lite")
    if options.curves is None:
        options.curves = [] if options.rows else list(CURVES)
    if options.rows is None:
        options.rows = list(ROWS)
    flags.setdefault("runtime", {}).setdefault("device", "cuda" if options.gpu else "cpu")
    return options, load_config([_CONFIGS / name for name in _SIZES[options.size]], flags)


def _check_names(flag: str, given: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in given or ():
        if name not in known:
            raise ConfigError(f"{flag}: unknown {name!r}; there are {', '.join(map(repr, known))}")


def check_installed() -> None:
    """Refuse to begin without the libraries of the plain recipe."""
    import importlib.util

    needed = ("cv2", "albumentations", "segmentation_models_pytorch")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"{', '.join(missing)} cannot be imported; pip install 'roomsmith[bench]'"
        )


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
    from engine.runtime.environment import identity

    experiment = identity(config, sections=("data", "model", "training", "inference"))
    return {
        "size": options.size,
        "device": config.runtime.device,
        "frames": options.frames,
        "runs": [run.name for run in options.runs or ()],
        "experiment": experiment[:16],
    }


def _measure_and_report(
    options: argparse.Namespace,
    config: Config,
    settings: dict[str, Any],
    earlier: list[dict[str, Any]] | None,
) -> int:
    import tempfile

    import torch

    from benchmarks.measure import Bench
    from benchmarks.rates import machine_rates
    from benchmarks.report import describe_machine, print_curves, print_stages

    _say("measuring the machine")
    threads = config.runtime.threads or torch.get_num_threads()
    rates = machine_rates(threads, config.runtime.device)
    machine = {**describe_machine(), "rates": rates}
    content: dict[str, Any] = {"machine": machine, "settings": settings, "rows": [], "curves": []}
    with tempfile.TemporaryDirectory(prefix="roomsmith-throughput-") as folder:
        bench = Bench(config, Path(folder), rates, _say, tuple(options.runs or ()))
        for rows, curves in _measured(bench, options):
            content["rows"] += rows
            content["curves"] += curves
            if options.json:
                from engine.rundir import write_json

                # After each part: what was measured in an hour is not lost by what comes next.
                write_json(options.json, content)
    print_stages(content["rows"])
    print_curves(content["curves"])
    if options.plot and content["curves"]:
        from benchmarks.plot import draw_curves

        draw_curves(content["curves"], options.plot)
    if earlier is None:
        return 0
    from benchmarks.gate import fallen

    lines = fallen(earlier, content["rows"])
    _say("\n".join(["gate: a ratio fell", *lines]) if lines else "gate: no ratio fell")
    return 1 if lines else 0


def _measured(bench: Any, options: argparse.Namespace) -> Any:
    """Yield the JSON rows of each row, then each curve."""
    from dataclasses import replace

    from benchmarks.curves import curves, measure_curve
    from benchmarks.measure import measure, row_of
    from benchmarks.rows.catalogue import rows

    known = rows(bench.config.runtime.device)
    for name in options.rows:
        row = known[name]
        rivals = [rival for rival in row.rivals if rival in (options.rivals or row.rivals)]
        if not rivals:
            raise ConfigError(f"--rivals: {name!r} has only {', '.join(map(repr, row.rivals))}")
        job = bench.job(row, options.frames or row.frames)
        measured = measure(bench, name, row, job, rivals, options.rounds or row.rounds)
        yield [row_of(name, rival, measured) for rival in rivals], []
    for name in options.curves:
        curve = curves()[name]
        row = known[curve.row]
        row = replace(row, frames=options.frames or curve.frames or row.frames)
        rounds = options.rounds or curve.rounds
        yield [], [measure_curve(bench, name, curve, row, rounds, options.frames)]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
