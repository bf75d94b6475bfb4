"""data.splits: folds are what a file says, in each of its forms; what does not fit is refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.data.split_file import find_split_file, read_split_file
from engine.mistakes import ConfigError
from engine.rundir import RunDir

FinishedRun = Any  # defined in conftest.py, which cannot be imported
STEMS = ["a1", "a2", "b1", "b2", "c.x"]
FOLDS = [0, 1, 0, 1, 1]
NNUNET = [{"val": ["a1", "b1"], "train": ["a2", "b2", "c.x"]}, {"val": ["a2", "b2", "c.x"]}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.csv", "stem,fold\na1,0\na2,1\nb1,0\nb2,1\nc.x,1\n"),
        ("s.csv", "stem, fold\n\na1.jpg, 0\na2.png, 1\nb1, 0\nb2, 1\nc.x.png, 1"),
        ("s.csv", "stem,split\na1,validation\na2,train\nb1,val\nb2,training\nc.x,train\n"),
        ("val.txt", "a1\nb1.jpg\n"),
        ("s.json", json.dumps(dict(zip(STEMS, FOLDS, strict=True)))),
        ("s.json", '{"train": ["a2", "b2", "c.x"], "validation": ["b1", "a1"]}'),
        ("splits_final.json", json.dumps(NNUNET)),
        ("splits_final.json", json.dumps(NNUNET[:1])),
    ],
)
def test_every_form_says_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    path = find_split_file(name, tmp_path)
    assert read_split_file(path, STEMS, 2).tolist() == FOLDS


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("s.csv", "stem,fold\na1,0\na2,1\n", "lacks 3 of 5 training frames (b1, b2, c.x); add"),
        ("s.csv", "stem,fold\na1,0\na2,1\nb9,1\n", "1 names that are no training frames: b9; a f"),
        ("s.csv", "stem,fold\na1,0\na1,1\n", "names a1 twice"),
        ("s.csv", "stem,fold\na1,0\na2\n", "has the line 'a2'; needed: a stem and a fold"),
        ("s.csv", "stem,fold\na1,dev\n", "has 'dev' for a1; needed: 0, 1, ... or train, valid"),
        ("s.csv", "frame;fold\na1;0\n", "names that are no training frames: a1;0, frame;fold"),
        ("s.csv", "a1,0\n", "begins with 'a1,0'; needed: the header 'stem,fold'"),
        ("s.csv", "", "is empty"),
        ("s.json", '{"a1": 0, "a2": 1, "b1": 3, "b2": 0, "c.x": 0}', "has the folds 0, 1, 3;"),
        ("s.json", '{"a1": 0, "a2": 1, "b1": 2, "b2": 0, "c.x": 0}', "type --data.folds 3"),
        ("s.json", '{"a1": 0, "a2": 0, "b1": 0, "b2": 0, "c.x": 0}', "has the folds 0; needed"),
        ("s.json", '{"train": ["a1"], "tset": ["a2"]}', "has the list 'tset'"),
        ("s.json", '[{"val": ["a1"], "train": ["a2"]}, {"val": ["a2", "b1"]}]', "fold 0 does not"),
        ("s.json", '[{"train": ["a2"]}]', "has no list val in fold 0"),
        ("s.json", "{", "is no JSON"),
        ("s.json", "[1]", "is other JSON"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_split_file(tmp_path / name, STEMS, 2)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'x.csv': no such file, here or in {tmp_path}"):
        find_split_file("x.csv", tmp_path)


def test_the_folds_are_the_identity_whoever_cut_them(
    finished_run: FinishedRun,
    tiny_root: Path,
    tiny_toml: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished_run.dir.root, run.root)
    folds = json.loads(run.folds.read_text(encoding="utf-8"))["fold_of"]
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_text(json.dumps(folds), encoding="utf-8")
    other.write_text(json.dumps({stem: 1 - fold for stem, fold in folds.items()}), encoding="utf-8")
    words = ["--config", str(tiny_toml), "--data.root", str(tiny_root), "--out", str(run.root)]
    assert train.main([*words, "--data.splits", str(same)]) == 0
    assert f"{run.root} is complete; nothing to do" in caplog.text
    with pytest.raises(ConfigError, match="holds other folds"):
        train.main([*words, "--data.splits", str(other)])
