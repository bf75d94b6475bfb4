"""From a sweep file to runs and commands: every combination once, every mistake one line."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from engine import train
from engine.mistakes import ConfigError
from engine.sweep.build import plan_of
from engine.sweep.command import main
from engine.sweep.record import SweepRecord, keep, recorded
from engine.sweep.runs import Run, runs_of
from engine.sweep.sweep_file import find_sweep, read_sweep

FULL = """
experiments = ["exp093_5 lite", {configs = ["exp093_4", "lite"], name = "edges", fields = {training.boundary_weight = 3.0}}]
seeds = [1, 2]
compare = "first"
[fields]
data.crop_hw = [96, 128]
[grid]
training.lr = [1e-3, 2e-3]
[[variants]]
training.batch_size = 4
training.accumulate = 2
[[variants]]
training.batch_size = 8
[random]
count = 2
[random.fields]
model.dropout = {uniform = [0.0, 0.5]}
training.weight_decay = {log_uniform = [1e-5, 1e-2]}
model.decoder = {choice = ["fpn", "deeplabv3plus"]}
training.epochs = {integer = [3, 5]}
[[blends]]
name = "best"
runs = ["edges*seed1"]
"""  # noqa: E501


def planned(tmp_path: Path, text: str, root: Path = Path("runs/s")) -> list[Run]:
    file = tmp_path / "s.toml"
    file.write_text(text, encoding="utf-8")
    return runs_of(read_sweep(file), file, root)


def test_runs_are_the_product_of_everything_and_have_names_that_tell_them_apart(
    tmp_path: Path,
) -> None:
    runs = planned(tmp_path, FULL)
    assert len(runs) == 2 * 2 * 2 * 2 * 2
    assert len({run.name for run in runs}) == len(runs)
    assert len({run.config.model_dump_json() for run in runs}) == len(runs)
    assert Counter(run.config.training.lr for run in runs) == {1e-3: 16, 2e-3: 16}
    assert Counter(run.config.training.seed for run in runs) == {1: 16, 2: 16}
    batches = {(run.config.training.batch_size, run.config.training.accumulate) for run in runs}
    assert batches == {(4, 2), (8, 1)}
    first = runs[0]
    assert first.name.startswith("exp093_5-lite-lr0.001-batch_size4-accumulate2-")
    assert first.name.endswith("-seed1")
    assert "crop_hw" not in first.name  # all have it
    assert first.config.data.crop_hw == (96, 128)
    assert {run.config.training.boundary_weight for run in runs[16:]} == {3.0}
    assert all(run.folds == (0, 1, 2, 3, 4) for run in runs)


def test_a_draw_depends_on_seed_number_and_field_alone(tmp_path: Path) -> None:
    head = 'experiments = ["demo"]\n[random]\ncount = {}\nseed = {}\n[random.fields]\n'
    rate = "training.lr = {log_uniform = [1e-4, 1e-2]}\n"
    more = "model.dropout = {uniform = [0.0, 0.5]}\n"

    def rates(count: int, seed: int, fields: str) -> list[float]:
        runs = planned(tmp_path, head.format(count, seed) + fields)
        return [run.config.training.lr for run in runs]

    few = rates(3, 0, rate)
    assert rates(6, 0, rate)[:3] == few
    assert rates(3, 0, more + rate) == few
    assert rates(3, 1, rate) != few
    assert all(1e-4 <= one <= 1e-2 for one in few)
    # What a draw is today it has to be tomorrow: a sweep goes on.
    assert few == [0.005891, 0.006815, 0.0009708]


def test_what_is_typed_for_a_run_is_what_was_planned(tmp_path: Path) -> None:
    runs = planned(tmp_path, FULL)
    plan = plan_of(read_sweep(tmp_path / "s.toml"), runs, Path("runs/s"), 3)
    for run in runs[::7]:
        words = plan[f"{run.name}/finish"].argv
        assert words[0] == "train"
        options, flags = train._parse(words[1:])
        config, folder = train._resolve(options, flags, words[1:])
        runtime = run.config.runtime.model_copy(update={"threads": 3})
        assert config == run.config.model_copy(update={"runtime": runtime})
        assert folder.root == Path("runs/s") / run.name
        fold = plan[f"{run.name}/fold2"]
        assert fold.argv == (*words, "--folds", "2", "--until", "trained")
        assert (fold.fold, fold.run) == (2, folder.root)


def test_a_plan_ends_with_blends_pages_and_a_leaderboard_of_finished_runs(tmp_path: Path) -> None:
    runs = planned(tmp_path, FULL)
    plan = plan_of(read_sweep(tmp_path / "s.toml"), runs, Path("runs/s"))
    members = [run.name for run in runs if run.experiment == "edges" and run.name.endswith("seed1")]
    assert plan["blend/best"].after == tuple(f"{name}/finish" for name in members)
    assert plan["blend/best"].argv[1:9] == tuple(f"runs/s/{name}" for name in members)
    assert sum(command.argv[0] == "compare" for command in plan) == len(runs) - 1
    assert set(plan["leaderboard"].after) == {
        "blend/best",
        *(f"{run.name}/finish" for run in runs),
    }
    assert not any("runtime.threads" in word for command in plan for word in command.argv)


def test_runs_that_take_anothers_weights_wait_for_its_end(tmp_path: Path) -> None:
    file = find_sweep("published")
    sweep = read_sweep(file, {"data.root": "elsewhere"})
    plan = plan_of(sweep, runs_of(sweep, file, Path("runs/p")), Path("runs/p"))
    assert plan["ensemble_4/fold1"].after == ("exp093_4/finish",)
    weights = "model.weights=runs/p/exp093_4/fold{fold}/best.safetensors"
    assert weights in plan["ensemble_4/fold1"].argv
    assert all("data.root=elsewhere" in c.argv for c in plan if c.argv[0] == "train")


def test_some_folds_alone_leave_runs_unfinished_and_nothing_behind_them(tmp_path: Path) -> None:
    text = 'experiments = ["demo", "exp093_2"]\nfolds = [0, 2]\n'
    runs = planned(tmp_path, text)
    plan = plan_of(read_sweep(tmp_path / "s.toml"), runs, Path("runs/s"))
    names = [f"{run}/fold{fold}" for run in ("demo", "exp093_2") for fold in (0, 2)]
    assert [command.name for command in plan] == names


def test_runs_that_come_to_the_same_are_one_and_their_names_stay_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("engine").propagate = True
    runs = planned(
        tmp_path,
        'experiments = ["demo"]\n[[variants]]\ntraining.lr = 2e-3\n'
        "[[variants]]\ntraining.lr = 1e-3\n[[variants]]\ntraining.epochs = 4\n",
    )
    assert [run.name for run in runs] == ["demo-lr0.002", "demo-lr0.001"]
    assert "demo-epochs4 is demo-lr0.002 once more: left out" in caplog.text
    runs = planned(
        tmp_path,
        'experiments = ["demo"]\n[grid]\ninference.scales = [[1.00000001, 2.0], [1.00000002, 2.0]]',
    )
    assert len({run.name for run in runs}) == 2
    long = ", ".join(f'"{letter * 200}"' for letter in "ab")
    runs = planned(tmp_path, f'experiments = ["demo"]\n[grid]\ndata.root = [{long}]')
    assert len({run.name for run in runs}) == 2
    assert max(len(run.name) for run in runs) <= 96


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "experiments: is missing; name configs"),
        ("experiments = []", "experiments: names none; name configs"),
        ('experiments = ["demo"', "not valid TOML"),
        ('experiments = ["demmo"]', "demmo: No such file, and no config of that name; did you"),
        ('experiments = ["demo"]\nseed = [1]', "seed: unknown key; did you mean seeds?"),
        ('experiments = ["demo"]\ntraining.lr = 1', "fields of the config stand under [fields]"),
        ('experiments = ["demo"]\n[grid]\ntraining.lrr = [1]', "unknown key training.lrr; did you"),
        ('experiments = ["demo"]\n[grid]\nlr = [1]', "grid: unknown key lr; type training.lr=1"),
        ('experiments = ["demo"]\n[grid]\ntraining.lr = []', "grid.training.lr"),
        ('experiments = ["demo"]\n[grid]\ntraining.lr = [-1.0]', "demo: training.lr = -1.0: Input"),
        (
            'experiments = ["demo"]\n[random]\ncount = 1\n[random.fields]\ntraining.lr = {uniform = [2.0, 1.0]}',  # noqa: E501
            "uniform = [2.0, 1.0]: the lower end comes first",
        ),
        (
            'experiments = ["demo"]\n[random]\ncount = 1\n[random.fields]\ntraining.lr = {log_uniform = [0.0, 1.0]}',  # noqa: E501
            "both ends have to be above 0",
        ),
        (
            'experiments = ["demo"]\nseeds = [1]\n[grid]\ntraining.seed = [2]',
            "training.seed is varied twice",
        ),
        ('experiments = ["demo"]\nfolds = [3]', "folds: 3: demo has data.folds = 3, so 0 .. 2"),
        ('experiments = ["demo"]\nfolds = [0]\nleaderboard = true', "need finished runs"),
        ('experiments = ["demo", "demo"]', "two experiments are called demo; give each a name"),
        (
            'experiments = [{configs = ["demo"], after = ["lite"]}]',
            "experiment demo is after lite, which is not before it",
        ),
        ('experiments = ["demo"]\n[[blends]]\nname = "b"', "blend b: 1 of 1 runs fit ['*']; two"),
        ('experiments = ["demo"]\n[slurm]\ncpu = 1', "slurm.cpu: unknown key; did you mean cpus?"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(text: str, told: str, tmp_path: Path) -> None:
    def plan() -> None:
        runs = planned(tmp_path, text)
        plan_of(read_sweep(tmp_path / "s.toml"), runs, Path("runs/s"))

    with pytest.raises(ConfigError) as caught:
        plan()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "FILE is missing; type"),
        (["nowhere.toml"], "nowhere.toml: No such file, and no sweep of that name; there is publ"),
        (["."], ". is a folder; name a sweep file"),
        (["published", "--workers", "0"], "--workers 0: at least 1 is needed"),
        (["published", "--workers", "4096"], "--workers 4096: there are"),
        (["published", "--address", "a:1"], "--address a:1 is of Ray; type --on ray with it"),
        (["published", "--gpus", "1"], "--gpus 1 is of Ray; type --on ray with it"),
        (["published", "--on", "k8s", "--workers", "9"], "type at_once = 9 in [kubernetes] of pub"),
        (["published", "--on", "slrum"], "did you mean slurm?"),
        (["published", "--data", "nowhere"], "data.root = 'nowhere': no such folder"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        main(words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_folder_refuses_another_plan_and_says_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"

    def record(text: str, threads: int = 2) -> SweepRecord:
        runs = planned(tmp_path, text, folder)
        return SweepRecord.of(runs, plan_of(read_sweep(tmp_path / "s.toml"), runs, folder), threads)

    text = 'experiments = ["demo"]\nseeds = [1, 2]\n[fields]\ntraining.epochs = 3\n'
    assert recorded(folder) is None
    keep(folder, record(text), extend=False)
    keep(folder, record(text), extend=False)
    assert recorded(folder) == record(text)
    # Neither where the data is nor what it runs on makes a plan another.
    keep(folder, record(text + 'data.root = "there"\nruntime.workers = 4\n'), extend=False)
    with pytest.raises(ConfigError, match="undo:\n  demo-seed1: training.epochs: 3 -> 5\n  demo-s"):
        keep(folder, record(text.replace("3", "5")), extend=True)
    with pytest.raises(ConfigError, match="run demo-seed2 is gone"):
        keep(folder, record(text.replace("[1, 2]", "[1, 3]")), extend=True)
    grown = record(text.replace("[1, 2]", "[1, 2, 3]"))
    with pytest.raises(ConfigError, match="add --extend, or undo:\n  run demo-seed3 is new"):
        keep(folder, grown, extend=False)
    keep(folder, grown, extend=True)
    assert recorded(folder) == grown
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    with pytest.raises(ConfigError, match="is a run folder; choose another --out for the sweep"):
        recorded(tmp_path / "run")
