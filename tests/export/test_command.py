"""`roomsmith export`: files that need their runtime alone, held to the engine's masks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.api import open_predictor
from engine.command import start_logging
from engine.config import Config
from engine.export import command, make
from engine.export.command import main
from engine.export.form import FORMS, check_packages
from engine.export.records import NAME, Agreement, Export
from engine.identity import file_hash
from engine.lease import hold
from engine.mistakes import ConfigError
from engine.model.network import build_network
from engine.rundir import RunDir, load_run
from engine.trained import Sight, TrainedRun
from engine.views.predictor import load_network

ONCE = Sight(None, (1.0,), flip=False)
FOLD = 1


@pytest.fixture(scope="module")
def exported(rgbd_run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network and one view: tracing takes seconds a network and view."""
    out = tmp_path_factory.mktemp("exported") / "out"
    words = ["--to", "onnx,openvino,torch", "--fold", FOLD, "--views", "1", "--out", out]
    assert main(list(map(str, (rgbd_run.root, *words)))) == 0
    return out


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of five sizes, `image` and `depth`."""
    root, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    for kind in ("image", "depth"):
        (root / kind).mkdir()
    for number, (height, width) in enumerate([(48, 64), (31, 77), (64, 48), (90, 90), (2, 3)]):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        depth = rng.integers(0, 9000, (height, width)).astype(np.uint16)
        Image.fromarray(image).save(root / "image" / f"{number}.png")
        Image.fromarray(depth).save(root / "depth" / f"{number}.png")
    return root


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_the_example_needs_its_runtime_alone_and_gives_the_engines_masks(
    form: str, exported: Path, frames: Path, rgbd_run: RunDir, tmp_path: Path
) -> None:
    barred = "import sys; sys.modules.update(dict.fromkeys(%r)); import runpy; "
    barred %= (["engine", "kernels", "timm"] + (["torch"] if form != "torch" else []),)
    script = exported / f"example_{form}.py"
    folders = [frames / "image", frames / "depth", tmp_path / "masks"]
    program = f"sys.argv = {list(map(str, [script, *folders]))!r}; runpy.run_path({str(script)!r})"
    done = subprocess.run(
        [sys.executable, "-I", "-c", barred + program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    predictor = open_predictor(rgbd_run.root, fold=FOLD, device="cpu", sight=ONCE)
    equal, total = 0, 0
    for path in sorted((frames / "image").iterdir()):
        found = predictor.predict(pixels(path), pixels(frames / "depth" / path.name))
        mask = pixels(tmp_path / "masks" / path.name)
        equal, total = equal + (mask == found.mask).sum(), total + mask.size
        certain = pixels(tmp_path / "masks" / f"{path.stem}.confidence.png")
        assert np.abs(certain - 255 * found.probabilities.max(axis=0)).max() < 0.6
    assert equal / total > 0.9995
    assert len(script.read_text("utf-8").splitlines()) < 35


def test_files_hold_what_tells_of_them_and_nothing_of_this_computer(
    exported: Path, rgbd_run: RunDir
) -> None:
    import onnxruntime

    note = Export.read(exported / NAME)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["roomsmith"])
    assert told == note.told
    assert told["classes"] == list(load_run(rgbd_run).data.classes)
    assert told["views"] == [[32, 64]]
    weights = told["runs"][0]["weights_sha256"]
    assert weights == {str(FOLD): file_hash(rgbd_run.best(FOLD))}
    assert [tuple(side.shape) for side in session.get_inputs()] == [
        (1, "height", "width", 3),
        (1, "height", "width"),
    ]
    here = str(Path(make.__file__).parents[2]).encode()
    for form in note.forms.values():
        assert form.agreement.share > 0.9995
        assert len(form.agreement.sizes) > 1
        for name, digest in form.files.items():
            assert file_hash(exported / name) == digest
            assert here not in (exported / name).read_bytes(), name


def test_weights_leave_as_they_are_and_open_again(exported: Path, rgbd_run: RunDir) -> None:
    carried = RunDir(exported)
    assert carried.best(FOLD).read_bytes() == rgbd_run.best(FOLD).read_bytes()
    config = load_run(carried)
    assert config.model == load_run(rgbd_run).model
    assert "/" not in config.data.root
    found, spec = load_network(config, carried, FOLD)
    expected, same = load_network(load_run(rgbd_run), rgbd_run, FOLD)
    assert spec == same
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert one.equal(other)


def test_what_has_left_is_what_another_run_starts_from(exported: Path, rgbd_run: RunDir) -> None:
    config = load_run(rgbd_run)
    model = config.model.model_copy(update={"weights": f"run:{exported}#{FOLD}"})
    started = build_network(model, len(config.data.classes), names=config.data.classes)
    expected, _ = load_network(config, rgbd_run, FOLD)
    found = started.state_dict()
    for name, tensor in expected.state_dict().items():
        assert found[name].equal(tensor), name


def test_the_card_tells_what_was_measured(exported: Path, rgbd_run: RunDir) -> None:
    card = (exported / "README.md").read_text("utf-8")
    summary = json.loads(rgbd_run.summary.read_text("utf-8"))
    assert f"value: {summary['oof']['miou']:.4f}" in card
    assert f"which this is: mIoU {summary['folds'][FOLD]['miou']:.4f}" in card
    assert f"{100 * summary['leakage']:.1f} % of the validation frames" in card
    assert "it began with random weights" in card
    assert "\nlicense:" not in card
    assert "The scores are by other views" not in card.replace("views than this graph's", "")
    assert "INT8" not in card


def test_the_same_again_is_there_and_another_is_refused(
    exported: Path, rgbd_run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*.*")}
    start_logging()
    words = [str(rgbd_run.root), "--to", "torch", "--out", str(exported)]
    assert main([*words, "--fold", str(FOLD), "--views", "1"]) == 0
    assert "torch is there: model.pt2" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"holds another export .*; choose another --out"):
        main(words)
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*.*")} == before


def test_a_form_whose_masks_are_others_is_not_published(
    rgbd_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = Agreement(frames=1, sizes=[(2, 2)], pixels=10_000, equal=9_994)
    monkeypatch.setattr(make, "agreement", lambda *_: poor)
    monkeypatch.setattr(make, "find_culprit", lambda *_: None)
    out, words = tmp_path / "out", ["--to", "torch", "--fold", "0", "--views", "1"]
    with pytest.raises(RuntimeError, match=r"--to torch: 6 of 10,000 pixels differ from the eng"):
        main([str(rgbd_run.root), *words, "--out", str(out)])
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {NAME}
    assert Export.read(out / NAME).forms == {}


def test_a_size_a_form_and_a_folder_that_do_not_fit_are_one_line(
    rgbd_run: RunDir, tmp_path: Path
) -> None:
    run = str(rgbd_run.root)
    with pytest.raises(ConfigError, match="--to onxx: no such form; did you mean onnx?"):
        main([run, "--to", "onxx"])
    with pytest.raises(ConfigError, match="--size 480: needed is height x width"):
        main([run, "--to", "torch", "--size", "480"])
    with pytest.raises(ConfigError, match="holds other files, such as atlas.json; choose another"):
        main([run, "--to", "torch", "--out", run])
    lost = ["--data", str(tmp_path / "gone"), "--out", str(tmp_path / "out")]
    with pytest.raises(
        ConfigError, match="gone, the dataset of .* is not there, and files are held"
    ):
        main([run, "--to", "torch", *lost])


@pytest.mark.parametrize(
    ("kind", "told"),
    [("rgbhha", "only the engine runs it"), ("rgbdn", "such as --size 480x640, and export once")],
)
def test_networks_that_see_surfaces_are_refused_by_name(
    kind: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = Config.model_validate({"model": {"input": kind}})
    theirs = TrainedRun(RunDir(tmp_path), config, (0,), 1.0, 1.0)
    monkeypatch.setattr(command, "choose_runs", lambda *_: [theirs])
    with pytest.raises(ConfigError, match=rf"model.input = '{kind}'.* {told}"):
        command.main([str(tmp_path), "--to", "torch", "--out", str(tmp_path / "out")])


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.export.form.find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="pip install onnx onnxscript onnxruntime"):
        check_packages(["torch", "onnx"])
    check_packages(["torch", "aoti"])
    assert set(FORMS) == {"onnx", "openvino", "openvino-int8", "torch", "aoti"}


def test_two_never_export_into_one_folder(rgbd_run: RunDir, tmp_path: Path) -> None:
    with (
        hold(make.place(tmp_path)),
        pytest.raises(RuntimeError, match="is held by another process"),
    ):
        main([str(rgbd_run.root), "--to", "torch", "--out", str(tmp_path)])
