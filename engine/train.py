"""python -m engine.train: folds -> training -> out-of-fold -> temperature -> submission, atlas."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine.cli import load_config, parse_command_line
from engine.command import run_main
from engine.config import Config
from engine.lease import clear, look
from engine.mistakes import ConfigError
from engine.report.seal import is_sealed
from engine.rundir import RunDir, load_run, unnamed_fields
from engine.sums import check

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
"""The embedded default: what runs when no --config is given."""


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
    chosen = chosen_folds(config, options.folds)
    if options.profile:
        from engine.profile import profile

        profile(config, run, chosen[0])
    elif train(config, run, chosen, resume=options.resume):
        from engine.report.show import show

        show(run)
    return 0


def chosen_folds(config: Config, asked: Sequence[int] | None) -> Sequence[int]:
    """The folds that are `asked` for, None = all; a ConfigError names one that there is not."""
    folds = range(config.data.folds)
    for fold in asked or ():
        if fold not in folds:
            exist = f"data.folds = {len(folds)}, so 0 .. {folds[-1]} exist"
            raise ConfigError(f"--folds {fold}: {exist}")
    return folds if asked is None else list(dict.fromkeys(asked))


def train(config: Config, run_dir: RunDir, chosen: Sequence[int], *, resume: bool = False) -> bool:
    """Run every stage that is not done yet; whether the run is finished. See `experiment.complete`.

    Where it is, and all is as it was, PyTorch is not loaded.
    """
    if is_sealed(config, run_dir):
        clear(run_dir.results)
    else:
        for fold in chosen:
            look(run_dir.training(fold))
        from engine.early import check_train

        check_train(config, run_dir, chosen, resume=resume)
        # Not to answer for a finished run, or to tell what is wrong: it loads PyTorch.
        from engine.experiment import complete

        return complete(config, run_dir, sorted(chosen), resume=resume)
    return True


if __name__ == "__main__":
    run_main(main, "run the same command again, with --resume")
