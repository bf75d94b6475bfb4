"""The comparison of two runs: what it prints, and which pairs it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import compare
from engine.report.comparison import open_pair
from engine.rundir import RunDir
from engine.selection.statistics import paired_bootstrap
from engine.whole import write_text

FinishedRun = Any  # defined in conftest.py, which cannot be imported


@pytest.fixture
def pair(finished_run: FinishedRun, rgbd_run: RunDir, tmp_path: Path) -> tuple[RunDir, RunDir]:
    """An RGB and an RGB-D run on the same frames, in six groups, that a test may spoil."""
    runs = RunDir(tmp_path / "rgb"), RunDir(tmp_path / "rgbd")
    for run, source in zip(runs, (finished_run.dir, rgbd_run), strict=True):
        run.root.mkdir()
        for path in (source.config, source.folds, source.atlas, source.frame_counts):
            shutil.copy(path, run.root)
        change(run.atlas, groups={"kind": "scene", "count": 6, "of": [n // 2 for n in range(12)]})
    return runs


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def change(path: Path, **values: Any) -> None:
    write_text(path, json.dumps({**read(path), **values}))


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert compare.main(list(map(str, arguments))) == 0
    return " ".join(capsys.readouterr().out.replace("│", " | ").split())


def test_two_runs_are_told_apart_by_the_paired_bootstrap(
    pair: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(capsys, pair[0].root, pair[1].root, "--resamples", 500, "--seed", 3)
    counts = [np.load(run.frame_counts) for run in pair]
    group_N = np.arange(12) // 2
    expected = paired_bootstrap(counts[0], counts[1], group_N, resamples=500, seed=3).miou
    assert expected.low is not None
    a, b = (read(run.atlas)["miou"] for run in pair)
    assert f"12 frames, blocked folds, leakage {200 / 12:.1f} %; by content " in text
    assert "; groups: scenes" in text
    assert (
        f"OOF mIoU at store resolution | {a:.4f} | {b:.4f} | {expected.difference:+.4f} | "
        f"{expected.low:+.4f} .. {expected.high:+.4f} | {expected.p:.3f} | 6"
    ) in text
    iou = [read(run.atlas)["classes"]["wall"]["iou"] for run in pair]
    assert f"wall | {iou[0]:.4f} | {iou[1]:.4f} | {iou[0] - iou[1]:+.4f}" in text


def test_a_run_does_not_differ_from_itself(
    pair: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(capsys, pair[0].root, pair[0].root)
    assert "| +0.0000 | +0.0000 .. +0.0000 | 1.000 | 6" in text


def test_too_few_groups_are_said_so(
    finished_run: FinishedRun,
    rgbd_run: RunDir,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "too few groups | - | 1" in shown(capsys, finished_run.dir.root, rgbd_run.root)


def other_folds(run: RunDir) -> None:
    folds = read(run.folds)
    change(run.folds, fold_of={stem: 1 - fold for stem, fold in folds["fold_of"].items()})


def other_frames(run: RunDir) -> None:
    folds = read(run.folds)
    change(run.folds, fold_of={f"x{stem}": fold for stem, fold in folds["fold_of"].items()})


def other_classes(run: RunDir) -> None:
    names = read(run.atlas)["classes"]
    change(run.atlas, classes={f"x{name}": value for name, value in names.items()})


def other_scenes(run: RunDir) -> None:
    change(run.atlas, groups={"kind": "scene", "count": 12, "of": list(range(12))})


def other_labels(run: RunDir) -> None:
    count_NCC = np.load(run.frame_counts)
    count_NCC[7, 0, 0] += 1
    np.save(run.frame_counts, count_NCC)


def cut_file(run: RunDir) -> None:
    run.frame_counts.write_bytes(run.frame_counts.read_bytes()[:500])


def missing_frame(run: RunDir) -> None:
    np.save(run.frame_counts, np.load(run.frame_counts)[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_folds, "have other folds; compare runs with the same"),
        (other_frames, "have other training frames"),
        (other_classes, "have other classes"),
        (other_scenes, "have other scenes"),
        (other_labels, "scored on other labels: 1 of 12 frames differ .* first frame 7"),
        (cut_file, r"frames\.npy is damaged"),
        (missing_frame, r"frames\.npy holds \(11, 13, 13\), atlas\.json says \(12, 13, 13\)"),
        (lambda run: run.frame_counts.unlink(), r"has no frames\.npy; complete it: python -m"),
        (lambda run: run.atlas.unlink(), r"has no atlas\.json; complete it: python -m"),
        (lambda run: run.config.unlink(), r"is not a run folder: it has no config\.toml"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    spoil: Callable[[RunDir], None], message: str, pair: tuple[RunDir, RunDir]
) -> None:
    spoil(pair[1])
    with pytest.raises(ValueError, match=message):
        compare.main([str(run.root) for run in pair])


def test_a_pair_holds_both_runs_counts(pair: tuple[RunDir, RunDir]) -> None:
    for opened, run in zip(open_pair(*pair), pair, strict=True):
        assert np.array_equal(opened.count_NCC, np.load(run.frame_counts))
        assert opened.atlas.groups.kind == "scene"
        assert opened.atlas.groups.of == [n // 2 for n in range(12)]
