"""From the runs of a sweep to its plan: every command, word by word."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from engine.mistakes import ConfigError
from engine.sweep.halving import rung_name, rungs
from engine.sweep.plan import Command, Plan
from engine.sweep.runs import Run, as_word, matching
from engine.sweep.sweep_file import Halving, SweepFile

LEADERBOARD = "leaderboard.html"


def plan_of(sweep: SweepFile, runs: Sequence[Run], root: Path, threads: int | None = None) -> Plan:
    """The plan of a sweep whose folder is `root`, run by run, then what is made of them.

    `threads` are a run's `runtime.threads` where its config leaves them open. Raises ConfigError
    for a blend of fewer than two runs, or one that is called like a run.
    """
    commands: list[Command] = []
    for run in runs:
        before = [f"{one.name}/finish" for one in runs if one.experiment in run.after]
        commands += run_commands(run, root / run.name, threads, sweep.halving, before)
    whole = [run for run in runs if run.is_whole]
    made = [root / run.name for run in whole]
    for blend in sweep.blends:
        members = matching(blend.runs, whole)
        if len(members) < 2:
            told = f"{len(members)} of {len(runs)} runs fit {list(blend.runs)}; two are needed"
            raise ConfigError(f"blend {blend.name}: {told}")
        if blend.name in {run.name for run in runs}:
            raise ConfigError(f"blend {blend.name} is called like a run; choose another name")
        words = ["blend", *(str(root / run.name) for run in members)]
        words += ["--out", str(root / blend.name), "--method", blend.method]
        words += ["--allow-code"] * any(run.config.code for run in members)
        words += ["--per-class"] * blend.per_class + ["--no-submission"] * (not blend.submission)
        after = tuple(f"{run.name}/finish" for run in members)
        name = f"blend/{blend.name}"
        commands.append(Command(name, tuple(words), root / blend.name, after))
        made.append(root / blend.name)
    pairs = {"none": [], "first": [(one, whole[0]) for one in whole[1:]]}
    for one, other in pairs.get(sweep.compare, combinations(whole, 2)):
        page = root / "compare" / f"{one.name}-{other.name}.html"
        argv = "compare", str(root / one.name), str(root / other.name), "--report", str(page)
        name = f"compare/{one.name}-{other.name}"
        after = f"{one.name}/finish", f"{other.name}/finish"
        commands.append(Command(name, argv, None, after, leaves=page))
    if sweep.leaderboard is not False and len(made) > 1 and sweep.halving is None:
        page = root / LEADERBOARD
        ranked = ("report", *map(str, made), "--out", str(page))
        ends = [f"{run.name}/finish" for run in whole]
        ends += [f"blend/{blend.name}" for blend in sweep.blends]
        commands.append(Command("leaderboard", ranked, None, tuple(ends), leaves=page))
    return Plan(commands)


def run_commands(
    run: Run,
    folder: Path,
    threads: int | None = None,
    halving: Halving | None = None,
    before: Sequence[str] = (),
) -> list[Command]:
    """A command for each fold of a run, and one that finishes it, if all folds are trained.

    With `halving`, one for each rung of the first fold before them.

    Each goes on where an earlier call of it ended, and is nothing to do where that was done; the
    folds depend on the commands `before`, too.
    """
    values = dict(run.values)
    if threads is not None and not run.config.runtime.threads:
        values["runtime.threads"] = threads
    fields = [f"{name}={as_word(value)}" for name, value in values.items()]
    words = ("train", *run.configs, "--out", str(folder), "--resume", *fields)
    names = [f"{run.name}/fold{fold}" for fold in run.folds]
    commands, passed = list[Command](), tuple(before)
    steps = rungs(halving.first, halving.factor, run.config.training.epochs) if halving else []
    for epochs in steps:
        argv = (*words, "--folds", "0", "--until", "trained", "--stop-after", str(epochs))
        name = rung_name(run.name, epochs)
        commands.append(Command(name, argv, folder, passed, fold=0))
        passed = (name,)
    commands += [
        Command(name, (*words, "--folds", str(fold), "--until", "trained"), folder, passed, fold)
        for name, fold in zip(names, run.folds, strict=True)
    ]
    if run.is_whole:
        commands.append(Command(f"{run.name}/finish", words, folder, tuple(names)))
    return commands
