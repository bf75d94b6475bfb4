"""What an earlier release wrote is read with what was true then: files, flags and run folders."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine import formats, predict, train
from engine.cli import load_config, parse_command_line, to_toml
from engine.config import Config
from engine.data.folds import FoldsFile
from engine.experiment import open_experiment
from engine.formats import FORMAT
from engine.mistakes import ConfigError
from engine.report.environment import describe_environment
from engine.resume import check_same_experiment, recorded_runtime
from engine.rundir import RunDir, load_run, run_format, unnamed_fields
from engine.runtime.recorded import Environment, RecordedRuntime
from engine.selection.members import open_members
from engine.suggest import Parser
from engine.sums import remove
from tests.fixtures.make import processor

FIXTURES = Path(__file__).resolve().parent / "fixtures"
FOLDERS = sorted(FIXTURES.glob("format*"))

OLD = """
[data]
source = "torch"
workers = 3
[training]
lr = 0.5
device = "cpu"
compile = "off"
[inference]
runtime = "openvino"
"""


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_told", [])


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the runs that one format left."""
    shutil.copytree(request.param, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def same_machine(folder: Path) -> bool:
    """Whether the runs were made on a processor and with packages that round as here."""
    there = Environment.read(folder / "finished" / "environment.json").versions
    here = describe_environment("").versions
    return there == here and (folder / "processor").read_text(encoding="utf-8") == processor()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def content(root: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def modern(root: Path, data: Path, tmp_path: Path) -> Path:
    """The folder's experiment as a config of the present format, [runtime] at its defaults."""
    config = load_run(RunDir(root), {"data": {"root": str(data)}})
    text = to_toml(config)
    return write(tmp_path / "modern.toml", text[: text.index("[runtime]")])


def test_every_format_has_a_fixture_folder() -> None:
    assert "format1" in [path.name for path in FOLDERS]


def test_a_stopped_run_of_each_format_goes_on_to_the_same_bytes(
    folder: Path, same_machine: bool, tiny_root: Path
) -> None:
    run = folder / "stopped"
    before = (run / "config.toml").read_bytes()
    arguments = ["--config", str(run / "config.toml"), "--data.root", str(tiny_root)]
    assert train.main([*arguments, "--out", str(run), "--folds", "1", "--resume"]) == 0
    resumed, whole = (path / "fold1" / "best.safetensors" for path in (run, folder / "finished"))
    ours, theirs = load_file(resumed), load_file(whole)
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        # The weights that the stopped run held differ from the finished one's by up to 3.4; plain
        # SSE instructions instead of AVX-512 make 7e-5.
        torch.testing.assert_close(tensor, theirs[name], atol=5e-3, rtol=0)
    assert not same_machine or resumed.read_bytes() == whole.read_bytes()
    assert run_format(RunDir(run)) == FORMAT or (run / "config.toml").read_bytes() == before


@pytest.mark.parametrize("changed", [False, True], ids=["its own config", "defaults"])
def test_a_finished_run_of_each_format_is_complete(
    folder: Path,
    changed: bool,
    tiny_root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = folder / "finished"
    before = content(run)
    config = modern(run, tiny_root, tmp_path) if changed else run / "config.toml"
    with caplog.at_level(logging.INFO, logger="engine"):
        arguments = ["--config", str(config), "--data.root", str(tiny_root), "--out", str(run)]
        assert train.main(arguments) == 0
    assert "is complete; nothing to do" in caplog.text
    assert (run / "seal.json").exists()
    remove(run / "seal.json")
    for name in ("log.txt", "report.html"):  # for people: both follow from the rest
        (run / name).unlink()
    assert content(run) == before


def test_a_finished_run_of_each_format_predicts(
    folder: Path, same_machine: bool, tiny_root: Path
) -> None:
    run = folder / "finished"
    assert predict.main([str(run), str(tiny_root / "test" / "image"), "--out", str(folder)]) == 0
    masks = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
    submission = np.load(run / "submission.npy")
    assert masks.shape == submission.shape == (5, 48, 64)
    assert (masks == submission).mean() > 0.999
    assert not same_machine or (masks == submission).all()


def test_finished_runs_of_each_format_can_be_blended(folder: Path) -> None:
    member, _ = open_members([folder / "finished"] * 2)
    folds = FoldsFile.read(folder / "finished" / "folds.json")
    assert dict(zip(member.manifest.stems, member.manifest.folds, strict=True)) == folds.fold_of
    assert member.leakage == folds.leakage


def test_a_run_of_each_format_is_itself_however_its_class_weights_are_ordered(
    folder: Path, tiny_root: Path
) -> None:
    run = RunDir(folder / "stopped")
    for weights in ({"tv": 2.0, "books": 1.5}, {"books": 1.5, "tv": 2.0}):
        flags: dict[str, Any] = {"training": {"class_weights": weights}}
        flags["data"] = {"root": str(tiny_root)}
        opened = open_experiment(load_run(run, flags), run)
        hashed = f'"config_hash": "{opened.weights_hash}"'
        assert hashed in load_metadata(run.root / "fold1" / "best.safetensors")
        opened.write_description()


def test_a_format_1_folder_keeps_the_hashes_of_what_it_was_begun_with(
    tiny_root: Path, tmp_path: Path
) -> None:
    stopped = FIXTURES / "format1" / "stopped"
    config = load_config([modern(stopped, tiny_root, tmp_path)])
    assert config.runtime == Config().runtime
    there = open_experiment(config, RunDir(stopped))
    elsewhere = open_experiment(config, RunDir(tmp_path / "new"))
    metadata = load_metadata(stopped / "fold1" / "best.safetensors")
    assert f'"config_hash": "{there.weights_hash}"' in metadata
    assert elsewhere.weights_hash != there.weights_hash


def load_metadata(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["roomsmith"])


def test_a_new_folder_says_its_format_first(tiny_config: Config, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run_format(run) is None
    open_experiment(tiny_config, run).write_description()
    assert run.config.read_text(encoding="utf-8").startswith(f"format = {FORMAT}\n")
    assert run_format(run) == FORMAT
    check_same_experiment(tiny_config, run)
    assert load_run(run) == tiny_config


@pytest.mark.parametrize("number", ["4", "0", "'2'", "[2]", "true", "1.0", "2.0"])
def test_a_format_that_is_not_known_is_refused(number: str, tmp_path: Path) -> None:
    file = write(tmp_path / "config.toml", f"format = {number}\n")
    with pytest.raises(ConfigError, match=r"config\.toml: format = .* this engine reads 1 to 3"):
        load_config([file])


def test_a_folder_without_a_config_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.toml"):
        load_run(RunDir(tmp_path))


def test_an_old_file_is_read_and_one_line_says_what_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="engine"):
        config = load_config([write(tmp_path / "old.toml", OLD)])
        load_config([tmp_path / "old.toml"])
    assert config == load_config(
        [],
        {
            "training": {"lr": 0.5},
            "runtime": {
                "source": "torch",
                "workers": 3,
                "device": "cpu",
                "inference": "openvino",
                "compile": "off",
                "cuda_graphs": "off",
            },
        },
    )
    assert [record.getMessage() for record in caplog.records] == [
        "config: data.source is runtime.source now, data.workers is runtime.workers now, "
        "training.device is runtime.device now, training.compile is runtime.compile now, "
        "inference.runtime is runtime.inference now"
    ]


@pytest.mark.parametrize("value", ["on", "auto"])
def test_compile_was_the_switch_of_cuda_graphs_too(value: str) -> None:
    off: formats.Sections = {"training": {"compile": "off"}, "runtime": {"cuda_graphs": "on"}}
    assert load_config([], off).runtime.cuda_graphs == "on"
    runtime = load_config([], {"training": {"compile": value}}).runtime
    assert (runtime.compile, runtime.cuda_graphs) == (value, "auto")


def test_a_new_name_wins_over_the_old_one_beside_it_and_a_later_old_one_over_both(
    tmp_path: Path,
) -> None:
    both = "[training]\nthreads = 1\n[runtime]\nthreads = 2\n"
    file = write(tmp_path / "both.toml", both)
    assert load_config([file]).runtime.threads == 2
    assert load_config([file], {"training": {"threads": "3"}}).runtime.threads == 3


def test_old_flags_are_read() -> None:
    parser = Parser()
    arguments = ["--training.threads", "3", "--data.source=torch", "--training.epochs", "7"]
    options, flags = parse_command_line(parser, [*arguments, "--inference.runtime", "openvino"])
    assert vars(options).keys().isdisjoint(formats.MOVED)
    config = load_config([], flags)
    assert (config.runtime.threads, config.runtime.source) == (3, "torch")
    assert (config.runtime.inference, config.training.epochs) == ("openvino", 7)
    assert "--training.threads" not in parser.format_help()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nthreads = -1", "runtime.threads = -1: Input should be greater"),
        ("runtime = 3\n[training]\nthreads = 1", "runtime = 3: Input should be a valid"),
        ("training = 3\n", "training = 3: Input should be a valid"),
    ],
)
def test_a_mistake_in_an_old_file_is_told_as_any_other(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([write(tmp_path / "old.toml", text)])
    assert f"{tmp_path / 'old.toml'}: {message}" in str(caught.value)


def test_what_a_caller_gives_stays_as_it_is(tmp_path: Path) -> None:
    flags: dict[str, dict[str, Any]] = {"training": {"threads": 1}}
    load_config([], flags)
    assert flags == {"training": {"threads": 1}}


def test_an_older_folder_lacks_a_new_field_and_gets_the_default_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if `training.epochs` had been added with the default 7, which is 50 today.
    monkeypatch.setitem(formats.INTRODUCED, "training", {"epochs": 7})
    run = RunDir(tmp_path)
    write(run.config, "[training]\nlr = 0.5\n")
    assert load_run(run).training.epochs == 7
    write(run.config, "[training]\nepochs = 9\n")
    assert load_run(run).training.epochs == 9
    assert load_config([]).training.epochs == 50


def test_an_older_folder_means_the_zooms_of_its_time_and_so_does_what_goes_on_there(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    assert unnamed_fields(run) == {}
    write(run.config, "format = 2\n[training]\nlr = 0.5\n")
    mine = write(tmp_path / "mine.toml", "[training]\nlr = 0.5\n")
    there = load_run(run)
    assert (there.data.fit, there.inference.base_hw) == ("stretch", "own")
    assert load_config([mine], None, unnamed_fields(run)) == there
    new = load_config([mine])
    assert (new.data.fit, new.inference.base_hw) == ("keep", "training")
    with pytest.raises(ConfigError, match=r"data\.fit: stretch -> keep\n.*own -> training"):
        check_same_experiment(new, run)
    # What the folder names is asked for anew: a command that leaves it out means the default.
    write(run.config, to_toml(there))
    assert not any(unnamed_fields(run).values())
    assert load_run(run) == there


def test_a_fold_keeps_its_record_and_one_of_format_1_the_folders_config(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run.config, '[training]\nkernels = "reference"\nthreads = 1\n')
    asked = recorded_runtime(run, 0)
    assert (asked.kernels, asked.threads, asked.device) == ("reference", 1, "auto")
    record = RecordedRuntime(
        device="cpu",
        source="torch",
        kernels="fused",
        compile="off",
        cuda_graphs="off",
        threads=2,
        precision="fp32",
    )
    record.write(run.runtime(0))
    assert recorded_runtime(run, 0) == record
    assert recorded_runtime(run, 1) == asked
