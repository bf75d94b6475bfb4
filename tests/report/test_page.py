"""`report.html`: what it tells of a run, what it does without, and that it fails nobody."""

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import blend, compare, evaluate, report_command, train
from engine.command import start_logging
from engine.config import Config, ReportConfig
from engine.mistakes import ConfigError
from engine.report.evaluation import Evaluation
from engine.report.page import write
from engine.report.page.frames import ShownFrames, frame_scores
from engine.report.seal import is_sealed
from engine.rundir import RunDir, load_run
from tests.report.conftest import IMAGE, MATHS, SCRIPT

FinishedRun = Any  # defined in conftest.py, which cannot be imported

FIXTURES = Path(__file__).parent.parent / "fixtures"
SECTIONS = ["what", "training", "classes", "calibration", "errors", "frames"]
SECTIONS += ["leakage", "cost", "parity", "commands"]


class Reader(HTMLParser):
    """The elements of a page, its text and where its sections are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(path: Path) -> Reader:
    return Reader(path.read_text("utf-8"))


def made(run: RunDir, tmp_path: Path, *flags: object) -> Reader:
    out = tmp_path / "page.html"
    assert report_command.main([str(run.root), "--out", str(out), *map(str, flags)]) == 0
    return read(out)


def test_a_page_has_all_parts(finished_run: FinishedRun, page: Path) -> None:
    found, summary = read(page), finished_run.summary
    ids = [attributes.get("id") for attributes in found.all("section")]
    assert ids == SECTIONS
    assert f"{summary['oof']['miou']:.4f}" in found.text
    assert {"image", "truth", "prediction", "error"} <= {
        (attributes["alt"] or "").partition(" of ")[0] for attributes in found.all("img")
    }
    drawn = {attributes["aria-label"] for attributes in found.all("svg")}
    assert {"Losses by epoch", "mIoU by epoch", "Learning rate by epoch"} <= drawn
    assert {"Reliability: accuracy by confidence", "mIoU and NLL by T"} <= drawn
    assert "of the validation frames, unweighted (dashed)" in found.text


def test_a_page_holds_all_that_it_shows_and_runs_nothing(page: Path) -> None:
    text = page.read_text("utf-8")
    found = Reader(text)
    assert len(text) < 5_000_000
    assert not found.all("script")
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    addresses = set(re.findall(r"https?://[^\"' )<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policy = next(m["content"] for m in found.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_ids_are_unique_and_every_reference_has_its_own(page: Path) -> None:
    text = page.read_text("utf-8")
    ids = [attributes["id"] for _, attributes in Reader(text).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert set(referred) <= set(ids)


def test_a_run_ends_with_its_page_of_always_the_same_bytes(
    copied_run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not copied_run.report.exists()
    start_logging()
    out = ["--config", str(copied_run.config), "--out", str(copied_run.root)]
    assert train.main([*out, "--report.page", "true"]) == 0
    assert f"{copied_run.report} shows it" in capsys.readouterr().out
    first = copied_run.report.read_bytes()
    curves = copied_run.curves.read_bytes()
    copied_run.curves.unlink()
    assert report_command.main([str(copied_run.root)]) == 0
    assert copied_run.curves.read_bytes() == curves
    assert copied_run.report.read_bytes() == first
    # It is no part of the results: the seal holds.
    assert is_sealed(load_run(copied_run), copied_run)


def test_names_are_text_wherever_they_stand(hostile_run: RunDir, tmp_path: Path) -> None:
    page = made(hostile_run, tmp_path)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert not page.all("script")
    assert all(attributes.get("src") != "x" for attributes in page.all("img"))
    assert all(name in page.text for name in (IMAGE, SCRIPT, MATHS))
    assert not any(name in text for name in (IMAGE, SCRIPT))
    # In drawings too, cut to their length, and as it is: neither mathematics nor a template.
    assert text.count("$\\frac{1}{x}$") >= 3
    assert "&lt;script&gt;alert(2)" in text
    assert len(page.all("img")) > 40  # the frames are found under their names


def test_without_the_dataset_it_shows_no_frames_and_says_so(
    copied_run: RunDir, tiny_root: Path, tmp_path: Path
) -> None:
    text = copied_run.config.read_text("utf-8").replace(str(tiny_root), str(tmp_path / "gone"))
    copied_run.config.write_text(text, "utf-8")
    page = made(copied_run, tmp_path)
    assert not page.all("img")
    assert "No pictures of frames: the dataset folder" in page.text
    assert made(copied_run, tmp_path, "--data", tiny_root).all("img")


def test_a_frame_whose_label_changed_is_not_shown(
    copied_run: RunDir, tiny_root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_root, data)
    shutil.copy(data / "train" / "label" / "001.png", data / "train" / "label" / "000.png")
    (data / "train" / "image" / "002.png").write_bytes(b"no picture")
    (data / "train" / "image" / "003.png").unlink()
    page = made(copied_run, tmp_path, "--data", data)
    assert "Frame 000 is not shown: its label is not the one that was counted." in page.text
    assert "Frame 002 is not shown: it cannot be read (" in page.text
    assert "Frame 003 is not shown: it is no longer in the dataset." in page.text
    assert page.all("img")


@pytest.mark.parametrize("name", ["format1", "format2", "format3"])
def test_a_run_of_an_older_release_says_what_was_not_measured(name: str, tmp_path: Path) -> None:
    page = made(RunDir(FIXTURES / name / "finished"), tmp_path)
    measured = "leakage_content" in (FIXTURES / name / "finished" / "folds.json").read_text("utf-8")
    assert ("By content: not measured." in page.text) != measured
    assert "from eager float32 was not measured" in page.text
    assert "Calibration (NLL, ECE): not measured." in page.text


def test_a_run_that_is_not_finished_says_how_to_complete_it(copied_run: RunDir) -> None:
    copied_run.summary.unlink()
    with pytest.raises(ConfigError, match=r"no summary\.json; complete it: python -m engine"):
        report_command.main([str(copied_run.root)])
    with pytest.raises(ConfigError, match="is not a run folder"):
        report_command.main([str(copied_run.oof)])


def test_a_page_that_cannot_be_made_fails_no_run(
    copied_run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    copied_run.atlas.write_text("{}", "utf-8")
    write.report_at_the_end(copied_run)
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "\n" not in line
    assert f"report.html is not written ({copied_run.atlas} is damaged" in line
    assert line.endswith(f"; python -m engine.report {copied_run.root} makes it")
    assert not copied_run.report.exists()


def test_a_blend_ends_with_a_page_of_its_weights(
    untrained_run: Callable[..., RunDir], tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config.model_copy(update={"report": ReportConfig(page=True)})
    roots = [str(untrained_run(tmp_path / f"run{seed}", seed, config).root) for seed in (0, 1)]
    out = RunDir(tmp_path / "both")
    assert blend.main([*roots, "--out", str(out.root), "--no-submission"]) == 0
    found = read(out.report)
    assert "mIoU of the blend by the second run's share" in {
        attributes["aria-label"] for attributes in found.all("svg")
    }
    assert found.all("img")
    first = out.report.read_bytes()
    assert report_command.main([str(out.root)]) == 0
    assert out.report.read_bytes() == first
    # Of runs that are gone there are no predictions left.
    shutil.rmtree(roots[0])
    assert report_command.main([str(out.root)]) == 0
    found = read(out.report)
    assert not found.all("img")
    assert "the runs of the blend are not where they were" in found.text


def test_an_evaluation_ends_with_a_page(
    copied_run: RunDir, tiny_root: Path, tmp_path: Path
) -> None:
    text = copied_run.config.read_text("utf-8").replace("page = false", "page = true")
    copied_run.config.write_text(text, "utf-8")
    out = RunDir(tmp_path / "out")
    assert evaluate.main([str(copied_run.root), str(tiny_root), "--out", str(out.root)]) == 0
    found = read(out.report)
    ids = [attributes.get("id") for attributes in found.all("section")]
    assert ids == ["what", "classes", "calibration", "errors", "frames", "commands"]
    assert f"{Evaluation.read(out.evaluation).miou.value:.4f}" in found.text
    assert "12 of the 12 frames are among those that the networks were trained on" in found.text
    assert len(found.all("img")) == 4 * 12
    # Predictions are not kept.
    assert report_command.main([str(out.root)]) == 0
    found = read(out.report)
    assert not found.all("img")
    assert "No pictures of frames: predictions are not kept." in found.text


def test_two_runs_stand_side_by_side(
    finished_run: FinishedRun, rgbd_run: RunDir, tmp_path: Path
) -> None:
    out = tmp_path / "both.html"
    roots = [str(finished_run.dir.root), str(rgbd_run.root)]
    assert compare.main([*roots, "--report", str(out), "--resamples", "200"]) == 0
    page = read(out)
    assert "model.input" in page.text
    alts = {(attributes["alt"] or "").partition(" of ")[0] for attributes in page.all("img")}
    assert alts == {"image", "truth", "prediction A", "error A", "prediction B", "error B"}
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert labels.count("Losses by epoch") == 2
    assert "Differences with intervals" in labels


def test_several_runs_make_a_leaderboard(
    copied_run: RunDir, rgbd_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(rgbd_run.root, tmp_path / "rgbd")
    assert report_command.main([str(copied_run.root), "rgbd"]) == 0
    page = read(tmp_path / "leaderboard.html")
    assert copied_run.report.exists()  # so that the link leads somewhere
    links = [a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert set(links) == {"run/report.html", "rgbd/report.html"}
    assert all((tmp_path / (link or "")).exists() for link in links)
    assert "model.input = rgbd" in page.text
    rows = [a["style"] or "" for a in page.all("div") if "--miou" in (a.get("style") or "")]
    mious = [np.load(run.frame_counts).sum(axis=0) for run in (copied_run, rgbd_run)]
    assert len(rows) == len(mious)
    assert rows[0].startswith("--miou: 0;")
    assert rows[1].startswith("--miou: 1;")


def test_frames_are_the_worst_those_around_the_median_and_the_best() -> None:
    miou_N = np.array([0.5, 0.1, np.nan, 0.9, *np.linspace(0.2, 0.8, 97)])
    found = ShownFrames.of(miou_N)
    assert found.worst[0] == 1
    assert found.best[0] == 3
    median = np.nanmedian(miou_N)
    assert np.abs(miou_N[found.typical] - median).max() < 0.03
    shown = [*found.worst, *found.typical, *found.best]
    assert len(shown) == len(set(shown)) == 14
    assert 2 not in shown


@pytest.mark.parametrize("count", range(6))
def test_few_frames_are_shown_once_each(count: int) -> None:
    found = ShownFrames.of(np.linspace(0, 1, count))
    shown = [*found.worst, *found.typical, *found.best]
    assert sorted(shown) == list(range(count))


def test_a_frame_without_labels_has_no_score() -> None:
    count_NCC = np.zeros((2, 3, 3), np.uint32)
    count_NCC[1] = np.diag([3, 0, 1])
    assert np.isnan(frame_scores(count_NCC)[0])
    assert frame_scores(count_NCC)[1] == 1
