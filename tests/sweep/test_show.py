"""What is shown of a sweep: how folds stand, who is at them, what it takes and came to."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from engine.config import Config
from engine.lease import hold
from engine.owner import host
from engine.rundir import RunDir, write_config
from engine.sweep import cost
from engine.sweep.command import Sweep
from engine.sweep.cost import costs_of
from engine.sweep.done import state_of
from engine.sweep.driver import Driver, Ended, Outcome
from engine.sweep.plan import Command, Plan
from engine.sweep.runs import Run
from engine.sweep.show import show_outcome
from engine.sweep.sweep_file import SweepFile
from engine.sweep.table import Stand, Watch, count, node_of, row, stand_of, table
from engine.training.pace import Pace


def begun(root: Path, config: Config, *epochs: float | None) -> RunDir:
    """A run whose fold 1 has epochs with these mIoUs."""
    run = RunDir(root)
    run.fold(1).mkdir(parents=True)
    write_config(config, run)
    lines = [
        {"epoch": n, "train_s": 3.0, "validation_s": 1.0} | ({} if miou is None else {"miou": miou})
        for n, miou in enumerate(epochs, 1)
    ]
    run.metrics(1).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return run


def of_epochs(config: Config, epochs: int) -> Config:
    training = config.training.model_copy(update={"epochs": epochs})
    return config.model_copy(update={"training": training})


def test_a_fold_stands_where_its_lines_say(tiny_config: Config, tmp_path: Path) -> None:
    run = begun(tmp_path / "a", of_epochs(tiny_config, 5), 0.1, None, 0.3, None)
    assert stand_of(run, 1) == Stand(4, 5, 0.3, 4.0)
    assert stand_of(run, 0) == Stand(0, 5, None, None)
    assert stand_of(RunDir(tmp_path / "nowhere"), 0) == Stand(0, None, None, None)
    with run.metrics(1).open("a", encoding="utf-8") as lines:
        lines.write('{"epoch": 5, "tr')  # a file server may show half a line
    assert stand_of(run, 1).miou == 0.3
    with hold(run.training(1)):
        assert node_of(run.training(1)) == host()
        command = Command("a/fold1", ("train",), run.root, fold=1)
        assert row(command)[:5] == ("a", "1", "4/5", "0.3000", host())
    assert node_of(run.training(1)) == ""


def test_what_is_done_is_read_from_what_stands_there(tiny_config: Config, tmp_path: Path) -> None:
    run = begun(tmp_path / "a", of_epochs(tiny_config, 2), 0.1, 0.2)
    fold = Command("a/fold1", ("train",), run.root, fold=1)
    assert state_of(fold) == (False, 2)  # its weights are missing
    run.best(1).touch()
    assert state_of(fold) == (True, 2)
    finish = Command("a/finish", ("train",), run.root)
    for path in (run.summary, run.atlas, run.parity):
        assert not state_of(finish).done
        path.touch()
    assert state_of(finish).done
    with hold(run.results):
        assert not state_of(finish).done  # somebody is at it
    page = tmp_path / "page.html"
    ranked = Command("leaderboard", ("report", str(run.root), "--out", str(page)), leaves=page)
    assert not state_of(ranked).done
    page.touch()
    assert state_of(ranked).done
    later_ns = page.stat().st_mtime_ns + 10**9
    os.utime(run.summary, ns=(later_ns, later_ns))
    assert not state_of(ranked).done


class _None:
    """Workers that are never there."""

    slots = 0

    def start(self, command: Command) -> int:
        raise AssertionError(command)

    def poll(self) -> list[Ended]:
        return []

    def stop(self, handle: object) -> None: ...

    def close(self) -> None: ...


def test_lines_tell_each_end_and_the_table_what_runs(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path / "a", of_epochs(tiny_config, 5), 0.25)
    plan = Plan(Command(f"a/fold{n}", ("train",), run.root, fold=n) for n in range(3))
    driver = Driver(plan, _None(), state_of)
    driver.running[1] = plan["a/fold1"]
    driver.outcome.done.append("a/fold0")
    driver.outcome.failed["a/fold2"] = Ended(2, 1)
    watch = Watch(Console(width=120), None)
    watch(driver)
    watch(driver)
    told = "1 of 3 commands done, 1 running, 1 given up, no worker is free: none is there"
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a/fold0: trained", told, "  a, 1, 1/5, 0.2500, 16.0 s"]
    assert count(driver) == told
    shown = Console(width=120, record=True)
    shown.print(table(driver))
    text = shown.export_text()
    assert "1/5" in text
    assert "0.2500" in text
    assert told in " ".join(text.split())


def test_a_shape_is_measured_once_and_hours_follow_from_it(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = Pace(step_s=2.0, steps=10, validation_s=1.0, views_s=5.0, frames=8, peak_bytes=None)
    measured: list[str] = []

    def measure(run: Run, root: Path, threads: int | None) -> cost._Measured:
        measured.append(run.name)
        return cost._Measured(pace, steps=6, validation=4, frames=8, tests=3, threads=2)

    monkeypatch.setattr(cost, "_measure", measure)
    base = Run("a", "a", (), {}, tiny_config, of_epochs(tiny_config, 10), (0, 1))
    config = base.config
    seeded = config.training.model_copy(update={"seed": 7, "lr": 0.5, "epochs": 20})
    wide = config.training.model_copy(update={"batch_size": 3})
    runs = [
        base,
        replace(base, name="b", config=config.model_copy(update={"training": seeded})),
        replace(base, name="c", config=config.model_copy(update={"training": wide})),
        replace(base, name="d", folds=(1,)),
    ]
    costs = costs_of(runs, tmp_path, 2)
    assert measured == ["a", "c"]
    # Folds x epochs x (steps and validation), then the views of all frames.
    views_s = (8 + 2 * 3) * 5
    assert [one.seconds for one in costs] == [
        2 * 10 * (6 * 2 + 4 * 1) + views_s,
        2 * 20 * (6 * 2 + 4 * 1) + views_s,
        2 * 10 * (6 * 2 + 4 * 1) + views_s,
        10 * (6 * 2 + 4 * 1),
    ]
    assert costs[0].hours == costs[0].seconds * 2 / 3600


def test_an_outcome_says_what_was_given_up_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "good")
    run.root.mkdir()
    run.summary.write_text('{"oof": {"miou": 0.5, "pixel_acc": 0.75}}', encoding="utf-8")
    sweep = Sweep(
        SweepFile.model_validate({"experiments": ["demo"]}),
        tmp_path,
        [Run(name, name, (), {}, Config(), Config(), (0,)) for name in ("good", "bad")],
        Plan([]),
        1,
    )
    ends = {"bad/fold0": Ended(1, 2, "error: no such folder"), "bad/fold1": Ended(2, -9, "killed")}
    show_outcome(sweep, Outcome(["good/finish"], [], ends, ["bad/finish"], 3))
    told = capsys.readouterr().out
    assert "good" in told
    assert "0.5000" in told
    assert "given up: bad/fold0 (a mistake): error: no such folder" in told
    assert "given up: bad/fold1 (code -9): killed" in told
    assert "not run, as they depend on these: bad/finish" in told
    assert "0 commands done, 1 had been before, 3 tries again" in told
