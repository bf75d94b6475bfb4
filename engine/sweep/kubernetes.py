"""A sweep as Kubernetes jobs: an indexed Job for each stage, and a script that applies them."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from engine.exits import MISTAKE
from engine.mistakes import ConfigError
from engine.sweep.plan import Command, Plan
from engine.sweep.scripts import RUN, chosen, stages_of
from engine.sweep.sweep_file import Kubernetes
from engine.whole import write_text

_GRACE_S = 120
"""Seconds between the notice that a pod has to go, and its end: as under Slurm."""

_NAME_LENGTH = 40
"""Of a sweep's name within that of a job: pods' host names add stage and index, and may have 63."""

_CONTAINER = "roomsmith"


def write_kubernetes(plan: Plan, how: Kubernetes, root: Path) -> Path:
    """Write manifests and scripts into `root/kubernetes`; returns the script to run.

    Raises ConfigError for a sweep's folder that is not below the one that commands run in.
    """
    if root.is_absolute() or ".." in root.parts:
        told = f"--out {root}: pods see the folder that this runs in as {how.mount}"
        raise ConfigError(f"{told}; name one below it, such as runs/{root.name}")
    folder, name = root / "kubernetes", job_name(root.name)
    apply, stages = [_APPLY], stages_of(plan)
    for number, (stage, commands) in enumerate(stages):
        script, manifest = folder / f"{stage}.sh", folder / f"{stage}.json"
        write_text(script, _script(commands, how))
        job = f"{name}-{stage}"
        content = _job(job, how, len(commands), script)
        write_text(manifest, json.dumps(content, indent=2) + "\n")
        apply.append(f"kubectl apply -f {shlex.quote(str(manifest))}")
        if number < len(stages) - 1:
            apply.append(f"ended {shlex.quote(how.namespace)} {job}")
    file = folder / "apply.sh"
    write_text(file, "\n".join(apply) + "\n")
    return file


_APPLY = """\
#!/usr/bin/env bash
# Applies the job of each stage when that of the one before has ended: Kubernetes has no
# dependencies of jobs, so this waits. Stopped, it may be run again: what was applied stays.
set -eu
ended() {
  until kubectl -n "$1" wait --for=condition=complete --timeout=60s "job/$2" ||
    kubectl -n "$1" wait --for=condition=failed --timeout=1s "job/$2"; do
    sleep 10
  done
}"""


def job_name(name: str) -> str:
    """A name that Kubernetes allows: lower case, digits and dashes, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_NAME_LENGTH].strip("-")
    return plain if plain[:1].isalpha() else f"sweep-{plain}".strip("-")


def _script(commands: Sequence[Command], how: Kubernetes) -> str:
    lines = ["#!/usr/bin/env bash", "# Written by roomsmith sweep: a command for each number."]
    lines += ["set -u", *chosen(commands, how.program, "JOB_COMPLETION_INDEX")]
    return "\n".join(lines) + "\n" + RUN + 'exit "$code"\n'


def _job(name: str, how: Kubernetes, count: int, script: Path) -> dict[str, JsonValue]:
    """The manifest of a stage: batch/v1, Kubernetes 1.33 or later (1.29 with its beta gates)."""
    needs: dict[str, JsonValue] = {"cpu": str(how.cpus), "memory": f"{how.memory_gib}Gi"}
    if how.gpus:
        needs["nvidia.com/gpu"] = str(how.gpus)
    labels: dict[str, JsonValue] = {"app.kubernetes.io/name": "roomsmith"}
    container: dict[str, JsonValue] = {
        "name": _CONTAINER,
        "image": how.image,
        "command": ["bash", script.as_posix()],
        "workingDir": how.mount,
        "resources": {"requests": needs, "limits": needs},
        "volumeMounts": [{"name": "work", "mountPath": how.mount}],
    }
    pod: dict[str, JsonValue] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "containers": [container],
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": how.claim}}],
    }
    rules: list[JsonValue] = [
        # A mistake ends the same however often it is tried.
        {
            "action": "FailIndex",
            "onExitCodes": {"containerName": _CONTAINER, "operator": "In", "values": [MISTAKE]},
        },
        # Its node was taken away: no failure of the command.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    spec: dict[str, JsonValue] = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": min(count, how.at_once),
        "backoffLimitPerIndex": how.retries,
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    metadata: dict[str, JsonValue] = {"name": name, "namespace": how.namespace, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
