"""Successive halving: who goes on at a rung, what a stopped run counts as, and going on."""

import json
from pathlib import Path

import pytest

from engine.cli import load_config
from engine.mistakes import ConfigError
from engine.rundir import RunDir, write_config
from engine.sweep.build import plan_of
from engine.sweep.halving import FILE, Halving, Trial, miou_at, rung_name, rungs, tunes
from engine.sweep.plan import Command
from engine.sweep.runs import runs_of
from engine.sweep.sweep_file import read_sweep


class Median:
    """Stands in for Tune's scheduler: who is below the best of its rung so far is stopped."""

    def __init__(self) -> None:
        self.best: dict[int, float] = {}
        self.added: list[str] = []

    def on_trial_add(self, tune_controller: None, trial: Trial) -> None:
        self.added.append(trial.trial_id)

    def on_trial_result(self, tune_controller: None, trial: Trial, result: dict[str, float]) -> str:
        at, miou = int(result["epochs"]), result["miou"]
        best = self.best.get(at, -1.0)
        self.best[at] = max(best, miou)
        return "STOP" if miou < best else "CONTINUE"


def train(root: Path, run: str, mious: list[float | None]) -> None:
    """Leave lines of the first fold, as training does."""
    lines = []
    for epoch, miou in enumerate(mious, 1):
        line = {"epoch": epoch, "lr": 0.1, "loss": 1.0, "train_s": 1.0, "validation_s": 1.0}
        lines.append(json.dumps(line | ({} if miou is None else {"miou": miou, "pixel_acc": 0.5})))
    path = RunDir(root / run).metrics(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def rung(root: Path, run: str, epochs: int) -> Command:
    return Command(rung_name(run, epochs), ("train",), root / run, fold=0)


def test_rungs_grow_by_the_factor_and_end_before_the_last_epoch() -> None:
    assert rungs(1, 3, 30) == [1, 3, 9, 27]
    assert rungs(10, 3, 30) == [10]
    assert rungs(30, 3, 30) == []


def test_a_rung_is_done_when_its_epochs_are_and_who_is_poor_there_is_done_altogether(
    tmp_path: Path,
) -> None:
    halving = Halving(tmp_path, 2, 2, 8, Median())
    train(tmp_path, "good", [0.1])
    assert halving.state(rung(tmp_path, "good", 2)) == (False, 1)
    train(tmp_path, "good", [0.1, 0.3])
    assert halving.state(rung(tmp_path, "good", 2)) == (True, 2)
    train(tmp_path, "poor", [0.2, 0.25])
    assert halving.state(rung(tmp_path, "poor", 2)).done
    finish = Command("poor/finish", ("train",), tmp_path / "poor")
    assert halving.state(finish).done, "nothing more is to be done for it"
    assert not halving.state(Command("good/finish", ("train",), tmp_path / "good")).done
    assert halving.told() == ["poor was stopped after 2 epochs of fold 0, mIoU 0.2500"]


def test_who_goes_on_repeats_the_decisions_in_their_order_and_asks_for_none_twice(
    tmp_path: Path,
) -> None:
    first = Halving(tmp_path, 2, 2, 8, Median())
    for run, miou in (("a", 0.3), ("b", 0.2), ("c", 0.4)):
        train(tmp_path, run, [0.1, miou])
        first.state(rung(tmp_path, run, 2))
    scheduler = Median()
    second = Halving(tmp_path, 2, 2, 8, scheduler)
    assert second.decisions == first.decisions
    assert scheduler.best == {2: 0.4}
    assert scheduler.added == ["a", "b", "c"]
    written = (tmp_path / FILE).read_bytes()
    assert second.state(rung(tmp_path, "a", 2)).done
    assert (tmp_path / FILE).read_bytes() == written
    with pytest.raises(ConfigError, match="was decided with first = 2, factor = 2; leave"):
        Halving(tmp_path, 2, 3, 8, Median())


def test_a_run_that_its_patience_has_ended_is_judged_by_what_it_had_reached(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "ended")
    halving = Halving(tmp_path, 4, 2, 8, Median())
    train(tmp_path, "ended", [0.3, 0.2, 0.1])
    config = load_config([], {"training": {"epochs": 8, "patience": 2}})
    write_config(config, run)
    assert not halving.state(rung(tmp_path, "ended", 4)).done
    lines = run.metrics(0).read_text("utf-8")
    run.metrics(0).write_text(lines[:-2] + ', "stopped_early": true}\n', encoding="utf-8")
    assert halving.state(rung(tmp_path, "ended", 4)) == (True, 3)
    (decision,) = halving.decisions
    assert (decision.epochs, decision.miou) == (4, 0.1)


def test_the_latest_validation_counts_and_none_at_all_is_a_mistake(tmp_path: Path) -> None:
    train(tmp_path, "run", [None, 0.2, None, 0.9])
    run = RunDir(tmp_path / "run")
    assert miou_at(run, 3) == 0.2
    with pytest.raises(ConfigError, match=r"is not validated in its first 1 epochs; lower"):
        miou_at(run, 1)


@pytest.mark.bench("ray")
def test_tunes_scheduler_judges_names_and_lets_one_in_so_many_go_on(tmp_path: Path) -> None:
    scheduler = tunes(1, 3, 9)
    said = []
    for number, miou in enumerate((0.5, 0.1, 0.6, 0.2, 0.55, 0.7)):
        trial = Trial(f"run{number}")
        scheduler.on_trial_add(None, trial)
        said.append(scheduler.on_trial_result(None, trial, {"epochs": 1, "miou": miou}))
    assert said == ["CONTINUE", "STOP", "CONTINUE", "STOP", "CONTINUE", "CONTINUE"]


def test_a_plan_has_rungs_of_the_first_fold_before_all_folds_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        "experiments = ['lite']\nseeds = [0, 1]\nfields = {training.epochs = 9, data.folds = 2}\n"
        "halving = {first = 2, factor = 2}\n",
        encoding="utf-8",
    )
    asked = read_sweep(file)
    runs = runs_of(asked, file, tmp_path)
    plan = plan_of(asked, runs, tmp_path, 1)
    first = runs[0].name
    assert [c.name for c in plan if c.name.startswith(first)] == [
        f"{first}/{part}" for part in ("rung2", "rung4", "rung8", "fold0", "fold1", "finish")
    ]
    assert plan[f"{first}/rung4"].argv[-6:] == (
        *("--folds", "0", "--until", "trained", "--stop-after", "4"),
    )
    assert plan[f"{first}/rung4"].after == (f"{first}/rung2",)
    assert plan[f"{first}/fold1"].after == (f"{first}/rung8",)
    file.write_text(file.read_text("utf-8") + "compare = 'all'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="halving leaves runs unfinished; leave out folds"):
        read_sweep(file)
