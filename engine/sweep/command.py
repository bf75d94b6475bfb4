"""python -m engine.sweep: many trainings by one file, on this machine or a cluster."""

import argparse
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.early import check_inputs, check_out
from engine.exits import MISTAKE
from engine.lease import hold, look
from engine.mistakes import ConfigError
from engine.suggest import Parser
from engine.sweep.build import plan_of
from engine.sweep.done import state_of
from engine.sweep.driver import Driver, Outcome, Patience, Workers
from engine.sweep.halving import judge_of
from engine.sweep.plan import Command, Plan
from engine.sweep.record import SweepRecord, keep, place_of, recorded
from engine.sweep.runs import Run, runs_of
from engine.sweep.sweep_file import SweepFile, find_sweep, read_sweep
from engine.verbs import program

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.sweep")

KINDS = ("local", "ray", "slurm", "k8s")
"""Where commands run."""


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and planned.

    Attributes:
        asked: what the file says.
        root: the sweep's folder.
        runs: all of them, in order.
        plan: their commands.
        threads: of each command, where its config leaves them open.
    """

    asked: SweepFile
    root: Path
    runs: list[Run]
    plan: Plan
    threads: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run, print or write a sweep; returns the exit code."""
    options = _parse(arguments)
    sweep = open_sweep(options)
    if options.print:
        from engine.sweep.show import show_plan

        show_plan(sweep, measured=options.measure)
        return 0
    if options.on != "k8s":  # pods see data that need not be seen from here
        _check(sweep)
    if options.on in ("slurm", "k8s"):
        if sweep.asked.halving is not None:
            told = "a driver decides which runs go on, and there is none"
            raise ConfigError(f"[halving] with --on {options.on}: {told}; use local or ray")
        keep(sweep.root, _record(sweep), extend=options.extend)
        _write(sweep, options.on)
        return 0
    outcome = run(sweep, options)
    from engine.sweep.show import show_outcome

    show_outcome(sweep, outcome)
    if outcome.complete:
        return 0
    return MISTAKE if all(end.code == MISTAKE for end in outcome.failed.values()) else 1


def open_sweep(options: argparse.Namespace) -> Sweep:
    """Read a sweep file and plan it; writes nothing.

    Raises ConfigError for whatever is wrong with the file, or a folder that holds something else.
    """
    file = find_sweep(options.file)
    asked = read_sweep(file, {"data.root": options.data} if options.data else {})
    root = options.out or Path("runs") / file.stem
    check_out(root)
    runs, before = runs_of(asked, file, root), recorded(root)
    threads = _threads(options, asked)
    if before is not None and before.threads is not None and before.threads != threads:
        if options.threads is not None:
            told = f"--threads {options.threads}: {root} began with {before.threads}"
            raise ConfigError(f"{told}, and bytes depend on it; choose another --out, or leave it")
        threads = before.threads
        _log.info("%d CPU threads a command, with which %s began", threads, root)
    else:
        _log.info("%d CPU threads a command, where its config leaves them open", threads)
    return Sweep(asked, root, runs, plan_of(asked, runs, root, threads), threads)


def run(sweep: Sweep, options: argparse.Namespace) -> Outcome:
    """Run what is not done of a sweep, on this machine or a Ray cluster.

    Raises HeldError if another process runs it, ConfigError if its folder holds another plan.
    """
    from engine.sweep.table import watching

    look(place_of(sweep.root))
    with hold(place_of(sweep.root)):
        keep(sweep.root, _record(sweep), extend=options.extend)
        with _workers(sweep, options) as workers, watching() as watch:
            judge = judge_of(sweep.asked, sweep.runs, sweep.root)
            state = state_of if judge is None else judge.state
            patience = Patience(limit=options.retries)
            outcome = Driver(sweep.plan, workers, state, patience=patience, watch=watch).run()
    for line in judge.told() if judge is not None else ():
        _log.info("%s", line)
    return outcome


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog=program("sweep"),
        description="Train every run that a sweep file describes (experiments x overrides x seeds "
        "x folds), blend and compare them and rank them on a page. Started again, it does only "
        "what is missing.",
    )
    add, on = parser.add_argument, "store_true"
    add("file", metavar="FILE", help="the sweep, or the name of one that is there: published")
    add("--data", metavar="FOLDER", help="dataset of all runs (default: the one that FILE names)")
    add("--out", type=Path, metavar="FOLDER", help="the sweep's folder (default: runs/ + FILE's)")
    where = "where commands run (default: local); slurm and k8s write scripts and manifests"
    add("--on", choices=KINDS, default="local", help=where)
    add("--print", action=on, help="show runs, commands, dependencies and core-hours; run nothing")
    unmeasured = "with --print: measure no steps, so tell no core-hours"
    add("--no-measure", dest="measure", action="store_false", help=unmeasured)
    many = (
        "commands at once (default: a GPU each, or one); on ray: of a cluster that is started here"
    )
    add("--workers", type=int, metavar="N", help=many)
    each = "CPU threads of a command (default: this machine's cores shared out, or a job's)"
    add("--threads", type=int, metavar="N", help=each)
    add("--extend", action=on, help="let the plan grow by runs that its folder does not know yet")
    retries = "failures in a row, without an epoch more, after which a command is given up"
    add("--retries", type=int, default=Patience().limit, metavar="N", help=f"{retries} (5)")
    add("--gpus", type=int, default=0, metavar="N", help="on ray: GPUs that a command takes (0)")
    add("--address", metavar="HOST:PORT", help="on ray: the cluster to join (default: one here)")
    options = parser.parse_args(arguments)
    for name, least in (("workers", 1), ("threads", 1), ("retries", 0), ("gpus", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value}: at least {least} is needed")
    for name in ("address", "gpus"):
        if getattr(options, name) and options.on != "ray":
            told = f"--{name} {getattr(options, name)} is of Ray; type --on ray with it"
            raise ConfigError(told)
    if options.workers and options.on in ("slurm", "k8s"):
        told = f"--workers {options.workers} is of this machine; type at_once = {options.workers}"
        table = "slurm" if options.on == "slurm" else "kubernetes"
        raise ConfigError(f"{told} in [{table}] of {options.file}")
    return options


def _threads(options: argparse.Namespace, asked: SweepFile) -> int:
    """CPU threads of a command, before a folder that began with others is asked."""
    from engine.sweep.local import threads_each

    if options.threads is not None:
        return int(options.threads)
    if options.on == "slurm":
        return asked.slurm.cpus
    if options.on == "k8s":
        return asked.kubernetes.cpus
    return 1 if options.on == "ray" else threads_each(_slots(options))


def _slots(options: argparse.Namespace) -> int:
    from engine.sweep.local import visible_gpus

    return int(options.workers or len(visible_gpus()) or 1)


def _check(sweep: Sweep) -> None:
    """Refuse what the first command of a run would refuse; errors as of `check_inputs`."""
    seen, halving = set(), sweep.asked.halving
    for one in sweep.runs:
        config = one.config
        if halving is not None and (every := config.training.validate_every) > halving.first:
            told = f"{one.name} is validated every {every} epochs, so not at the first rung"
            raise ConfigError(f"{told}; set training.validate_every, or halving.first = {every}")
        shape = config.model_dump_json(include={"data", "model", "runtime"})
        if shape not in seen:
            seen.add(shape)
            # Weights that it begins with may be another run's.
            check_inputs(config, () if one.after else one.folds)


def _record(sweep: Sweep) -> SweepRecord:
    return SweepRecord.of(sweep.runs, sweep.plan, sweep.threads)


@contextmanager
def _workers(sweep: Sweep, options: argparse.Namespace) -> Iterator[Workers]:
    logs = sweep.root / "logs"
    if options.on == "local":
        from engine.sweep.local import LocalWorkers, visible_gpus

        yield LocalWorkers(_slots(options), logs, visible_gpus())
        return
    # Ray is an extra, and 240 MB.
    from engine.sweep.ray_cluster import ray_cluster
    from engine.sweep.ray_workers import RayWorkers

    cpus = options.workers * sweep.threads if options.workers else None
    with ray_cluster(options.address, cpus) as ray:
        yield RayWorkers(ray, logs, threads=sweep.threads, gpus=options.gpus)


def _write(sweep: Sweep, kind: str) -> None:
    """Write the scripts of a cluster, and say what to type."""

    def is_done(command: Command) -> bool:
        return state_of(command).done

    if kind == "slurm":
        from engine.sweep.slurm import write_slurm

        script = write_slurm(sweep.plan, sweep.asked.slurm, sweep.root, Path.cwd(), is_done)
        told = "an array for each stage, each after the one before; to submit them type"
    else:
        from engine.sweep.kubernetes import write_kubernetes

        script = write_kubernetes(sweep.plan, sweep.asked.kubernetes, sweep.root)
        told = "an indexed Job for each stage; to apply each when the one before has ended type"
    _log.info("%s is written: %s", script.parent, told)
    _log.info("    bash %s", shlex.quote(str(script)))
