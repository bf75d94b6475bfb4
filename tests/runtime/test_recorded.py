"""A fold goes on with what it began with, or with what was asked for since, and says which."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from engine.config import RuntimeConfig, TrainingConfig
from engine.runtime.recorded import RecordedRuntime, resume_runtime

BEGAN = RecordedRuntime(
    device="cpu",
    source="resident",
    kernels="reference",
    compile="off",
    cuda_graphs="off",
    threads=3,
    precision="fp32",
    deterministic=False,
    layers="torch",
)


def resumed(
    caplog: pytest.LogCaptureFixture, recorded: RecordedRuntime = BEGAN, **fields: Any
) -> tuple[RuntimeConfig, list[str]]:
    with caplog.at_level(logging.INFO, logger="engine"):
        config = resume_runtime(RuntimeConfig.model_validate(fields), recorded, 2)
    return config, [record.getMessage() for record in caplog.records]


def test_every_recorded_field_is_one_of_the_config() -> None:
    assert set(RecordedRuntime.model_fields) - {"reduce"} < set(RuntimeConfig.model_fields)
    assert "reduce" in TrainingConfig.model_fields


def test_what_the_config_leaves_open_stays_as_the_fold_began(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, said = resumed(caplog, workers=9)
    assert config == RuntimeConfig.model_validate(
        {"workers": 9, **BEGAN.model_dump(exclude={"reduce"})}
    )
    assert said == [
        "fold 2 goes on with device = cpu, source = resident, kernels = reference, compile = off, "
        "cuda_graphs = off, threads = 3, precision = fp32, layers = torch, as it began"
    ]


def test_what_the_config_names_wins_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fields = {**BEGAN.model_dump(exclude={"reduce"}), "device": "cuda", "kernels": "fused"}
    config, said = resumed(caplog, **fields)
    assert config == RuntimeConfig.model_validate(fields)
    assert said == [
        f"fold 2 began with {began} and goes on with {now}, as asked: its bytes may differ from an "
        "undisturbed run's"
        for began, now in (("device = cpu", "cuda"), ("kernels = reference", "fused"))
    ]


def test_a_config_that_names_auto_leaves_it_open(caplog: pytest.LogCaptureFixture) -> None:
    fields = {**BEGAN.model_dump(exclude={"reduce"}), "device": "auto", "threads": 0}
    config, said = resumed(caplog, **fields)
    assert (config.device, config.threads) == ("cpu", 3)
    assert said == ["fold 2 goes on with device = cpu, threads = 3, as it began"]


def test_nothing_is_said_where_nothing_differs(caplog: pytest.LogCaptureFixture) -> None:
    config, said = resumed(caplog, **BEGAN.model_dump(exclude={"reduce"}))
    assert (config, said) == (
        RuntimeConfig.model_validate(BEGAN.model_dump(exclude={"reduce"})),
        [],
    )


def test_what_was_not_resolved_when_the_fold_began_is_the_configs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = RecordedRuntime.asked_for(RuntimeConfig(threads=1))
    config, said = resumed(caplog, asked, device="cuda:1")
    assert config == RuntimeConfig(threads=1, device="cuda:1")
    assert said == ["fold 2 goes on with threads = 1, as it began"]


def test_a_fold_keeps_being_deterministic_unless_told_not_to_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = BEGAN.model_copy(update={"deterministic": True})
    kept, said = resumed(caplog, began)
    assert kept.deterministic
    assert "deterministic = True, " in said[0]
    caplog.clear()
    left, said = resumed(caplog, began, **BEGAN.model_dump(exclude={"reduce"}))
    assert not left.deterministic
    assert said == [
        "fold 2 began with deterministic = True and goes on with False, as asked: its bytes may "
        "differ from an undisturbed run's"
    ]
    caplog.clear()
    taken, said = resumed(caplog, **{**BEGAN.model_dump(exclude={"reduce"}), "deterministic": True})
    assert taken.deterministic
    assert said[0].startswith("fold 2 began with deterministic = False and goes on with True")


def test_a_record_from_before_a_field_reads_as_what_was_then(tmp_path: Path) -> None:
    new = "deterministic", "layers"
    older = {
        name: value
        for name, value in BEGAN.model_dump(exclude={"reduce"}).items()
        if name not in new
    }
    (tmp_path / "runtime.json").write_text(json.dumps(older), encoding="utf-8")
    assert RecordedRuntime.read(tmp_path / "runtime.json") == BEGAN
