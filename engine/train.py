"""python -m engine.train: folds -> training -> out-of-fold -> temperature -> submission, atlas."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine.cli import load_config, parse_command_line
from engine.command import AGAIN, run_main
from engine.config import Config
from engine.lease import clear, look
from engine.mistakes import ConfigError
from engine.report.seal import is_sealed
from engine.run_log import logged
from engine.rundir import RunDir, load_run, unnamed_fields
from engine.sums import check

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
"""The embedded default: what runs when no --config is given."""

GO_ON = f"{AGAIN}, with --resume"
"""What to do where training was stopped."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.train",
        description="Train the folds of an experiment, predict out-of-fold, choose the "
        "temperature and write a submission. Without --config: a small demo on rendered rooms.",
        allow_abbrev=False,
    )
    add, on = parser.add_argument, "store_true"
    merged = "TOML files, merged left to right (default: the run's in --out, or the demo's)"
    add("--config", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=merged)
    add("--out", type=Path, help="run folder (default: runs/ + config names)")
    add("--folds", type=int, nargs="+", metavar="K", help="train only these")
    add("--resume", action=on, help="continue a fold that was stopped half-way")
    add(
        "--profile",
        action=on,
        help="train nothing: show where an epoch of the first of the folds spends its time, "
        "and write profile/phases.json and profile/trace.json.gz into --out",
    )
    short = "short for --runtime.kernels: reference runs plain PyTorch for the fused operations"
    add("--kernels", choices=("fused", "reference"), help=short)
    options, flags = parse_command_line(parser, arguments)
    if options.kernels:
        flags.setdefault("runtime", {})["kernels"] = options.kernels
    files = options.config or [DEMO]
    run = RunDir(options.out or Path("runs") / "-".join(file.stem for file in files))
    # A run that is named, and no config: its own, as it was begun.
    begun, own = options.out and not options.config and run.config.is_file(), run.config
    if begun or (own.exists() and any(f.exists() and own.samefile(f) for f in files)):
        # It is no proof of itself: damaged, it would continue the run as another experiment.
        check(own)
    config = load_run(run, flags) if begun else load_config(files, flags, unnamed_fields(run))
    folds = range(config.data.folds)
    chosen = folds if options.folds is None else options.folds
    for fold in (k for k in chosen if k not in folds):
        raise ConfigError(f"--folds {fold}: data.folds = {len(folds)}, so 0 .. {folds[-1]} exist")
    if options.profile:
        from engine.profile import profile

        profile(config, run, chosen[0])
    else:
        train(config, run, sorted(set(chosen)), resume=options.resume)
    return 0


def train(config: Config, run_dir: RunDir, chosen: Sequence[int], *, resume: bool = False) -> None:
    """Run every stage that is not done yet and show a finished run; see `experiment.complete`."""
    with logged(run_dir, go_on=GO_ON):
        _train(config, run_dir, chosen, resume=resume)


def _train(config: Config, run_dir: RunDir, chosen: Sequence[int], *, resume: bool) -> None:
    from engine.report.show import show

    if is_sealed(config, run_dir):
        clear(run_dir.results)
    else:
        for fold in chosen:
            look(run_dir.training(fold))
        from engine.early import check_train

        check_train(config, run_dir, chosen, resume=resume)
        # Not to answer for a finished run, or to tell what is wrong: it loads PyTorch.
        from engine.experiment import complete

        if not complete(config, run_dir, chosen, resume=resume):
            return
    show(run_dir)


if __name__ == "__main__":
    run_main(main, GO_ON)
