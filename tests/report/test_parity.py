"""How far a run's step is from float32 goes with the run, and costs a float32 run nothing."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import train
from engine.config import Config
from engine.experiment import open_experiment
from engine.report import parity
from engine.report.parity import compare_with_float32
from engine.report.parity_report import Parity
from engine.report.verify import verify
from engine.resume import recorded_runtime
from engine.rundir import RunDir
from engine.runtime.forms import PLAIN
from engine.sums import remove
from engine.training.tuning.tuner import Tuned

FinishedRun = Any  # defined in conftest.py, which cannot be imported


@pytest.fixture(scope="module")
def bf16_run(
    tiny_config: Config, tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A run whose network computed in bfloat16."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "bf16")
    arguments = ["--config", str(tiny_toml), "--out", str(run.root), "--training.epochs", "1"]
    assert train.main([*arguments, "--runtime.precision", "bf16"]) == 0
    return run


def test_a_float32_run_says_that_there_is_nothing_to_compare(finished_run: FinishedRun) -> None:
    assert Parity.read(finished_run.dir.parity) == Parity(
        step="cpu, fp32, plain", compared=False, why_not="the step that ran is eager float32"
    )


def test_a_bf16_run_says_how_far_it_is_from_float32(bf16_run: RunDir) -> None:
    found = Parity.read(bf16_run.parity)
    assert (found.step, found.compared, found.batches) == ("cpu, bf16, plain", True, 3)
    for error in (found.loss, found.gradient, found.logits):
        assert error is not None
        assert 1e-6 < error < 0.5  # maps of few cells, and batch norms over them
    assert found.worst_tensor is not None
    assert found.gradient is not None
    assert found.worst_tensor.error > found.gradient
    assert "." in found.worst_tensor.name
    assert found.miou is not None
    assert found.miou_float32 is not None
    assert 0 < abs(found.miou - found.miou_float32) < 0.02


def test_it_is_summed_and_verified_as_all_files_are(bf16_run: RunDir) -> None:
    states = {verdict.name: verdict.state for verdict in verify(bf16_run.root)}
    assert states["parity.json"] == "sound"


def test_any_process_finds_the_same_figures_and_leaves_the_generators_as_they_were(
    bf16_run: RunDir, tiny_config: Config
) -> None:
    runtime = {"precision": "bf16", "threads": 1}
    config = tiny_config.model_copy(
        update={
            "runtime": tiny_config.runtime.model_copy(update=runtime),
            "training": tiny_config.training.model_copy(update={"epochs": 1}),
        }
    )
    run = open_experiment(config, bf16_run)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = compare_with_float32(run.task(0), run.policy, recorded_runtime(bf16_run, 0))
    assert found == Parity.read(bf16_run.parity)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tuned_step_is_compared_in_its_form(
    copied_run: RunDir, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tuned(form=PLAIN.at("optimizer", "foreach")).write(copied_run.step_form(0))
    run, ran = open_experiment(tiny_config, copied_run), []

    def compared(_: Any, policy: Any, told: str) -> Parity:
        ran.append(policy.form)
        return Parity(step=told, compared=True)

    monkeypatch.setattr(parity, "_compared", compared)
    found = compare_with_float32(run.task(0), run.policy, recorded_runtime(copied_run, 0))
    assert found.step == "cpu, fp32, optimizer = foreach"
    assert ran == [PLAIN.at("optimizer", "foreach")]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"device": "cuda:1"}, "the fold was trained on cuda:1, and this call is on cpu"),
        ({"precision": "bf16", "lost": True}, "the fold's weights are gone"),
        ({"precision": "bf16", "epochs": 0}, "no step was trained: the weights are as they came"),
    ],
)
def test_what_cannot_be_compared_says_why(
    changes: dict[str, Any], why: str, copied_run: RunDir, tiny_config: Config
) -> None:
    run = open_experiment(tiny_config, copied_run)
    began = recorded_runtime(copied_run, 0)
    began = began.model_copy(update={k: v for k, v in changes.items() if k in began.__dict__})
    task = run.task(0)
    if changes.get("lost"):
        copied_run.best(0).unlink()
    if "epochs" in changes:
        training = tiny_config.training.model_copy(update={"epochs": 0})
        task = replace(task, config=tiny_config.model_copy(update={"training": training}))
    found = compare_with_float32(task, run.policy, began)
    assert (found.compared, found.why_not) == (False, why)


def test_a_gpu_that_cannot_hold_float32_ends_no_run(
    copied_run: RunDir, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Parity:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(parity, "_compared", full)
    run = open_experiment(tiny_config, copied_run)
    began = recorded_runtime(copied_run, 0).model_copy(update={"precision": "bf16"})
    found = compare_with_float32(run.task(0), run.policy, began)
    assert found.why_not == "float32 does not fit the GPU's memory"


def test_a_finished_run_without_it_stays_as_it_is_and_a_damaged_one_is_made_again(
    copied_run: RunDir,
    tiny_toml: Path,
    read_run: Callable[[Path], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = read_run(copied_run.root)
    again = ["--config", str(tiny_toml), "--out", str(copied_run.root)]
    copied_run.parity.write_text("{", encoding="utf-8")
    with caplog.at_level(logging.INFO, logger="engine"):
        assert train.main(again) == 0
        assert read_run(copied_run.root) == whole
        remove(copied_run.parity)
        assert train.main(again) == 0
    assert caplog.text.count("is complete; nothing to do") == 2
    del whole["parity.json"]
    assert read_run(copied_run.root) == whole
