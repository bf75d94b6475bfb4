"""Bash for what runs an array of commands by number: Slurm's arrays, Kubernetes' indexed jobs."""

import shlex
from collections.abc import Sequence

from engine.sweep.plan import Command, Plan

Stage = tuple[str, list[Command]]
"""Commands that may run at once, and what they are called together."""


def stages_of(plan: Plan) -> list[Stage]:
    """The plan's stages, each with a name: `1-train`, `2-finish`, `3-then`."""
    stages = []
    for number, commands in enumerate(plan.stages(), 1):
        trains = all(command.argv[0] == "train" for command in commands)
        folds = all(command.fold is not None for command in commands)
        kind = "train" if folds else "finish" if trains else "then"
        stages.append((f"{number}-{kind}", commands))
    return stages


def chosen(commands: Sequence[Command], program: Sequence[str], variable: str) -> list[str]:
    """Lines that put the words of the command that `variable` numbers into "$@"."""
    lines = [f'case "${{{variable}:-}}" in']
    for number, command in enumerate(commands):
        lines += [f"{number}) set -- {shlex.join([*program, *command.argv])} ;;"]
    told = f"error: {variable} is no number from 0 to {len(commands) - 1}"
    return [*lines, f'*) echo "{told}" >&2; exit 2 ;;', "esac"]


RUN = """\
# A signal for this shell is one for the command: it saves, and ends at its next checkpoint.
child=
asked=
stop() {
  asked=1
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM
"$@" &
child=$!
if [ -n "$asked" ]; then kill -TERM "$child" 2>/dev/null; fi
wait "$child"
code=$?
if [ -n "$asked" ]; then
  # It was the signal that ended the wait, unless the command had ended before.
  wait "$child" 2>/dev/null
  again=$?
  if [ "$again" -ne 127 ]; then code=$again; fi
fi
"""
"""Runs "$@"; its exit code is in `code`."""
