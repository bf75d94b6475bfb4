"""python -m engine.train: folds -> training -> out-of-fold -> temperature -> submission, atlas."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, redirect_stdout
from functools import partial
from pathlib import Path

from engine.cli import load_config, parse_command_line, to_toml
from engine.command import Ranks, ranks, run_main
from engine.config import ROOMS, Config
from engine.epochs import is_trained
from engine.formats import Sections
from engine.lease import clear, look
from engine.mistakes import ConfigError
from engine.named import CONFIGS, config_file, sort_words
from engine.report.seal import is_sealed
from engine.resume import FINISHED, Goal, told_trained
from engine.run_log import logged, message_and_code, tell_end
from engine.rundir import NOT_MEASURED, RunDir, load_run, unnamed_fields
from engine.suggest import Parser
from engine.sums import check
from engine.verbs import VERBS, program

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.train")

DEMO = CONFIGS / "demo.toml"
"""The embedded default: what runs where neither a config nor a dataset is named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options, flags = _parse(typed)
    if options.print_config:
        with redirect_stdout(sys.stderr):  # what is told on the way
            config, _ = _resolve(options, flags, typed)
        sys.stdout.write(to_toml(config))
        return 0
    config, run = _resolve(options, flags, typed)
    chosen, goal = chosen_folds(config, options.folds), _goal(options)
    if (more := options.extend is not None) and (options.profile or options.dry_run):
        raise ConfigError("--extend changes the run; type it without --dry-run and --profile")
    if (options.profile or options.dry_run) and ranks().size > 1:
        raise ConfigError("--profile and --dry-run are of one process; call them without torchrun")
    if options.profile:
        from engine.profile import profile

        profile(config, run, chosen[0])
    elif options.dry_run:
        from engine.dry_run import dry_run

        dry_run(config, run, chosen, resume=options.resume)
    elif train(config, run, chosen, resume=options.resume, goal=goal, more=more):
        from engine.report.show import show

        show(run)
    return 0


def chosen_folds(config: Config, asked: Sequence[int] | None) -> Sequence[int]:
    """The folds that are `asked` for, None = all; a ConfigError names one that there is not."""
    folds = range(config.networks)
    for fold in asked or ():
        if fold not in folds:
            members = config.training.members
            counted = f"data.folds = {config.data.folds}" if config.holds_out else ""
            if members > 1 or not counted:
                counted += f"{', ' * bool(counted)}training.members = {members}"
            exist = f"{counted}, so 0 .. {folds[-1]} exist"
            raise ConfigError(f"--folds {fold}: {exist}")
    return folds if asked is None else sorted(set(asked))


def train(
    config: Config,
    run_dir: RunDir,
    chosen: Sequence[int],
    *,
    resume: bool = False,
    goal: Goal = FINISHED,
    more: bool = False,
) -> bool:
    """Run every stage that is not done yet; whether the run is finished. See `experiment.complete`.

    A run that the config gives `more` epochs, and nothing else, is extended before. Where it is
    finished, and all is as it was, PyTorch is not loaded. What is said stands in the run's log.
    Of several processes that torchrun started the first does all that, and the others help it.
    """
    here = ranks()
    trains = more or not all(is_trained(run_dir, fold, config.training) for fold in chosen)
    if trains:
        _check_processes(config, here)
    if goal.until == "predicted" and not config.holds_out:
        raise ConfigError(f"--until predicted, but {NOT_MEASURED}; type --until trained")
    if here.rank:
        if not is_sealed(config, run_dir):
            from engine.distributed.world import open_world
            from engine.follow import follow

            with open_world(config.runtime) as world, _watched(here, run_dir):
                follow(config, run_dir, world)
        return False
    with logged(run_dir, go_on=VERBS["train"].go_on):
        if more:
            from engine.extend import extend

            extend(config, run_dir)
            resume = True
        if is_sealed(config, run_dir):
            clear(run_dir.results)
            return True
        for fold in chosen:
            look(run_dir.training(fold))
        from engine.early import check_train

        check_train(config, run_dir, chosen, resume=resume)
        finished = _complete(config, run_dir, chosen, here, resume=resume, goal=goal)
        if not finished and goal.is_training:
            _log.info("%s", told_trained(config, run_dir, chosen))
        return finished


def _complete(
    config: Config,
    run_dir: RunDir,
    chosen: Sequence[int],
    here: Ranks,
    *,
    resume: bool,
    goal: Goal,
) -> bool:
    # Not to answer for a finished run, or to tell what is wrong: it loads PyTorch.
    from engine.experiment import complete

    if here.size == 1:
        return complete(config, run_dir, chosen, resume=resume, goal=goal)
    from engine.distributed.world import leading

    with leading(config) as world, _watched(here, run_dir):
        return complete(config, run_dir, chosen, resume=resume, goal=goal, world=world)


def _watched(here: Ranks, run_dir: RunDir) -> AbstractContextManager[None]:
    """What ends all processes, and says why, when one of them fails within."""
    from engine.distributed.watch import watched

    return watched(*here, message_and_code, partial(tell_end, run_dir))


def _check_processes(config: Config, here: Ranks) -> None:
    """Refuse, by a ConfigError, more processes than a batch has parts."""
    parts = config.training.parts
    if here.size > parts:
        raise ConfigError(
            f"{here.size} processes, and training.parts = {parts}: each needs a part of a batch; "
            f"type training.parts={here.size} (a run keeps the parts that it began with), or start "
            f"fewer: --nproc-per-node {parts}"
        )


def _parse(typed: Sequence[str]) -> tuple[argparse.Namespace, Sections]:
    """The command's own options, and the config fields that flags set."""
    called = program("train")
    parser = Parser(
        prog=called,
        usage=f"{called} [CONFIG ...] [DATA] [--out RUN] [flags] [section.field=VALUE ...]",
        description="Train the folds of an experiment, predict out-of-fold, choose the "
        "temperature and write a submission. Without config and folder: a small demo on rendered "
        "rooms. Any field below is set by --section.field VALUE or section.field=VALUE.",
    )
    add, on = parser.add_argument, "store_true"
    words = "configs by name (exp093_5 lite) or path, merged left to right; a folder is the dataset"
    add("words", nargs="*", metavar="CONFIG|DATA", help=words)
    merged = "the same, by flag (default: the run's in --out, one that suits the dataset, or demo)"
    add("--config", nargs="+", action="extend", default=[], metavar="CONFIG", help=merged)
    add("--out", type=Path, help="run folder (default: runs/ + config names)")
    add("--folds", type=int, nargs="+", metavar="K", help="train only these")
    add("--resume", action=on, help="continue a fold that was stopped half-way")
    add(
        "--until",
        choices=("trained", "predicted"),
        default="finished",
        help="stop when the folds are trained, or predicted out-of-fold, and tell what remains",
    )
    epochs = "stop each fold after so many of its epochs; a later call goes on as if it had not"
    add("--stop-after", type=int, metavar="EPOCHS", help=epochs)
    more = "give a finished run more epochs, so many in all, and go on with it; "
    more += "needs each fold's last.pt: runtime.keep_last"
    add("--extend", type=int, metavar="EPOCHS", help=more)
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--print-config",
        action=on,
        help="print the config that all of this comes to, as TOML, and nothing else",
    )
    only.add_argument(
        "--dry-run",
        action=on,
        help="train nothing and write no run: check all that training checks, then tell sizes, "
        "memory, disk, and the time that some steps and views take here",
    )
    only.add_argument(
        "--profile",
        action=on,
        help="train nothing: show where an epoch of the first of the folds spends its time, "
        "and write profile/phases.json and profile/trace.json.gz into --out",
    )
    code = "run the plug-ins that a run's own config names (yours and those of flags always are)"
    add("--allow-code", action=on, help=code)
    short = "short for --runtime.kernels: reference runs plain PyTorch for the fused operations"
    add("--kernels", choices=("fused", "reference"), help=short)
    options, flags = parse_command_line(parser, typed)
    if options.kernels:
        flags.setdefault("runtime", {})["kernels"] = options.kernels
    if options.extend is not None:
        given = flags.setdefault("training", {}).setdefault("epochs", options.extend)
        if str(given) != str(options.extend):
            told = f"--extend {options.extend} and training.epochs = {given} are two numbers"
            raise ConfigError(f"{told}; type one")
    return options, flags


def _resolve(
    options: argparse.Namespace, flags: Sections, typed: Sequence[str]
) -> tuple[Config, RunDir]:
    """What is to be run, and the folder for it."""
    words = sort_words(options.words, typed)
    files = [*map(config_file, options.config), *words.files]
    if words.root is not None:
        data = flags.setdefault("data", {})
        if Path(str(data.get("root", words.root))) != words.root:
            told = f"--data.root {data['root']} and {words.root} are two datasets; name one"
            raise ConfigError(told)
        data["root"] = str(words.root)
    # A run that is named, and no config: its own, as it was begun.
    begun = bool(options.out and not files and RunDir(options.out).config.is_file())
    if not files and not begun:
        root = flags.get("data", {}).get("root", ROOMS)
        files = [DEMO] if root == ROOMS else _suited(Path(str(root)), flags)
    run = RunDir(options.out or Path("runs") / "-".join(file.stem for file in files))
    own = run.config
    if begun or (own.exists() and any(f.exists() and own.samefile(f) for f in files)):
        # It is no proof of itself: damaged, it would continue the run as another experiment.
        check(own)
    config = load_run(run, flags) if begun else load_config(files, flags, unnamed_fields(run))
    if config.code:
        from engine.plug_ins import permit_named, refuse_code

        permit_named(config, files, flags)
        refuse_code({str(run.root): config}, allow=options.allow_code)
    return config, run


def _goal(options: argparse.Namespace) -> Goal:
    if options.stop_after is not None and options.stop_after < 1:
        raise ConfigError(f"--stop-after {options.stop_after}: a number of epochs, at least 1")
    return Goal(options.until, options.stop_after)


def _suited(root: Path, flags: Sections) -> list[Path]:
    from engine.choice import choose_config

    return choose_config(root, flags)


if __name__ == "__main__":
    run_main(main, VERBS["train"].go_on, several=True)
