"""mIoU against training time: the clock, the levels, equal time, and what goes on after a stop."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import levers, points, work
from benchmarks.apart import apart
from benchmarks.equal_time import Measured, Trained, fitted, measure_in_turns, train_and_predict
from benchmarks.points import Clock, Point, race, reached_s, told_reached
from benchmarks.recipes import Recipe, recipe
from benchmarks.time_to_accuracy import main
from engine.config import Config
from engine.mistakes import ConfigError


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings are done in this process, and their steps are said to take a second."""
    done: list[str] = []

    def call(function: Callable[..., Any], one: Recipe, *arguments: Any) -> Any:
        done.append(one.name)
        return function(one, *arguments)

    def measured(recipes: list[Recipe], *_: Any) -> dict[str, Measured]:
        return {one.name: Measured([1.0, 1.0], 3) for one in recipes}

    monkeypatch.setattr(work, "apart", call)
    monkeypatch.setattr(work, "measure_in_turns", measured)
    return done


@pytest.fixture
def words(tiny_toml: Path, tiny_root: Path, tmp_path: Path) -> list[str]:
    recipes = ["--config", "base:", str(tiny_toml), "--config", "slow:", str(tiny_toml)]
    recipes += ["training.lr=1e-4"]
    return [*recipes, "--root", str(tiny_root), "--work", str(tmp_path / "work")]


def test_the_clock_runs_while_it_trains_and_stands_while_it_validates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(points, "work_s", lambda: now_s[0])

    def batches() -> Iterator[int]:
        for number in range(4):
            now_s[0] += 1  # the batch is made
            yield number

    def look() -> float:
        now_s[0] += 50
        return 0.25

    clock = Clock(4.0, look)
    for _ in clock.over(batches()):
        now_s[0] += 2  # its step
    now_s[0] += 1000  # between two epochs
    clock.look()
    assert clock.seconds == 12
    assert [(p.train_s, p.steps, p.validation_s) for p in clock.points] == [
        (6, 2, 50),
        (9, 3, 50),
        (12, 4, 50),
    ]
    later = Clock(4.0, look, at=(clock.seconds, clock.steps), points=clock.points)
    for _ in later.over(batches()):
        now_s[0] += 2
    assert [p.train_s for p in later.points[3:]] == [18, 21, 24]


def test_a_level_is_reached_on_the_line_between_two_points() -> None:
    curve = [Point(60, 10, 0.42, 1), Point(120, 20, 0.47, 1), Point(180, 30, 0.46, 1)]
    assert reached_s(curve, 0.45) == pytest.approx(60 + 60 * 3 / 5)
    assert reached_s(curve, 0.40) == 60  # what was before is not known
    assert reached_s(curve, 0.50) is None
    assert told_reached(curve) == {
        "0.40": 60.0,
        "0.45": 96.0,
        **dict.fromkeys(("0.50", "0.52", "0.54", "0.56")),
    }
    ours = {"seed": 1, "points": [point._asdict() for point in curve]}
    assert race(ours, {"miou": 0.45, "train_s": 384.0})["ratio"] == 4.0
    assert race(ours, {"miou": 0.48, "train_s": 384.0})["ratio"] is None


def test_steps_are_timed_in_turns_and_leave_nothing(tiny_config: Config, tmp_path: Path) -> None:
    one = Recipe("one", tiny_config)
    two = one.having(batch_size=3)._replace(name="two")
    found = measure_in_turns([one, two], 0, tmp_path / "measuring", rounds=3)
    assert [(name, each.steps, len(each.step_s)) for name, each in found.items()] == [
        ("one", 3, 3),
        ("two", 2, 3),
    ]
    assert all(seconds > 0 for each in found.values() for seconds in each.step_s)
    assert found["one"].epoch_s == pytest.approx(3 * sorted(found["one"].step_s)[1])
    assert not (tmp_path / "measuring").exists()


def test_epochs_are_those_that_fit(tiny_config: Config) -> None:
    one = Recipe("tiny", tiny_config)
    assert fitted(one, 10.0, 70.0).config.training.epochs == 7
    assert fitted(one, 10.0, 70.0).config.training.validate_every == 3
    assert fitted(one, 70 / 3, 70.0).config.training.epochs == 3
    with pytest.raises(ConfigError, match="an epoch takes 100.0 s.* give --minutes 1.7 or more"):
        fitted(one, 100.0, 70.0)


def test_a_recipe_is_named_or_named_after_what_it_is(tiny_toml: Path, tmp_path: Path) -> None:
    one = recipe([str(tiny_toml), "training.lr=2e-3", "training.epochs=7"], tmp_path)
    assert one.name == "tiny-lr2e-3-epochs7"
    assert (one.config.training.lr, one.config.training.epochs) == (2e-3, 7)
    assert (one.config.data.root, one.config.runtime.device) == (str(tmp_path), "cpu")
    named = recipe(["wide:", "exp093_2", "lite"], tmp_path, plain=False)
    assert named.name == "wide"
    assert named.config.model.encoder == "tf_efficientnet_lite0"
    assert named.seeded(1).config.training.seed == 1042
    for typed, told in (
        (["wide:", "training.lr=1"], "names no config"),
        (["a b:", "lite"], "letters, digits"),
        ([str(tmp_path)], "type --root"),
        (["lite", "training.speed=1"], "unknown key"),
        (["lite", "training.frames=all", "selection.temperature=1.0"], "holds no frame out"),
    ):
        with pytest.raises(ConfigError, match=told):
            recipe(typed, tmp_path)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--compare", "base", "slow"], "type --minutes"),
        (["--compare", "base", "slow", "--minutes", "1"], "type --seeds 2"),
        (["--compare", "base", "b", "--minutes", "1", "--seeds", "2"], "b: no recipe of that"),
        (
            ["--compare", "base", "base", "--minutes", "1", "--seeds", "2"],
            "two recipes or more, each once; the last is the rival",
        ),
        (["--to-plain"], "takes one recipe"),
        (["--plot", "curve.pdf"], ".png or .svg"),
        (["--minutes", "0"], "must be above 0"),
        (["--fold", "2"], "so 0 .. 1 exist"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], typed: list[str], told: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        main([*words, *typed])


def test_a_curve_is_told_and_not_trained_twice(
    words: list[str], here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curves.json"
    typed = [*words, "--minutes", "0.1", "--every", "0.001", "--json", str(out)]
    assert main(typed) == 0
    curves = json.loads(out.read_text("utf-8"))["curves"]
    assert [(one["name"], one["seed"], one["epochs"]) for one in curves] == [
        ("base", 42, 2),
        ("slow", 42, 2),
    ]
    for one in curves:
        assert [point["steps"] for point in one["points"]] == [1, 2, 3, 4, 5, 6]
        times = [point["train_s"] for point in one["points"]]
        assert times == sorted(times)
        assert one["points"][-1]["miou"] == one["miou"]
        assert 0 < one["all_views_miou"] < 1
    assert curves[0]["miou"] != curves[1]["miou"]
    assert "not reached" in capsys.readouterr().out
    assert here == ["base-0", "slow-0"]
    assert main(typed) == 0
    assert here == ["base-0", "slow-0"]
    assert json.loads(out.read_text("utf-8"))["curves"] == curves
    with pytest.raises(ConfigError, match="holds other trainings"):
        main([*words[:6], "training.lr=1e-5", *words[7:], "--minutes", "0.1"])


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_curves_are_drawn(kind: str, begins: bytes, tmp_path: Path) -> None:
    from benchmarks.curves import draw

    measured = [Point(60, 10, 0.42, 1)._asdict(), Point(120, 20, 0.47, 1)._asdict()]
    path = tmp_path / f"curve.{kind}"
    draw([{"name": name, "points": measured} for name in ("a", "a", "b")], path)
    content = path.read_bytes()
    assert content.startswith(begins)
    if kind == "svg":
        assert content.count(b"minutes of training") == 1


def test_a_curve_that_was_stopped_keeps_its_points_and_its_time(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import curves

    config = tiny_config.model_copy(
        update={"training": tiny_config.training.model_copy(update={"epochs": 3})}
    )
    one, look, looked = Recipe("tiny", config), curves.WatchedTraining._look, list[int]()

    def counted(training: curves.WatchedTraining) -> float:
        looked.append(training.position.step + 3 * training.position.epoch)
        if looked == [1, 2, 3, 4, 5, 6]:
            raise KeyboardInterrupt
        return look(training)

    monkeypatch.setattr(curves.WatchedTraining, "_look", counted)
    with pytest.raises(KeyboardInterrupt):
        curves.train_curve(one, 0, tmp_path, 1e-6)
    kept = json.loads((tmp_path / "run" / "fold0" / "clock.json").read_text("utf-8"))
    assert [point[1] for point in kept["points"]] == [1, 2, 3, 4, 5]
    found = curves.train_curve(one, 0, tmp_path, 1e-6)
    # From the checkpoint of step 4 on (save_every is 2): 5 is done and looked at once more.
    assert looked[6:] == [5, 6, 7, 8, 9]
    assert [point["steps"] for point in found["points"]] == list(range(1, 10))
    assert [point["train_s"] for point in found["points"][:4]] == [
        point[0] for point in kept["points"][:4]
    ]
    times = [point["train_s"] for point in found["points"]]
    assert times == sorted(times)


def test_a_lever_is_compared_at_equal_time_and_added_to_the_file(
    words: list[str], here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recipe.json"
    typed = [*words, "--minutes", "0.1", "--seeds", "2", "--json", str(out)]
    assert main([*typed, "--compare", "base", "slow"]) == 0
    assert here == ["base-0", "slow-0", "slow-1", "base-1"]
    (row,) = json.loads(out.read_text("utf-8"))["rows"]
    assert (row["lever"], row["rival"], row["seeds"]) == ("base", "slow", [42, 1042])
    assert row["differs"] == ["training.lr: 0.0001 -> 0.01"]
    assert row["difference_by_seed"] == pytest.approx(
        np.subtract(row["miou"], row["rival_miou"]), abs=2e-4
    )
    assert row["low"] is None  # twelve frames are one block
    assert row["decision"] == "undecided"
    assert len(row["train_s"]) == len(row["rival_train_s"]) == 2
    # Measured again, it takes the row's place; another one comes behind.
    assert main([*typed, "--compare", "base", "slow"]) == 0
    assert main([*typed, "--compare", "base", "slow", "--lever", "again"]) == 0
    assert len(here) == 4
    assert [one["lever"] for one in levers.read(out)] == ["base", "again"]
    capsys.readouterr()
    assert main(["--table", str(out)]) == 0
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.count("|") == line.count("|") == rows[0].count("|") == 12
    assert rows[0].startswith("| base | training.lr: 0.0001 -> 0.01 | ")
    assert "too few groups" in rows[0]


def test_several_levers_are_held_against_one_training_of_their_rival(
    words: list[str], here: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "recipe.json"
    toml = words[words.index("base:") + 1]
    typed = [*words, "--config", "bf16:", toml, "runtime.precision=bf16"]
    typed += ["--minutes", "0.1", "--seeds", "2", "--json", str(out)]
    assert main([*typed, "--compare", "slow", "bf16", "base"]) == 0
    assert here == ["slow-0", "bf16-0", "base-0", "base-1", "bf16-1", "slow-1"]
    rows = levers.read(out)
    assert [(row["lever"], row["rival"]) for row in rows] == [("slow", "base"), ("bf16", "base")]
    assert rows[1]["differs"] == ["runtime.precision: auto -> bf16"]
    assert set(rows[0]["measured"]) == {"slow", "base"}
    # One more is trained alone: what the rival has done stays.
    more = [*typed, "--config", "more:", toml, "training.lr=2e-3", "--compare", "more", "base"]
    assert main(more) == 0
    assert here[6:] == ["more-0", "more-1"]
    assert [row["lever"] for row in levers.read(out)] == ["slow", "bf16", "more"]
    with pytest.raises(ConfigError, match="--lever names one row"):
        main([*typed, "--compare", "slow", "bf16", "base", "--lever", "two"])


def test_what_is_timed_later_is_brought_to_the_machine_of_the_first_time(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Recipe("one", tiny_config)
    two, three = (
        one.having(lr=lr)._replace(name=name) for lr, name in ((1e-3, "two"), (2e-3, "three"))
    )
    asked, slower = list[list[str]](), 1.0

    def timed(recipes: list[Recipe], *_: Any) -> dict[str, Measured]:
        asked.append([each.name for each in recipes])
        costs = {"one": 1.0, "two": 2.0, "three": 3.0}
        return {each.name: Measured([slower * costs[each.name]], 5) for each in recipes}

    monkeypatch.setattr(work, "measure_in_turns", timed)
    folder = work.WorkFolder(tmp_path, 0)
    assert [each.epoch_s for each in folder.measured([two, one]).values()] == [10, 5]
    slower = 1.5
    found = folder.measured([three, one])
    assert {name: each.epoch_s for name, each in found.items()} == {"three": 15, "one": 5}
    assert folder.measured([three, two, one])["three"].epoch_s == 15
    assert asked == [["two", "one"], ["three", "one"]]


def test_a_clear_difference_of_all_seeds_is_kept(tmp_path: Path) -> None:
    rng, pairs = np.random.default_rng(0), []
    for seed in range(2):
        sides = []
        for name, right in (("a", 80), ("b", 60)):
            hits = np.minimum(100, right + rng.integers(0, 9, (8, 2)))
            count_NCC = np.array([[[a, 100 - a], [100 - b, b]] for a, b in hits], np.uint32)
            np.save(tmp_path / f"{name}{seed}.npy", count_NCC)
            path = str(tmp_path / f"{name}{seed}.npy")
            sides.append(Trained(path, list(range(8)), "scene", 0.5, (30, 8), 60.0, 5.0))
        pairs.append((sides[0], sides[1]))
    row = levers.row_of(pairs)
    assert row["low"] > 0.1
    assert row["decision"] == "kept"
    assert "8 scenes" in row["told"]
    assert levers.row_of([(b, a) for a, b in pairs])["decision"] == "dropped"


@pytest.mark.bench("albumentations")
def test_plain_and_ours_race_to_its_mark(
    words: list[str], here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, tiny = tmp_path / "race.json", words[2]
    typed = [*words[:3], *words[7:], "--to-plain", "--plain", tiny, "--json", str(out)]
    assert main(typed) == 0
    assert here == ["base-0", "plain-0"]
    content = json.loads(out.read_text("utf-8"))
    (row,), (ours, plain) = content["to_plain"], content["curves"]
    assert row["miou"] == plain["miou"]
    assert row["plain_s"] == plain["train_s"]
    assert row == race(ours, plain)
    assert "the plain recipe's after" in capsys.readouterr().err


@pytest.mark.bench("albumentations")
def test_plain_steps_are_timed_and_its_frames_predicted(
    tiny_config: Config, tmp_path: Path
) -> None:
    training = tiny_config.training.model_copy(update={"epochs": 1})
    one = Recipe("plain", tiny_config.model_copy(update={"training": training}), plain=True)
    (found,) = measure_in_turns([one], 0, tmp_path / "measuring", rounds=2).values()
    assert (found.steps, len(found.step_s)) == (3, 2)
    assert not (tmp_path / "measuring").exists()
    trained = train_and_predict(one, 0, tmp_path)
    assert trained.loaded().shape == (6, 13, 13)
    assert (len(trained.group), trained.frames) == (6, (6, 6))
    assert trained.train_s > 0
    assert 0 < trained.miou < 1


def doubled(number: int) -> int:
    if number < 0:
        raise ConfigError(f"{number}: must not be negative")
    return 2 * number


def test_a_function_is_called_in_another_process_and_its_error_comes_back() -> None:
    assert apart(doubled, 4) == 8
    with pytest.raises(RuntimeError, match="^-4: must not be negative$"):
        apart(doubled, -4)
