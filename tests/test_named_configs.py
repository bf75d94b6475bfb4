"""Configs by name or path, a dataset folder among them, `key=value`: what they come to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import choice, named, train
from engine.cli import load_config, to_toml
from engine.config import Config
from engine.mistakes import ConfigError
from engine.named import CONFIGS, OVERLAYS, config_file, config_names, sort_words
from engine.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test is helped by the folder that it runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Config:
    """What a command line comes to, by what `--print-config` prints."""
    assert train.main([*words, "--print-config"]) == 0
    shown = capsys.readouterr().out
    Path("printed.toml").write_text(shown, encoding="utf-8")
    config = load_config([Path("printed.toml")])
    assert to_toml(config) == shown, "it printed something else, too"
    return config


def dataset(root: Path, hw: tuple[int, int] = (48, 64), highest: int = 12) -> Path:
    """Two frames with depth, whose labels hold 0 to `highest`."""
    for kind in ("image", "depth", "label"):
        (root / "train" / kind).mkdir(parents=True)
    label_HW = np.resize(np.arange(highest + 1, dtype=np.uint8), hw)
    for stem in ("a", "b"):
        Image.fromarray(np.zeros((*hw, 3), np.uint8)).save(root / f"train/image/{stem}.png")
        Image.fromarray(np.ones(hw, np.uint16)).save(root / f"train/depth/{stem}.png")
        Image.fromarray(label_HW).save(root / f"train/label/{stem}.png")
    return root


def test_every_config_is_found_by_its_name_from_any_folder() -> None:
    assert {*OVERLAYS, "demo"} < set(config_names())
    for name in config_names():
        assert config_file(name) == config_file(f"{name}.toml") == CONFIGS / f"{name}.toml"
        assert config_file(name).is_file()


def test_an_installed_engine_finds_the_configs_beside_it(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    for name in ("engine", "kernels", "configs"):
        (tmp_path / "site" / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "engine", "train", "exp093_5", "lite", "--print-config"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "shown.toml").write_text(done.stdout, encoding="utf-8")
    expected = load_config([CONFIGS / "exp093_5.toml", CONFIGS / "lite.toml"])
    assert load_config([tmp_path / "shown.toml"]) == expected


@pytest.mark.parametrize(
    "words",
    [
        ("exp093_5", "lite", "--training.seed", "7"),
        ("exp093_5", "--training.seed", "7", "lite"),
        ("--training.seed", "7", "--out", "there", "exp093_5", "lite"),
        ("training.seed=7", "exp093_5", str(CONFIGS / "lite.toml")),
        ("--config", "exp093_5", str(CONFIGS / "lite.toml"), "--training.seed=7"),
        ("--config", "exp093_5", "--config", "lite.toml", "training.seed=7"),
    ],
    ids=" ".join,
)
def test_names_paths_and_fields_say_the_same_in_any_place(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [CONFIGS / "exp093_5.toml", CONFIGS / "lite.toml"]
    assert printed(capsys, *words) == load_config(files, {"training": {"seed": 7}})


def test_configs_merge_in_the_order_of_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "exp093_2", "lite").data.fold_kind == "blocked"
    assert printed(capsys, "lite", "exp093_2").data.fold_kind == "random"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("inference.flip=false", False),
        ("inference.flip=On", True),
        ("--no-inference.flip", False),
        ("--inference.flip=no", False),
    ],
)
def test_what_is_true_or_false_may_be_said_so(
    word: str, value: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "demo", word).inference.flip is value


def test_true_and_false_are_values_of_a_flag_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert not printed(capsys, "--inference.flip", "false", "demo").inference.flip
    config = printed(capsys, "--runtime.deterministic", "true", "exp093_2")
    assert config.runtime.deterministic
    assert config.model.encoder == "convnext_base"


def test_the_last_value_of_a_field_counts_however_it_is_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["demo", "--training.epochs", "3", "training.epochs=4", "--training.epochs=5"]
    for count, epochs in ((3, 3), (4, 4), (5, 5)):
        assert printed(capsys, *words[:count]).training.epochs == epochs
    assert printed(capsys, "demo", "data.crop_hw=[32,64]").data.crop_hw == (32, 64)


def test_a_folder_is_the_dataset_wherever_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path / "rooms of mine")
    expected = load_config([CONFIGS / "demo.toml"], {"data": {"root": str(data)}})
    assert printed(capsys, "demo", str(data)) == expected
    assert printed(capsys, str(data), "--config", "demo") == expected
    assert printed(capsys, str(data), "demo", "--data.root", str(data)) == expected


def test_a_folder_called_as_a_config_has_to_be_told_from_it(tmp_path: Path) -> None:
    (tmp_path / "lite").mkdir()
    with pytest.raises(ConfigError, match="type --config lite or --data.root lite"):
        sort_words(["lite"], ["lite"])
    assert sort_words(["./lite"], ["./lite"]) == ([], Path("lite"))


def test_a_run_is_named_by_its_configs_as_ever(tmp_path: Path) -> None:
    for words in (["exp093_2", "lite"], ["--config", str(CONFIGS / "exp093_2.toml"), "lite"]):
        options, flags = train._parse(words)
        _, run = train._resolve(options, flags, words)
        assert run.root == Path("runs/exp093_2-lite")


def test_no_such_config_suggests_the_nearest_and_tells_all() -> None:
    with pytest.raises(ConfigError) as caught:
        config_file("exp093_55")
    told = str(caught.value)
    assert "did you mean exp093_5 or" in told
    assert all(name in told for name in config_names())
    assert "\n" not in told


def test_a_name_as_stem_of_ones_own_file_is_the_engines(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[training]\nepochs = 3\n", encoding="utf-8")
    assert config_file("mine.toml") == Path("mine.toml")
    with pytest.raises(ConfigError, match="mine: No such file, and no config of that name"):
        config_file("mine")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged of a choice."""
    caplog.set_level("INFO", "engine.choice")
    return caplog


@pytest.mark.parametrize(
    ("case", "names", "why"),
    [
        ((False, ""), "exp093_2-lite", "no GPU is present"),
        ((True, ""), "exp093_2", "a GPU is present"),
        ((True, "runtime.device=cpu"), "exp093_2-lite", "the CPU is asked for"),
        ((False, "runtime.device=cuda"), "exp093_2", "cuda is asked for"),
        ((False, "model.input=rgbd"), "exp093_5-lite", "no GPU is present"),
    ],
)
def test_a_dataset_alone_gets_a_config_for_what_it_is_trained_on_and_the_reason_is_told(
    case: tuple[bool, str],
    names: str,
    why: str,
    tmp_path: Path,
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, flag = case
    monkeypatch.setattr(choice, "driver", lambda: "NVRM version" if gpu else None)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.11.0")
    words = ["--data.root", str(dataset(tmp_path / "data")), *flag.split()]
    config, run = train._resolve(*train._parse(words), words)
    assert run.root.name == names
    assert config.data.root == str(tmp_path / "data")
    first, *rest = told.messages
    assert first.startswith(f"{tmp_path / 'data'} has no config: taking {names.replace('-', ' ')},")
    assert why in first
    depth = [line for line in rest if "for RGB-D as input type exp093_5" in line]
    assert len(depth) == (flag != "model.input=rgbd")


def test_a_pytorch_without_cuda_trains_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "driver", lambda: "NVRM version")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.11.0+cpu")
    files = choice.choose_config(dataset(tmp_path / "data"), {})
    assert [file.stem for file in files] == ["exp093_2", "lite"]


@pytest.mark.parametrize(("hw", "count"), [((48, 64), 0), ((54, 96), 1), ((64, 48), 1)])
def test_frames_of_another_aspect_are_told_how_to_keep_it(
    hw: tuple[int, int],
    count: int,
    tmp_path: Path,
    told: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = dataset(tmp_path / "data", hw)
    choice.choose_config(data, {})
    lines = [line for line in told.messages if "stretched" in line]
    assert len(lines) == count
    if count:
        typed = lines[0].partition("type ")[2].split()
        config = printed(capsys, *typed, str(data))
        assert (config.data.fit, config.inference.base_hw) == ("keep", "training")


def test_what_is_told_of_the_choice_is_not_among_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.command import start_logging

    start_logging()
    data = dataset(tmp_path / "data")
    assert train.main(["--data.root", str(data), "--print-config"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("format = ")
    assert "has no config: taking" in shown.err


def test_without_config_and_dataset_the_demo_runs_as_ever(
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo = load_config([CONFIGS / "demo.toml"])
    assert printed(capsys) == printed(capsys, "--data.root", "rooms") == demo
    assert train.DEMO == named.CONFIGS / "demo.toml"


def test_a_run_that_is_named_is_its_own_config(
    copied_run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied_run.root
    config = printed(capsys, "--out", str(root))
    assert to_toml(config) == (root / "config.toml").read_text(encoding="utf-8")
