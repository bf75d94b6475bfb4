"""The list of the commands, their names, and how a word becomes one of them."""

import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

from engine import verbs
from engine.mistakes import ConfigError
from engine.runtime import machine
from engine.verbs import VERBS, main, program

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the console script had been called."""
    monkeypatch.setattr(sys, "argv", ["bin/roomsmith"])


def test_every_verb_is_a_module_with_a_main_and_a_line_of_its_own() -> None:
    for name, verb in VERBS.items():
        assert find_spec(verb.module), f"{name}: there is no {verb.module}"
        assert callable(resolve_name(f"{verb.module}:main"))
        assert verb.summary
        assert "\n" not in verb.summary
    assert len({verb.summary for verb in VERBS.values()}) == len(VERBS)


def test_without_a_verb_all_are_listed_in_a_line_each(run_command: Command) -> None:
    done = run_command("engine")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [(name, verb.summary) for name, verb in VERBS.items()] == [
        tuple(line) for line in lines if len(line) == 2 and line[0] in VERBS
    ]


def test_a_verb_gets_the_words_behind_it_and_its_answer_is_the_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[str]] = []

    def compare(words: list[str]) -> int:
        given.append(words)
        return 7

    monkeypatch.setattr("engine.compare.main", compare)
    assert main(["compare", "--help", "compare"]) == 7
    assert given == [["--help", "compare"]]


@pytest.mark.parametrize("verb", VERBS)
def test_a_usage_says_what_was_called(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for called, shown in (("bin/roomsmith", f"roomsmith {verb} "), ("x.py", f"engine.{verb} ")):
        monkeypatch.setattr(sys, "argv", [called])
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        assert shown in capsys.readouterr().out.splitlines()[0]
        assert program(verb) in shown or shown.strip() in program(verb)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("tran", "unknown verb 'tran'; did you mean train?"),
        ("inspect", "unknown verb 'inspect'; the verbs are train, predict, blend"),
        ("--verson", "unknown flag '--verson'; "),
    ],
)
def test_an_unknown_verb_suggests_the_nearest_or_tells_all(word: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main([word, "more"])
    assert str(caught.value).startswith(told)


def test_a_mistake_in_the_verb_is_one_line_and_exit_code_2(run_command: Command) -> None:
    done = run_command("engine", "predcit", "runs/x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown verb 'predcit'; did you mean predict?\n"


def test_the_console_script_is_installed_and_runs_a_verb(
    script: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = resolve_name(project["scripts"]["roomsmith"])
    monkeypatch.setattr(sys, "argv", ["bin/roomsmith", "train", "--training.epoch", "3"])
    with pytest.raises(SystemExit) as stop:
        entry()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: command line: unknown flag --training.epoch;")


def test_a_stopped_training_is_told_to_resume_by_either_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(words: list[str]) -> int:
        raise KeyboardInterrupt

    for verb in ("train", "compare"):
        monkeypatch.setattr(sys, "argv", ["bin/roomsmith", verb])
        monkeypatch.setattr(f"engine.{verb}.main", stopped)
        with pytest.raises(SystemExit):
            verbs.run()
        assert capsys.readouterr().err.rstrip().endswith(VERBS[verb].go_on)
    assert "--resume" in VERBS["train"].go_on


def test_the_version_names_release_commit_python_and_torch_without_importing_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "commit", lambda: "abc123-dirty")
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    release, torch = map(importlib.metadata.version, ("roomsmith", "torch"))
    python = sys.version.split()[0]
    shown = f"roomsmith {release}, commit abc123-dirty, Python {python}, torch {torch}\n"
    assert (stop.value.code, capsys.readouterr().out) == (0, shown)
    code = (
        "import sys; from engine.verbs import version; version(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_is_installed_inside_another_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "env" / "engine" / "runtime"
    installed.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(machine, "__file__", str(installed / "machine.py"))
    assert machine.commit() is None
