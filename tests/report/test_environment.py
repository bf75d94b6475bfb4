"""What a run was made with."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.report import environment
from engine.report.environment import (
    describe_environment,
    note_computer,
    peak_memory_mib,
    this_computer,
    told_apart,
)
from engine.rundir import RunDir
from engine.runtime.recorded import Computer, Environment, FoldEnvironment, RecordedRuntime

RECORDED = RecordedRuntime(
    device="cpu",
    source="torch",
    kernels="fused",
    compile="off",
    cuda_graphs="off",
    threads=1,
    precision="fp32",
)


def test_the_environment_is_json_with_versions_machine_commit_and_dataset(tmp_path: Path) -> None:
    described = describe_environment("abc")
    described.write(tmp_path / "environment.json")
    assert Environment.read(tmp_path / "environment.json") == described
    told = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert list(told) == ["versions", "machine", "commit", "dataset_fingerprint"]
    assert list(told["machine"]) == ["system", "processor", "cores", "threads", "gpu"]
    assert told["dataset_fingerprint"] == "abc"
    assert told["versions"]["torch"].startswith("2.")
    assert told["versions"]["python"].startswith("3.")
    assert told["machine"]["cores"] >= 1
    assert told["machine"]["threads"] >= 1
    assert set(told["versions"]) == {"python", *environment.PACKAGES}


def test_a_package_that_is_absent_is_told_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("a-package-nobody-has",))
    assert describe_environment("").versions["a-package-nobody-has"] is None


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")],
    ids=["no git", "no repository"],
)
def test_without_a_repository_the_commit_is_none(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert describe_environment("").commit is None


def test_peak_memory_is_that_of_a_process_that_has_loaded_torch() -> None:
    assert 50 < peak_memory_mib() < 100_000


def computer(**machine: str) -> Computer:
    here = this_computer()
    return here.model_copy(update={"machine": here.machine.model_copy(update=machine)})


def test_a_fold_that_goes_on_elsewhere_says_once_that_it_rounds_otherwise_and_by_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "environment.json"
    monkeypatch.setattr(environment, "this_computer", lambda: computer(processor="one"))
    note_computer(path, 3, begun=False)
    note_computer(path, 3, begun=True)
    assert caplog.messages == []
    monkeypatch.setattr(environment, "this_computer", lambda: computer(processor="two"))
    note_computer(path, 3, begun=True)
    note_computer(path, 3, begun=True)
    assert [record.getMessage() for record in caplog.records] == [
        "fold 3 goes on on another machine or with other packages, and from here on rounding "
        "differs from an undisturbed run's: processor one -> two"
    ]
    known = FoldEnvironment.read(path)
    assert [c.machine.processor for c in (known.began, *known.then)] == ["one", "two"]


def test_cores_and_threads_are_no_other_computer_and_a_gpu_or_a_release_is() -> None:
    here = computer(gpu="H200")
    fewer = here.model_copy(update={"machine": here.machine.model_copy(update={"cores": 1})})
    assert here.differences(fewer) == []
    later = here.model_copy(update={"versions": {**here.versions, "torch": "9.9"}})
    assert later.differences(computer(gpu="A100")) == [
        "GPU H200 -> A100",
        f"torch 9.9 -> {here.versions['torch']}",
    ]


def test_folds_of_several_computers_and_threads_are_told_apart(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    one, two = computer(processor="one"), computer(processor="two")
    for fold, known in enumerate(
        (
            FoldEnvironment(began=one),
            FoldEnvironment(began=two),
            FoldEnvironment(began=one, then=(two,)),
        )
    ):
        known.write(run.fold_environment(fold))
        RECORDED.model_copy(update={"threads": fold // 2 + 1}).write(run.runtime(fold))
    assert told_apart(run, 4) == [
        "fold 1 was begun elsewhere: processor one -> two",
        "fold 2 went on elsewhere: processor one -> two",
        "CPU threads, by which rounding differs: fold 0 1, fold 1 1, fold 2 2",
    ]
    assert told_apart(run, 1) == []
    run.fold_environment(1).write_text("{}", encoding="utf-8")
    assert told_apart(run, 2)[0].startswith(f"{run.fold_environment(1)} is damaged")
