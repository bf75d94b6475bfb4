"""What sections do where there is a GPU, on one that is made up."""

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.certify import checks, experiment, repeat, run, step
from benchmarks.certify.notes import Notes, NotHereError
from benchmarks.figures import Called, Facts
from benchmarks.rows import ours
from engine.config import Config
from engine.experiment import Experiment, open_experiment
from engine.rundir import RunDir

_RATES = {"copy_bytes_s": 1e12, "gemm_flop_s": 1e14}


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "section.json")


@pytest.fixture
def on_a_gpu(tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Experiment:
    """A small experiment that is said to run on a GPU."""
    opened = open_experiment(tiny_config, RunDir(tmp_path / "run"))
    policy = replace(opened.policy, device=torch.device("cuda"), replay=True)
    opened = replace(opened, policy=policy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    for section in (step, repeat):
        monkeypatch.setattr(section, "open_run", lambda *_: opened)
    monkeypatch.setattr(repeat, "make_config", lambda _: tiny_config)
    return opened


def test_the_step_is_measured_in_three_forms_while_there_is_time_and_memory(
    on_a_gpu: Experiment, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(_: Notes, __: Experiment, form: str, batch: int) -> list[Called]:
        measured.append((form, batch))
        fits = (form, batch) != ("eager", 16)
        return [Called({"eager": 3.0, "recorded": 2.0, "compiled": 1.0}[form])] * 3 * fits

    monkeypatch.setattr(step, "_measure", measure)
    monkeypatch.setattr(step, "_note_kinds", lambda *_: None)
    monkeypatch.setattr("benchmarks.timing.machine_rates", lambda *_: _RATES)
    step.step(notes)
    forms = [(form, batch) for batch in (4, 8, 16) for form in ("eager", "recorded")]
    assert measured == [*forms, ("compiled", 4), ("compiled", 8), ("compiled", 16)]
    rows = {(row["name"], row["rival"]): row["ratio"] for row in notes.content["rows"]}
    assert rows == {
        ("step, batch 4", "eager"): 1.5,
        ("step, batch 8", "eager"): 1.5,
        ("step, batch 4", "compiled"): 0.5,
        ("step, batch 8", "compiled"): 0.5,
        ("step, batch 16", "compiled"): 0.5,
    }
    measured.clear()
    short = Notes(notes.folder / "short.json", deadline_s=0.0)
    step.step(short)
    assert measured == forms
    assert short.content["found"]["compiled, batch 4"] == "out of time"


def test_a_form_is_measured_with_its_policy_and_memory(
    on_a_gpu: Experiment, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 << 30)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4 << 30)
    begun: list[Experiment] = []
    monkeypatch.setattr(ours, "begin", begun.append)
    monkeypatch.setattr(ours, "first_batch", lambda _: None)
    monkeypatch.setattr(ours, "timed_steps", lambda *_: [Called(float(n)) for n in range(33)])
    assert len(step._measure(notes, on_a_gpu, "compiled", 16)) == 25
    assert (begun[0].policy.compile, begun[0].policy.replay) == (True, True)
    assert begun[0].config.training.batch_size == 16
    found = notes.content["found"]["compiled, batch 16"]
    assert (found["median_ms"], found["peak_gib"], found["reserved_gib"]) == (20000.0, 3.0, 4.0)

    def too_large(*_: Any) -> list[Called]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(ours, "timed_steps", too_large)
    assert step._measure(notes, on_a_gpu, "eager", 16) == []
    assert notes.content["found"]["eager, batch 16"] == "does not fit: no memory"


@pytest.mark.parametrize("waits", [False, True])
def test_replays_run_while_a_synchronisation_is_an_error(
    waits: bool, on_a_gpu: Experiment, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = ["default"]

    def replayed(*_: Any) -> None:
        assert modes[-1] == "error"
        if waits:
            raise RuntimeError("called a synchronizing CUDA operation")

    numbers: list[int] = []

    def timed(_: Any, __: Any, steps: int) -> list[Called]:
        numbers.append(steps)
        first, last = [9.0] * 5, [0.001 * len(numbers)] * (steps - 5)
        return [Called(seconds, Facts(2)) for seconds in first + last]

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(ours, "begin", lambda _: SimpleNamespace(step=replayed))
    monkeypatch.setattr(ours, "first_batch", lambda _: None)
    monkeypatch.setattr(ours, "timed_steps", timed)
    monkeypatch.setattr(repeat, "_compare", lambda *_, **__: None)
    repeat.repeat(notes)
    assert numbers[0] == 4  # three eager, and the one that is recorded
    assert modes == ["default", "error", "default"]
    found = notes.content["found"]
    assert found["replays that wait for nothing"]["holds"] is not waits
    assert (found["step, ms"], found["step, deterministic, ms"]) == (2.0, 3.0)


@pytest.mark.parametrize("exact", [False, True])
def test_steps_that_differ_fail_where_they_must_not(
    exact: bool, on_a_gpu: Experiment, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([torch.ones(3), torch.ones(3), torch.tensor([1.0, 1.0, 1.5]), *[torch.ones(3)] * 2])
    monkeypatch.setattr(repeat, "_gradients", lambda *_: [next(made), torch.zeros(2)])
    repeat._compare(notes, "equal", on_a_gpu, None, exact=exact)  # type: ignore[arg-type]
    told = "1 of 2 gradients differ, by 5.0e-01 of their largest value"
    assert notes.content["found"]["equal"] == ({"holds": False, "told": told} if exact else told)


def test_a_fold_begun_on_the_cpu_goes_on_with_the_gpu_and_its_recordings(
    tiny_config: Config, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run, "make_config", lambda _: tiny_config)
    monkeypatch.setattr(run, "with_section", lambda config, *_, **__: config)
    monkeypatch.setattr(run, "_look", lambda *_: None)
    report = SimpleNamespace(step_s={})
    monkeypatch.setattr("benchmarks.certify.run.PhaseReport.read", lambda _: report)
    commands: list[list[str]] = []

    def started(_: Notes, __: str, command: list[str], *___: Any) -> str:
        commands.append(command[command.index("--out") + 2 :])
        return "fold 0 continues at; fold 1 began with device = cpu and goes on with cuda"

    monkeypatch.setattr(run, "_kill", started)
    monkeypatch.setattr(run, "_finish", started)
    run.run(notes)
    assert commands == [
        ["--folds", "0"],
        ["--folds", "0", "--resume"],
        ["--folds", "1", "--runtime.device", "cpu"],
        ["--resume", "--runtime.device", "cuda", "--runtime.cuda_graphs", "on"],
        ["--profile"],
    ]
    notes.close()
    assert notes.content["state"] == "held"


@pytest.mark.parametrize(
    ("code", "told"), [(0, "nothing found"), (99, "see sanitizer.log"), (1, "exit code 1")]
)
def test_the_sanitizer_runs_each_tool_without_pytorchs_pool(
    code: int, told: str, notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotHereError, match="not here: compute-sanitizer"):
        checks.sanitizer(notes)
    program = tmp_path / "compute-sanitizer"
    note = f'echo "$2 $PYTORCH_NO_CUDA_MEMORY_CACHING" >> {tmp_path}/calls'
    program.write_text(f"#!/bin/sh\n{note}\nexit {code}\n", "utf-8")
    program.chmod(0o755)
    checks.sanitizer(notes)
    assert (tmp_path / "calls").read_text("utf-8") == "memcheck 1\nracecheck 1\n"
    assert notes.content["found"]["racecheck"] == {"holds": code == 0, "told": told}


def test_the_kernels_tests_run_as_machine_code_and_their_failures_are_named(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[str] = []

    def pytest_with_a_fault(command: list[str], **_: Any) -> SimpleNamespace:
        asked.append(" ".join(command))
        report = next(part for part in command if part.startswith("--junitxml="))
        Path(report.partition("=")[2]).write_text(
            '<testsuites><testsuite tests="2" failures="1" errors="0" skipped="0">'
            '<testcase classname="tests.a" name="holds"/>'
            '<testcase classname="tests.a" name="fails[triton]"><failure/></testcase>'
            "</testsuite></testsuites>",
            "utf-8",
        )
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(subprocess, "run", pytest_with_a_fault)
    checks.tests(notes)
    assert "tests/kernels -k triton" in asked[0]
    assert "tests/runtime tests/training tests/views" in asked[1]
    assert asked[1].endswith("-m gpu")
    assert notes.content["found"]["kernels as machine code"] == {
        "holds": False,
        "told": "2 tests, 1 failures, 0 errors, 0 skipped: tests.a.fails[triton]",
    }


def test_a_full_size_experiment_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rendered: list[tuple[int, int]] = []
    monkeypatch.setattr(experiment, "render_rooms", lambda *_, hw, **__: rendered.append(hw))
    config = experiment.make_config(tmp_path)
    assert rendered == [(480, 640)]
    assert (config.model.encoder, config.model.input) == ("convnext_base", "rgbd")
    assert (config.model.weights, config.data.crop_hw) == ("none", (576, 768))
