"""A sweep as Slurm jobs: an array script for each stage, and one that submits them all."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.exits import MISTAKE
from engine.sweep.plan import Command, Plan
from engine.sweep.scripts import RUN, chosen, stages_of
from engine.sweep.sweep_file import Slurm
from engine.whole import write_text

_MOST = 1000
"""Jobs of an array: Slurm allows numbers below MaxArraySize, which is 1001 unless it is set."""

_NOTICE_S = 120
"""Seconds before the end of a job's time at which it is told: a step, a save, and more than
twice what was seen of both on the slowest machine."""

_AGAIN = """\
if [ "$code" -eq 0 ] || [ "$code" -eq {mistake} ]; then exit "$code"; fi
# Stopped, or trouble outside of it: it goes on from what is there, in this job once more.
if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def write_slurm(
    plan: Plan, how: Slurm, root: Path, work: Path, is_done: Callable[[Command], bool]
) -> Path:
    """Write the scripts into `root/slurm`; returns the one to run, which submits the others.

    Args:
        plan: of the sweep.
        how: what a job gets.
        root: the sweep's folder.
        work: the folder that commands run in.
        is_done: commands that are not submitted any more.
    """
    folder, name = root / "slurm", root.absolute().name
    (root / "logs").mkdir(parents=True, exist_ok=True)
    submit, before = [_SUBMIT], ""
    for stage, commands in stages_of(plan):
        parts = math.ceil(len(commands) / _MOST)
        jobs = []
        for part in range(parts):
            some = commands[part * _MOST : (part + 1) * _MOST]
            called = stage if parts == 1 else f"{stage}-{part + 1}"
            file = folder / f"{called}.sh"
            write_text(file, _script(some, how, f"{name}-{called}", root, work))
            left = [number for number, command in enumerate(some) if not is_done(command)]
            if not left:
                submit.append(f"# {called}: all done")
                continue
            job = f"job_{called.replace('-', '_')}"
            array = ranges(left) + (f"%{how.at_once}" if how.at_once else "")
            words = f"sbatch --parsable --array={array}"
            words += f' --dependency="afterany{before}"' if before else ""
            submit.append(f"{job}=$({words} {shlex.quote(str(file.absolute()))})")
            submit.append(f'echo "{called}: job ${{{job}%%;*}}"')
            jobs.append(f":${{{job}%%;*}}")
        before = "".join(jobs) or before
    script = folder / "submit.sh"
    write_text(script, "\n".join(submit) + "\n")
    return script


_SUBMIT = """\
#!/usr/bin/env bash
# Submits every stage of the sweep, each when the one before has ended, however that was: a later
# command does what an earlier one left undone.
set -eu"""


def _script(commands: Sequence[Command], how: Slurm, name: str, root: Path, work: Path) -> str:
    flags = {
        "job-name": name,
        "array": f"0-{len(commands) - 1}" + (f"%{how.at_once}" if how.at_once else ""),
        "partition": how.partition,
        "account": how.account,
        "ntasks": "1",
        "cpus-per-task": str(how.cpus),
        "mem": f"{how.memory_gib}G",
        "gres": f"gpu:{how.gpus}" if how.gpus else "",
        "time": how.time,
        "signal": f"B:TERM@{_NOTICE_S}",
        "open-mode": "append",
        "output": str((root / "logs").absolute() / "%x-%a.log"),
    }
    lines = ["#!/usr/bin/env bash"]
    lines += [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in flags.items() if value]
    lines += ["#SBATCH --requeue", "# Written by roomsmith sweep: a command for each number."]
    lines += ["set -u", f"cd -- {shlex.quote(str(work.absolute()))} || exit 1", *how.setup]
    lines += chosen(commands, how.program, "SLURM_ARRAY_TASK_ID")
    return "\n".join(lines) + "\n" + RUN + _AGAIN.format(mistake=MISTAKE, requeues=how.requeues)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as Slurm takes them, `0-3,7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
