"""Slurm scripts and Kubernetes manifests of the five published experiments: valid, and executed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.mistakes import ConfigError
from engine.sweep.build import plan_of
from engine.sweep.kubernetes import job_name, write_kubernetes
from engine.sweep.plan import Command, Plan
from engine.sweep.runs import runs_of
from engine.sweep.scripts import stages_of
from engine.sweep.slurm import ranges, write_slurm
from engine.sweep.sweep_file import Kubernetes, Slurm, find_sweep, read_sweep

SCHEMA = Path(__file__).parents[1] / "fixtures" / "kubernetes_job.schema.json"
ROOT = Path("runs") / "published"


@pytest.fixture(scope="module")
def published() -> Plan:
    file = find_sweep("published")
    sweep = read_sweep(file)
    return plan_of(sweep, runs_of(sweep, file, ROOT), ROOT, 8)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a program and a `scontrol` that note what they are called with."""
    programs, work = tmp_path / "bin", tmp_path / "work place"
    programs.mkdir()
    work.mkdir()
    note = 'printf "%s\\0" "${0##*/}" "$@" >> "$NOTED"; printf "\\n" >> "$NOTED"\n'
    for name in ("roomsmith", "scontrol", "sbatch", "kubectl"):
        file = programs / name
        file.write_text(f"#!/usr/bin/env bash\n{note}{ENDS.get(name, '')}", encoding="utf-8")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    monkeypatch.chdir(work)
    return work


ENDS = {
    "roomsmith": """\
if [ -n "${WAITS:-}" ]; then
  trap 'echo saved >> "$NOTED.saved"; exit 143' TERM
  touch "$NOTED.waits"
  while :; do sleep 0.02; done
fi
exit "${CODE:-0}"
""",
    "sbatch": 'wc -l < "$NOTED"\n',
}


def noted() -> list[list[str]]:
    """The words of each call, the program's name first."""
    file = Path(os.environ["NOTED"])
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    file.unlink(missing_ok=True)
    return [line.split("\0")[:-1] for line in text.split("\n")[:-1]]


def run_script(file: Path, **variables: str) -> int:
    done = subprocess.run(
        ["bash", str(file)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode


def slurm(plan: Plan, how: Slurm, done: Sequence[str] = ()) -> Path:
    return write_slurm(plan, how, ROOT, Path.cwd(), lambda command: command.name in done)


def test_every_number_of_slurms_arrays_is_the_plans_command(
    published: Plan, stand_in: Path
) -> None:
    submit = slurm(published, Slurm(partition="gpu", gpus=1, setup=("export READY=1",)))
    done = []
    for stage, commands in stages_of(published):
        script = submit.parent / f"{stage}.sh"
        subprocess.run(["bash", "-n", str(script)], check=True)
        told = [line for line in script.read_text("utf-8").splitlines() if "#SBATCH" in line]
        assert f"#SBATCH --array=0-{len(commands) - 1}" in told
        assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"} <= set(told)
        for number, command in enumerate(commands):
            assert run_script(script, SLURM_ARRAY_TASK_ID=str(number)) == 0
            assert noted() == [["roomsmith", *command.argv]]
            done.append(command)
        for word in (str(len(commands)), "", "x"):
            assert run_script(script, SLURM_ARRAY_TASK_ID=word) == 2
    assert sorted(done, key=published.commands.index) == list(published)
    assert len(done) == 43


def test_slurms_stages_are_submitted_in_order_without_what_is_done(
    published: Plan, stand_in: Path
) -> None:
    folds = [f"exp093_2/fold{fold}" for fold in (0, 1, 3)]
    finishes = [c.name for c in stages_of(published)[1][1]]
    submit = slurm(published, Slurm(at_once=3), [*folds, *finishes])
    subprocess.run(["bash", "-n", str(submit)], check=True)
    assert run_script(submit) == 0
    calls = noted()
    arrays = [call[2] for call in calls]
    assert arrays[0] == "--array=2,4-19%3"
    assert [Path(call[-1]).name for call in calls] == [
        f"{stage}.sh" for stage, _ in stages_of(published) if stage != "2-finish"
    ]
    # The stand-in numbers jobs by its calls.
    assert [call[3] for call in calls[1:]] == [
        f"--dependency=afterany:{n + 1}" for n in range(len(calls) - 1)
    ]
    assert all(Path(call[-1]).is_file() for call in calls)


def test_an_array_is_cut_where_slurm_allows_no_more(stand_in: Path) -> None:
    plan = Plan(Command(f"a/fold{n}", ("train", str(n)), fold=n) for n in range(1001))
    submit = slurm(plan, Slurm())
    assert run_script(submit.parent / "1-train-1.sh", SLURM_ARRAY_TASK_ID="999") == 0
    assert run_script(submit.parent / "1-train-2.sh", SLURM_ARRAY_TASK_ID="0") == 0
    assert noted() == [["roomsmith", "train", "999"], ["roomsmith", "train", "1000"]]


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (1, 0, True), (137, 19, True), (1, 20, False)],
)
def test_what_is_not_a_mistake_is_queued_again_up_to_a_limit(
    published: Plan, stand_in: Path, code: int, restarts: int, requeued: bool
) -> None:
    script = slurm(published, Slurm()).parent / "1-train.sh"
    array = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}
    more = {"SLURM_RESTART_COUNT": str(restarts), "CODE": str(code)}
    assert run_script(script, **array, **more) == code
    calls = noted()[1:]
    assert calls == ([["scontrol", "requeue", "77_3"]] if requeued else [])


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_a_notice_lets_the_command_save_before_the_shell_ends(
    published: Plan, stand_in: Path, kind: str
) -> None:
    if kind == "slurm":
        script = slurm(published, Slurm()).parent / "1-train.sh"
    else:
        script = write_kubernetes(published, Kubernetes(), ROOT).parent / "1-train.sh"
    numbers = {"SLURM_ARRAY_TASK_ID": "0", "JOB_COMPLETION_INDEX": "0", "SLURM_ARRAY_JOB_ID": "5"}
    environment = {**os.environ, **numbers, "WAITS": "1"}
    shell = subprocess.Popen(["bash", str(script)], env=environment)
    waits, saved = (Path(os.environ["NOTED"] + end) for end in (".waits", ".saved"))
    while not waits.exists():
        assert shell.poll() is None
        time.sleep(0.01)
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(60) == 143
    assert saved.read_text("utf-8") == "saved\n"
    assert (["scontrol", "requeue", "5_0"] in noted()) == (kind == "slurm")


def test_every_number_of_kubernetes_jobs_is_the_plans_command_and_manifests_fit_the_schema(
    published: Plan, stand_in: Path
) -> None:
    how = Kubernetes(gpus=1, program=("python", "-m", "engine"))
    apply = write_kubernetes(published, Kubernetes(gpus=1), ROOT)
    schema = json.loads(SCHEMA.read_text("utf-8"))
    names = []
    for stage, commands in stages_of(published):
        job = json.loads((apply.parent / f"{stage}.json").read_text("utf-8"))
        assert faults(job, schema, schema) == []
        names.append(job["metadata"]["name"])
        spec = job["spec"]
        assert (spec["completionMode"], spec["completions"]) == ("Indexed", len(commands))
        assert spec["template"]["spec"]["restartPolicy"] == "Never"  # as podFailurePolicy needs
        assert spec["podFailurePolicy"]["rules"][0]["action"] == "FailIndex"
        assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
        (container,) = spec["template"]["spec"]["containers"]
        # A pod's working folder is the one that this runs in.
        script = Path(container["command"][1])
        subprocess.run(["bash", "-n", str(script)], check=True)
        for number, command in enumerate(commands):
            assert run_script(script, JOB_COMPLETION_INDEX=str(number)) == 0
            assert noted() == [["roomsmith", *command.argv]]
    assert len(set(names)) == len(names)
    script = write_kubernetes(published, how, ROOT).parent / "1-train.sh"
    assert "0) set -- python -m engine train exp093_2 " in script.read_text("utf-8")


def test_kubernetes_jobs_are_applied_one_after_another(published: Plan, stand_in: Path) -> None:
    apply = write_kubernetes(published, Kubernetes(namespace="lab"), ROOT)
    subprocess.run(["bash", "-n", str(apply)], check=True)
    assert run_script(apply) == 0
    stages = [stage for stage, _ in stages_of(published)]
    expected: list[list[str]] = []
    for stage in stages:
        expected.append(["kubectl", "apply", "-f", f"runs/published/kubernetes/{stage}.json"])
        wait = ["kubectl", "-n", "lab", "wait", "--for=condition=complete", "--timeout=60s"]
        expected.append([*wait, f"job/published-{stage}"])
    assert noted() == expected[:-1]


def test_a_folder_that_pods_do_not_see_is_refused(published: Plan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pods see the folder that this runs in as /workspace"):
        write_kubernetes(published, Kubernetes(), tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spec": {"completionMode": 1}}, "completionMode: 1 is no string"),
        ({"spec": {"backoffLimitPerindex": 1}}, "backoffLimitPerindex is unknown"),
        ({"spec": {"podFailurePolicy": {"rules": [{}]}}}, "action is missing"),
        ({"kind": "CronJob"}, "CronJob"),
        ({"spec": {}}, "template is missing"),
    ],
)
def test_the_schema_refuses_what_is_no_job(change: dict[str, Any], told: str) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, **change}
    assert any(told in fault for fault in faults(job, schema, schema))


def test_names_are_what_kubernetes_allows() -> None:
    assert job_name("LR_sweep.2") == "lr-sweep-2"
    assert job_name("7_" + "x" * 80) == "sweep-7-" + "x" * 38
    assert job_name("...") == "sweep"


def test_numbers_are_told_as_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "job") -> list[str]:
    """What does not fit a JSON schema of the kinds of rules that the fixture has."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return faults(value, root["$defs"][name], root, at)
    if "oneOf" in schema:
        fits = [one for one in schema["oneOf"] if not faults(value, one, root, at)]
        return [] if len(fits) == 1 else [f"{at}: {value!r} fits {len(fits)} of several"]
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    allowed = tuple(kind for name in types for kind in _TYPES[name])
    if types and not isinstance(value, allowed):
        return [f"{at}: {value!r} is no {' or '.join(types)}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += faults(item, schema.get("items", {}), root, f"{at}.{number}")
    if isinstance(value, dict):
        found += [
            f"{at}.{key} is missing" for key in schema.get("required", []) if key not in value
        ]
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, item in value.items():
            if key in known:
                found += faults(item, known[key], root, f"{at}.{key}")
            elif rest is False:
                found.append(f"{at}.{key} is unknown")
            elif isinstance(rest, dict):
                found += faults(item, rest, root, f"{at}.{key}")
    return found
