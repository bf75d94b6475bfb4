"""What a run was made with."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.report import environment
from engine.report.environment import describe_environment, peak_memory_mib
from engine.runtime.recorded import Environment


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
