"""From files and flags to a config, and from a mistake to one message and an exit code."""

import argparse
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.cli import load_config, parse_command_line, to_toml
from engine.config import Config
from engine.mistakes import ConfigError
from engine.resume import differences
from engine.suggest import Parser

ROOT = Path(__file__).resolve().parent.parent


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def parse(*arguments: str) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = Parser()
    parser.add_argument("--config", type=Path, nargs="+", default=[])
    parser.add_argument("--folds", type=int, nargs="+")
    return parse_command_line(parser, arguments)


def mistake(text: str, folder: Path, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config([write(folder / "mine.toml", text)], flags)
    return str(caught.value)


def test_no_file_and_no_flag_give_the_defaults() -> None:
    assert load_config([]) == Config()


def test_files_merge_left_to_right_and_flags_last(tmp_path: Path) -> None:
    first = write(tmp_path / "a.toml", "[training]\nepochs = 3\nlr = 0.5\nbatch_size = 7\n")
    second = write(tmp_path / "b.toml", "[training]\nepochs = 4\nlr = 0.25\n")
    config = load_config([first, second], {"training": {"epochs": 5}})
    assert (config.training.epochs, config.training.lr, config.training.batch_size) == (5, 0.25, 7)


def test_a_later_table_of_class_weights_replaces_the_earlier_one(tmp_path: Path) -> None:
    first = write(tmp_path / "a.toml", "[training.class_weights]\nbed = 2\ntv = 3\n")
    second = write(tmp_path / "b.toml", "[training]\nclass_weights = {sofa = 4}\n")
    assert load_config([first, second]).training.class_weights == {"sofa": 4.0}


def test_flags_of_every_kind_are_read() -> None:
    options, flags = parse(
        *("--training.epochs", "3", "--data.crop_hw", "[96,128]", "--no-inference.flip"),
        *("--inference.scales=[0.5,1]", "--data.root", "some folder", "--folds", "0", "2"),
        *("--training.class_weights", '{"books": 1.5}', "--data.small_classes", '["tv"]'),
    )
    config = load_config([], flags)
    assert config.training.epochs == 3
    assert config.data.crop_hw == (96, 128)
    assert config.inference.flip is False
    assert config.inference.scales == (0.5, 1.0)
    assert config.data.root == "some folder"
    assert config.data.small_classes == ("tv",)
    assert config.training.class_weights == {"books": 1.5}
    assert options.folds == [0, 2]


@pytest.mark.parametrize(
    ("word", "value"),
    [("own", "own"), ("training", "training"), ("96,128", (96, 128)), ("[96,128]", (96, 128))],
)
def test_a_flag_names_a_size_or_whose_it_is(word: str, value: object) -> None:
    _, flags = parse("--inference.base_hw", word)
    assert load_config([], flags).inference.base_hw == value


@pytest.mark.parametrize(
    "word", ["0=ignore,1=0,7=1", '{"0": "ignore", "1": 0, "7": 1}', '{"0"="ignore", 1 = 0, 7=1}']
)
def test_a_table_is_typed_as_pairs_as_json_or_as_toml(word: str) -> None:
    flags = parse("--data.classes", "wall,floor", "--data.label_map", word)[1]
    assert load_config([], flags).data.label_map == {"0": "ignore", "1": 0, "7": 1}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--data.label_map", "0=1,0=2"), "--data.label_map gives '0' twice"),
        (("--data.label_map", "0"), "--data.label_map cannot be read; a table is one word"),
        (("--training.class_weights", '{"bed": '), "--training.class_weights cannot be read"),
    ],
)
def test_a_word_that_is_no_table_says_how_one_is_typed(words: tuple[str, ...], part: str) -> None:
    with pytest.raises(ConfigError, match=f"command line: {re.escape(part)}"):
        parse(*words)


def test_flags_that_were_not_given_set_nothing() -> None:
    assert parse("--training.epochs", "3")[1] == {"training": {"epochs": "3"}}


def test_environment_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAINING", "TRAINING__EPOCHS", "training", "DATA", "data"):
        monkeypatch.setenv(name, '{"epochs": 3}')
    assert parse()[1] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nepoch = 3", "unknown key training.epoch; did you mean training.epochs?"),
        ("[traning]\nepochs = 3", "unknown key traning; did you mean training?"),
        (
            "[selection]\nzzz = 1",
            "unknown key selection.zzz; the nearest is selection.temperature; python -m",
        ),
        ("[data]\nzzzz = 1", "unknown key data.zzzz; the nearest is data.splits; python -m"),
        ("[data]\nepochs = 1", "unknown key data.epochs; did you mean training.epochs?"),
        ("epochs = 1", "unknown key epochs; did you mean training.epochs?"),
        ("[training]\nepochs = 'ten'", "training.epochs = 'ten': Input should be a valid integer"),
        ("[data]\ncrop_hw = [96]", "data.crop_hw"),
        ("[data]\ncrop_hw = 96", "data.crop_hw = 96: Input should be a valid tuple"),
        ("training = 3", "training = 3: Input should be a valid dictionary"),
        ("[data]\ncrop_hw = [736, 960]", "data.crop_hw (736, 960) is larger than data.input_hw"),
        ("[training]\nepochs = -1", "training.epochs = -1: Input should be greater than or equal"),
        ("[training]\nepochs == 0", "not valid TOML"),
        ("[inference]\nbase_hw = 'mine'", "inference.base_hw = 'mine'; type training, own, or"),
        ("[inference]\nbase_hw = [96]", "inference.base_hw = 96; type training, own, or height"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_was_needed(
    text: str, message: str, tmp_path: Path
) -> None:
    shown = mistake(text, tmp_path)
    assert shown.startswith(f"{tmp_path / 'mine.toml'}: ")
    assert message in shown
    assert "\n" not in shown


def test_all_mistakes_are_told_at_once_each_with_its_own_origin(tmp_path: Path) -> None:
    shown = mistake(
        "[training]\nepoch = 3\nlr = 'fast'\n", tmp_path, data={"folds": "many"}
    ).splitlines()
    assert len(shown) == 3
    assert sum(line.startswith(f"{tmp_path / 'mine.toml'}: ") for line in shown) == 2
    assert sum(line.startswith("command line: data.folds = 'many'") for line in shown) == 1


def test_a_value_in_place_of_a_section_is_blamed_on_what_set_it(tmp_path: Path) -> None:
    shown = mistake("training = 3\n", tmp_path, training={"lr": "0.1"}, data={"folds": "many"})
    assert f"{tmp_path / 'mine.toml'}: training = 3: Input should be a valid" in shown
    assert "command line: data.folds = 'many'" in shown
    assert len(shown.splitlines()) == 2


def test_the_file_that_set_a_value_last_is_blamed(tmp_path: Path) -> None:
    good = write(tmp_path / "good.toml", "[training]\nepochs = 3\n")
    bad = write(tmp_path / "bad.toml", "[training]\nepochs = -3\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: training.epochs = -3"):
        load_config([good, bad])
    assert load_config([bad, good]).training.epochs == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config([tmp_path / "absent.toml"])
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config([tmp_path])
    (tmp_path / "latin.toml").write_bytes(b"[data]\nroot = '\xff'\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: not valid TOML"):
        load_config([tmp_path / "latin.toml"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--training.epoch", "3"), "unknown flag --training.epoch; did you mean --training.epo"),
        (("--training.epoch=3",), "unknown flag --training.epoch; did you mean --training.epochs"),
        (("--fold", "3"), "unknown flag --fold; did you mean --folds?"),
        (("--zzzzzzzz",), "unknown flag --zzzzzzzz; see --help"),
        (("--data.crop_hw", "96", "128"), "unexpected '128'; a list is one word"),
        (("--folds", "x"), "argument --folds: invalid int value: 'x'"),
        (("--training.epochs",), "argument --training.epochs: expected one argument"),
    ],
)
def test_a_mistaken_flag_is_one_line_without_the_usage(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*arguments)
    assert str(caught.value).startswith(f"command line: {message}")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--training.epoch", "3"),
        ("--training.epochs", "ten"),
        ("--data.crop_hw", "[960,1280]"),
        ("--folds", "9"),
        ("--config", "absent.toml"),
    ],
    ids=["misspelt", "type", "crop", "folds", "file"],
)
def test_a_mistake_costs_exit_code_2_one_line_and_less_than_two_seconds(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "engine.train", *arguments, "--out", str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    # Processor time: the clock on the wall also counts whatever else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert not (tmp_path / "run").exists()


_name = st.text(min_size=1, max_size=8)
_share = st.floats(0, 0.99)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    classes = draw(st.lists(_name, min_size=2, max_size=5, unique=True))
    some = st.lists(st.sampled_from(classes), unique=True)
    temperatures = draw(st.lists(st.floats(0.01, 9), min_size=1, max_size=3, unique=True))
    return Config.model_validate(
        {
            "data": {
                "root": draw(st.text(max_size=20)),
                "classes": classes,
                "small_classes": draw(some),
                "flip_p": draw(_share),
                "scale_limit": draw(_share),
            },
            "model": {"weights": draw(_name), "input": draw(st.sampled_from(["rgb", "rgbd"]))},
            "training": {
                "lr": draw(st.floats(min_value=0, exclude_min=True, allow_infinity=False)),
                "class_weights": {name: draw(st.floats(1e-9, 1e9)) for name in draw(some)},
                "ema_warmup": draw(st.booleans()),
                "seed": draw(st.integers(0, 2**62)),
            },
            "inference": {
                "temperatures": temperatures,
                "base_hw": draw(st.sampled_from(["training", "own", (240, 320)])),
            },
            "selection": {"temperature": draw(st.sampled_from([None, *temperatures]))},
        }
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=configs())
def test_a_config_written_as_toml_is_read_back_equal(config: Config, tmp_path: Path) -> None:
    file = write(tmp_path / "config.toml", to_toml(config))
    assert load_config([file]) == config
    assert differences(config, load_config([file])) == []


@pytest.mark.parametrize("root", ["a b", "\x7f", "\x00\r\n\t", '"\\', "\u2028é😀", ""])
def test_any_folder_name_survives_the_way_through_toml(root: str, tmp_path: Path) -> None:
    config = load_config([], {"data": {"root": root}})
    assert load_config([write(tmp_path / "config.toml", to_toml(config))]) == config
