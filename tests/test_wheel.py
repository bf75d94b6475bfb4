"""The wheel alone: built, installed in an empty environment, used from an empty folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.rooms.dataset import render_rooms

ROOT = Path(__file__).resolve().parent.parent

SMALL = (
    *("--training.epochs", "1", "--training.validate_every", "1", "--inference.scales", "1"),
    # Compiled by Numba, the kernels would take longer than all else here.
    *("--runtime.kernels", "reference", "--runtime.layers", "torch"),
)
"""The demo, shortened to seconds."""

ON_AN_ARRAY = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
import engine, kernels, roomsmith
for package in (engine, kernels, roomsmith):
    assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
image, depth, mask = (np.array(Image.open(path)) for path in sys.argv[2:])
found = roomsmith.Run.open(sys.argv[1]).predictor().predict(image, depth)
assert found.probabilities.shape == (13, *mask.shape), found.probabilities.shape
assert (found.mask == mask).all(), "the command wrote another mask"
"""


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, and an empty folder to use it from."""

    scripts: Path
    site: Path
    folder: Path

    def run(self, *words: object) -> str:
        """Run a program of the environment in the folder; what it printed."""
        program, *arguments = map(str, words)
        # Nothing of the checkout, which tests of a tree may name here.
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [self.scripts / program, *arguments],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    pytest.importorskip("hatchling", reason="needs hatchling, which the extra test installs")
    out = tmp_path_factory.mktemp("dist")
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    command += ["--directory", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("roomsmith-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, with the dependencies of this one."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root / "env", symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(root / "env"), "platbase": str(root / "env")})
    scripts, site = Path(paths["scripts"]), Path(paths["purelib"])
    install = ("install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
    command: list[str | Path] = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    command += [*install, wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Its packages are seen, and not what its own .pth files name: the checkout.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(here)), encoding="utf-8")
    (root / "empty").mkdir()
    return Installed(scripts, site, root / "empty")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rendered frames: ten to train on, in five scenes, and two for the submission."""
    root = tmp_path_factory.mktemp("data") / "rooms"
    render_rooms(root, scenes=6, frames=2)
    return root


@pytest.fixture(scope="module")
def trained(installed: Installed, rooms: Path) -> str:
    """What `roomsmith train demo` printed."""
    return installed.run("roomsmith", "train", "demo", "--data.root", rooms, *SMALL)


def test_the_wheel_holds_all_that_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {
        *("roomsmith", "engine", "kernels", "benchmarks", "configs")
    }
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        assert names == set(listed.stdout.split())
    assert {"roomsmith/py.typed", "configs/demo.toml"} <= names


PACKED = ("roomsmith", "engine", "kernels", "benchmarks", "configs")


def test_the_demo_trains_from_an_empty_folder(installed: Installed, trained: str) -> None:
    assert "OOF mIoU at label resolution" in trained
    run = installed.folder / "runs" / "demo"
    assert (run / "submission.zip").is_file()
    assert (run / "seal.json").is_file()
    assert not (run / "fold0" / "last.pt").exists()


def test_the_report_is_there(installed: Installed, trained: str) -> None:
    page = (installed.folder / "runs" / "demo" / "report.html").read_text(encoding="utf-8")
    assert "OOF mIoU at label resolution" in page


@pytest.fixture(scope="module")
def masks(installed: Installed, trained: str, rooms: Path) -> list[Path]:
    """What `roomsmith predict` wrote, in order."""
    installed.run("roomsmith", "predict", "runs/demo", rooms / "test" / "image", "--out", "masks")
    return sorted((installed.folder / "masks").glob("*.png"))


def test_it_predicts_a_folder(masks: list[Path], rooms: Path) -> None:
    images = sorted((rooms / "test" / "image").iterdir())
    assert [path.stem for path in masks] == [path.stem for path in images]
    assert np.array(Image.open(masks[0])).shape == (120, 160)


def test_it_evaluates_a_labelled_folder(installed: Installed, trained: str, rooms: Path) -> None:
    said = installed.run("roomsmith", "evaluate", "runs/demo", rooms)
    assert "mIoU" in said


def test_python_predicts_an_array(installed: Installed, masks: list[Path], rooms: Path) -> None:
    mask = masks[0]
    files = [rooms / "test" / kind / mask.name for kind in ("image", "depth")]
    files[0] = next(files[0].parent.glob(f"{mask.stem}.*"))
    installed.run("python", "-c", ON_AN_ARRAY, "runs/demo", *files, mask)


def test_the_version_is_told(installed: Installed) -> None:
    assert installed.run("roomsmith", "--version").startswith("roomsmith 0.2.0")
    assert installed.run("python", "-m", "roomsmith", "--version").startswith("roomsmith 0.2.0")
