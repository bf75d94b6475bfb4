"""What a run was made with, and the hashes that tell runs apart."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config, RuntimeConfig
from engine.runtime import environment
from engine.runtime.environment import (
    RUNTIME_FIELDS,
    describe_environment,
    file_hash,
    identity,
    peak_memory_mib,
)

ALL = ("data", "model", "training", "inference", "selection")


def config_of(**sections: dict[str, Any]) -> Config:
    return Config.model_validate(sections)


def test_the_environment_is_json_with_versions_machine_commit_and_dataset() -> None:
    told = json.loads(json.dumps(describe_environment("abc"), allow_nan=False))
    assert told["dataset_fingerprint"] == "abc"
    assert told["versions"]["torch"].startswith("2.")
    assert told["versions"]["python"].startswith("3.")
    assert told["machine"]["cores"] >= 1
    assert told["machine"]["threads"] >= 1
    assert set(told["versions"]) == {"python", *environment.PACKAGES}
    assert "commit" in told


def test_a_package_that_is_absent_is_told_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("a-package-nobody-has",))
    assert describe_environment("")["versions"]["a-package-nobody-has"] is None


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
    assert describe_environment("")["commit"] is None


def test_an_identity_is_the_same_for_equal_configs() -> None:
    assert identity(Config(), "x", sections=ALL) == identity(config_of(), "x", sections=ALL)


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"fold_seed": 1}},
        {"model": {"dropout": 0.1}},
        {"training": {"lr": 2e-4}},
        {"training": {"class_weights": {"bed": 2.0}}},
        {"inference": {"flip": False}},
        {"selection": {"temperature": 0.7}},
    ],
    ids=str,
)
def test_an_identity_changes_with_every_field_that_changes_a_result(
    sections: dict[str, dict[str, Any]],
) -> None:
    (section,) = sections
    plain, other = Config(), config_of(**sections)
    assert identity(plain, sections=(section,)) != identity(other, sections=(section,))
    rest = tuple(name for name in ALL if name != section)
    assert identity(plain, sections=rest) == identity(other, sections=rest)


def test_an_identity_ignores_what_changes_no_result() -> None:
    values: dict[str, dict[str, Any]] = {
        "data": {"root": "elsewhere"},
        "runtime": {
            "workers": 7,
            "cache": "there",
            "device": "cuda:1",
            "log_every": 3,
            "save_every": 5,
            "inference": "openvino",
        },
    }
    assert set(values.pop("runtime")) <= set(RuntimeConfig.model_fields)
    assert {section: set(fields) for section, fields in values.items()} == RUNTIME_FIELDS
    assert identity(Config(), sections=ALL) == identity(config_of(**values), sections=ALL)


def test_an_identity_tells_its_parts_apart() -> None:
    hashes = {
        identity(Config(), *parts, sections=ALL)
        for parts in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",))
    }
    assert len(hashes) == 6


def test_a_files_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"roomsmith" * 100_000)
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"roomsmith" * 100_000).hexdigest()


def test_peak_memory_is_that_of_a_process_that_has_loaded_torch() -> None:
    assert 50 < peak_memory_mib() < 100_000
