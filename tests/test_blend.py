"""The command: several runs in, weights, figures and a submission out."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from engine import blend, predict
from engine.command import run_main
from engine.config import Config
from engine.mistakes import ConfigError
from engine.report.verify import verify
from engine.rundir import RunDir
from engine.selection.blend_search import Blend
from engine.sums import remove
from tests.stopping import StoppedError, stop_at

FinishedRun = Any  # defined in conftest.py, which cannot be imported
MakeRun = Callable[..., RunDir]


@pytest.fixture(scope="module")
def pair(untrained_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs; nobody may change them."""
    folder = tmp_path_factory.mktemp("pair")
    return [untrained_run(folder / name, seed).root for seed, name in enumerate(("one", "two"))]


@pytest.fixture(scope="module")
def finished_blend(pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Their blend, compared with the plain SLSQP; nobody may change it."""
    out = tmp_path_factory.mktemp("blend") / "both"
    run(*pair, "--out", out, "--compare")
    return RunDir(out)


def run(*arguments: object) -> None:
    assert blend.main(list(map(str, arguments))) == 0


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_folder_of_a_blend_holds_its_files_and_no_others(finished_blend: RunDir) -> None:
    names = ["atlas.json", "blend.json", "frames.npy", "submission.csv", "submission.npy"]
    names += ["submission.zip", "summary.json", "worst.png"]
    assert sorted(path.name for path in finished_blend.root.iterdir()) == sorted(
        [*(f".{name}.sum" for name in names), *names, "log.txt"]
    )


def test_it_says_what_the_blend_gains_and_what_that_is_worth(finished_blend: RunDir) -> None:
    found = read(finished_blend.blend)
    weights = [member["weight"] for member in found["members"]]
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    best = max(member["miou"] for member in found["members"])
    assert found["members"][found["best_member"]]["miou"] == best
    assert found["gain"]["difference"] == pytest.approx(found["oof"]["miou"] - best)
    assert found["gain"]["difference"] > 0
    assert best < found["honest"]["miou"] <= found["oof"]["miou"]
    assert len(found["honest"]["weights"]) == 2
    assert len(found["curve"]["share"]) == len(found["curve"]["miou"]) == 1001
    peak = found["curve"]["peak"]
    assert peak["miou"] == pytest.approx(found["oof"]["miou"], abs=1e-12)
    assert peak["share"] == weights[1]
    assert max(found["curve"]["miou"]) <= peak["miou"]
    assert [found["curve"]["miou"][at] for at in (0, -1)] == pytest.approx(
        [member["miou"] for member in found["members"]], abs=1e-12
    )
    plain = found["plain_slsqp"]
    assert plain["weights"] == [0.5, 0.5]
    assert plain["miou"] == pytest.approx(found["curve"]["miou"][500], abs=1e-12)
    assert plain["miou"] <= found["oof"]["miou"]
    assert 0 < found["leakage"] <= 1


def test_the_summary_has_the_shape_of_a_runs(
    finished_blend: RunDir, finished_run: FinishedRun
) -> None:
    found = read(finished_blend.summary)
    assert set(found["oof"]) == set(finished_run.summary["oof"])
    assert found["oof"]["temperature"] == 1.0
    count = np.array(found["oof"]["confusion"])
    assert np.trace(count) / count.sum() == pytest.approx(found["oof"]["pixel_acc"])
    per_class = [value for value in found["oof"]["iou"].values() if value is not None]
    assert np.mean(per_class) == pytest.approx(found["oof"]["miou"])
    assert [fold["fold"] for fold in found["folds"]] == [0, 1]
    assert found["leakage"] == finished_run.summary["leakage"]
    assert found["seconds"]["total"] == pytest.approx(
        sum(value for stage, value in found["seconds"].items() if stage != "total"), abs=0.01
    )
    assert set(found["seconds"]) == {
        "prepare",
        "search",
        "count",
        "calibration",
        "atlas",
        "compiling",
        "plain_slsqp",
        "submission",
        "total",
    }


def test_the_submission_blends_what_the_runs_predict(
    finished_blend: RunDir, pair: list[Path], tiny_config: Config
) -> None:
    import torch
    import torch.nn.functional as F

    from engine.frames.index import DatasetSpec, load_dataset
    from engine.runtime.device import set_up_device
    from engine.views.predictor import open_predictor

    array = np.load(finished_blend.submission)
    assert array.shape == (5, 48, 64)
    data, policy = tiny_config.data, set_up_device(tiny_config.runtime)
    dataset = load_dataset(Path(data.root), DatasetSpec(data.classes, data.small_classes))
    weights = [member["weight"] for member in read(finished_blend.blend)["members"]]
    masks = []
    predictors = [open_predictor(tiny_config, RunDir(root), range(2), policy) for root in pair]
    for frames in predictors[0].reader.batches(dataset.test.samples):
        blended = torch.zeros(())
        for predictor, weight in zip(predictors, weights, strict=True):
            prob = predictor.at(1.0).probabilities(frames)
            blended = blended + weight * F.interpolate(prob[:, 0], frames.hw, mode="bilinear")
        masks.append(blended.argmax(1).numpy())
    assert (np.concatenate(masks) != array).mean() < 1e-3
    with zipfile.ZipFile(finished_blend.submission_zip) as archive:
        assert archive.namelist() == ["submission.npy"]


def test_a_blend_predicts_new_images_of_mixed_sizes_by_its_weights(
    finished_blend: RunDir, pair: list[Path], tiny_config: Config, tmp_path: Path
) -> None:
    folder, test = tmp_path / "photos", Path(tiny_config.data.root) / "test" / "image"
    shutil.copytree(test, folder)
    rng = np.random.default_rng(0)
    for name, hw in (("wide.png", (40, 90)), ("high.jpg", (101, 33))):
        Image.fromarray(rng.integers(0, 256, (*hw, 3), dtype=np.uint8)).save(folder / name)

    def masks(out: str, *arguments: object) -> dict[str, Any]:
        assert predict.main([*map(str, arguments), "--out", str(tmp_path / out)]) == 0
        paths = sorted((tmp_path / out).iterdir())
        return {path.stem: np.array(Image.open(path)) for path in paths}

    found = masks("blend", finished_blend.root, folder)
    submitted = np.load(finished_blend.submission)
    assert all(np.array_equal(found[f"{n:03d}"], submitted[n]) for n in range(5))
    assert (found["wide"].shape, found["high"].shape) == ((40, 90), (101, 33))
    alike = masks("alike", *pair, folder)
    assert any((alike[stem] != found[stem]).any() for stem in found)
    with pytest.raises(ConfigError, match="is a blend, which cannot be mixed again"):
        masks("none", finished_blend.root, pair[0], folder)


def test_a_blend_whose_run_is_gone_names_it(finished_blend: RunDir, tmp_path: Path) -> None:
    moved = tmp_path / "blend"
    shutil.copytree(finished_blend.root, moved)
    text = (moved / "blend.json").read_text("utf-8")
    remove(moved / "blend.json")
    named = read(finished_blend.blend)["members"][0]["run"]
    (moved / "blend.json").write_text(text.replace(named, "gone/one"), encoding="utf-8")
    with pytest.raises(ConfigError, match="blends the run gone/one, which is neither there nor be"):
        predict.main([str(moved), str(tmp_path)])


def test_the_table_shows_members_blend_and_honest_estimate(
    finished_blend: RunDir,
    pair: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    run(*pair, "--out", finished_blend.root, "--compare")
    shown = capsys.readouterr().out
    found = read(finished_blend.blend)
    for figure in (found["oof"]["miou"], found["honest"]["miou"], found["plain_slsqp"]["miou"]):
        assert f"{figure:.4f}" in shown
    assert "honest" in shown
    assert shown.count(f"{found['leakage']:.1%}") >= 5
    # A long path goes on in the row below.
    rows = (line.split("│") for line in shown.splitlines() if line.startswith("│"))
    assert str(pair[1]) in "".join(row[1].strip() for row in rows)


def test_what_stands_is_not_done_again(
    finished_blend: RunDir, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(blend, "_open_data", forbidden)
    run(*pair, "--out", finished_blend.root, "--compare")


def test_a_run_blended_with_itself_gains_nothing(finished_run: FinishedRun, tmp_path: Path) -> None:
    root = finished_run.dir.root
    run(root, root, "--out", tmp_path / "self")
    found = read(tmp_path / "self" / "blend.json")
    for gain in (found["gain"], found["honest"]["gain"]):
        assert gain["difference"] == 0
    # Stored in half precision at half size, the figures differ a little from the run's own.
    assert found["oof"]["miou"] == pytest.approx(finished_run.summary["oof"]["miou"], abs=0.02)
    assert np.array_equal(
        np.load(tmp_path / "self" / "submission.npy"), np.load(finished_run.dir.submission)
    )


@pytest.fixture(scope="module")
def without_submission(pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Their equal blend, its test frames left for later; nobody may change it."""
    out = RunDir(tmp_path_factory.mktemp("blend") / "later")
    run(*pair, "--out", out.root, "--no-submission", "--method", "equal")
    return out


@pytest.fixture(scope="module")
def completed(
    without_submission: RunDir, pair: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The same after a later call; nobody may change it."""
    root = tmp_path_factory.mktemp("blend") / "completed"
    out = RunDir(shutil.copytree(without_submission.root, root))
    run(*pair, "--out", out.root, "--method", "equal")
    return out


def test_the_submission_may_wait_for_a_later_call(
    without_submission: RunDir, completed: RunDir
) -> None:
    assert not without_submission.submission.exists()
    assert "submission" not in read(without_submission.summary)["seconds"]
    assert np.load(completed.submission).shape == (5, 48, 64)
    assert completed.blend.read_bytes() == without_submission.blend.read_bytes()


@pytest.mark.parametrize(
    "moment",
    [
        ("renamed .submission.json 2", False),
        ("renamed .submission.json 2", True),
        ("write submission.zip 1", True),
        ("renamed submission.zip 1", True),
        ("renamed submission.npy 1", True),
        ("renamed submission.npy 1", False),
    ],
)
def test_a_stopped_submission_goes_on_to_the_same_bytes(
    moment: tuple[str, bool],
    without_submission: RunDir,
    completed: RunDir,
    pair: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = RunDir(shutil.copytree(without_submission.root, tmp_path / "parts"))
    event, summarised = moment
    if not summarised:
        parts.summary.unlink()
    with monkeypatch.context() as patch:
        stop_at(event, patch)
        with pytest.raises(StoppedError):
            run(*pair, "--out", parts.root, "--method", "equal")
    run(*pair, "--out", parts.root, "--method", "equal")
    for path in (completed.submission, completed.submission_zip):
        assert (parts.root / path.name).read_bytes() == path.read_bytes()
    assert "submission" in read(parts.summary)["seconds"]
    assert {path.name for path in parts.root.iterdir()} == {
        path.name for path in completed.root.iterdir()
    }


def test_its_calibration_is_that_of_the_weighted_stores(
    finished_blend: RunDir, pair: list[Path], tiny_root: Path
) -> None:
    found = Blend.read(finished_blend.blend)
    assert found.calibration is not None
    (one,) = found.calibration.temperatures
    losses, right = list[float](), list[float]()
    for n, path in enumerate(sorted((tiny_root / "train" / "label").iterdir())):
        label_HW = torch.from_numpy(np.array(Image.open(path)))[4::8, 4::8].long()
        prob_CHW = torch.zeros(13, *label_HW.shape, dtype=torch.float64)
        for run, member in zip(pair, found.members, strict=True):
            half = torch.from_numpy(np.load(run / "oof" / "prob.npy")[n])[None].double()
            wide = F.interpolate(half, (48, 64), mode="bilinear")[0, :, 4::8, 4::8]
            prob_CHW += wide * float(member.weight)  # type: ignore[arg-type]
        prob_CN = (prob_CHW / prob_CHW.sum(0))[:, label_HW != 255]
        label_N = label_HW[label_HW != 255]
        losses += (-prob_CN[label_N, torch.arange(len(label_N))].log()).tolist()
        right += (prob_CN.argmax(0) == label_N).double().tolist()
    assert found.calibration.pixels == len(losses)
    assert one.nll == pytest.approx(np.mean(losses), rel=1e-5)
    counts, accuracy = [b.count for b in one.bins], [b.accuracy or 0.0 for b in one.bins]
    assert np.dot(counts, accuracy) == pytest.approx(sum(right))
    assert (one.temperature, found.calibration.best_nll) == (1.0, 1.0)


def test_weights_by_class_are_written_and_read_by_name(
    pair: list[Path], tiny_config: Config, tmp_path: Path
) -> None:
    out = RunDir(tmp_path / "classes")
    run(*pair, "--out", out.root, "--per-class", "--method", "equal", "--no-submission")
    found = read(out.blend)
    assert set(found["members"][0]["weight"]) == set(found["iou"])
    assert found["curve"] is None
    classes = tiny_config.data.classes
    before = Blend.read(out.blend).weights_of(classes)
    assert before.tolist() == [[m["weight"][c] for c in classes] for m in found["members"]]
    for member in found["members"]:
        member["weight"] = dict(reversed(member["weight"].items()))
    remove(out.blend)
    out.blend.write_text(json.dumps(found), encoding="utf-8")
    assert np.array_equal(Blend.read(out.blend).weights_of(classes), before)


@pytest.mark.parametrize("method", ["equal", "exact"])
def test_a_folder_of_something_else_is_left_alone(
    method: str, pair: list[Path], finished_blend: RunDir
) -> None:
    with pytest.raises(ConfigError, match="holds another blend"):
        run(*pair, "--out", finished_blend.root, "--method", method)
    with pytest.raises(ConfigError, match=r"is a run of engine\.train; choose another --out"):
        run(*pair, "--out", pair[0], "--method", method)


@pytest.mark.parametrize(
    "arguments", [("{one}",), ("{one}", "{absent}"), ("{one}", "{one}", "--methid", "x")]
)
def test_a_mistake_ends_with_exit_code_2_and_writes_nothing(
    arguments: tuple[str, ...],
    pair: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [word.format(one=pair[0], absent=tmp_path / "absent") for word in arguments]
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: blend.main([*filled, "--out", str(tmp_path / "out")]))
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip() != ""
    assert not (tmp_path / "out").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["atlas.json", "frames.npy", "submission.npy", "submission.zip"])
def test_what_is_damaged_and_follows_from_the_rest_is_made_again(
    name: str,
    completed: RunDir,
    pair: list[Path],
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = RunDir(shutil.copytree(completed.root, tmp_path / "out"))
    flip(out.root / name)
    run(*pair, "--out", out.root, "--method", "equal")
    assert f"{out.root / name} is damaged: " in caplog.text
    assert read_run(out.root) == read_run(completed.root)
    assert {verdict.state for verdict in verify(out.root)} == {"sound"}


def test_damaged_weights_of_a_blend_are_named(
    completed: RunDir, pair: list[Path], tmp_path: Path
) -> None:
    out = RunDir(shutil.copytree(completed.root, tmp_path / "out"))
    flip(out.blend)
    with pytest.raises(ValueError, match=rf"^{out.blend} is damaged: .*delete it and run again"):
        run(*pair, "--out", out.root, "--method", "equal")
