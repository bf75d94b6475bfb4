"""The set-up mends what a killed pip leaves behind."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "set_up.py"


def load() -> ModuleType:
    # `tools` is no package: the script is loaded from its file, as `python tools/set_up.py` does.
    spec = importlib.util.spec_from_file_location("set_up", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_up = load()
forget_torn_packages: Callable[[Path], list[str]] = set_up.forget_torn_packages


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """Two installed packages, `left` and `right`, with pip's bookkeeping."""
    for name in ("left", "right"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"{name}.py").write_text("value = 1\n")
        (info / "METADATA").write_text(f"Name: {name}\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text(
            f"{name}.py,sha256=x,10\n__pycache__/{name}.cpython-311.pyc,,\n"
            f"{info.name}/INSTALLER,sha256=x,4\n{info.name}/RECORD,,\n"
        )
    return tmp_path


def test_a_complete_environment_is_left_alone(site_packages: Path) -> None:
    before = sorted(site_packages.rglob("*"))
    assert forget_torn_packages(site_packages) == []
    assert sorted(site_packages.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("left.py", None),  # removed: killed while uninstalling
        ("left.py", "val"),  # cut: killed while unpacking
        ("left-1.0.dist-info/RECORD", None),  # killed before the record was written
        ("left-1.0.dist-info/RECORD", "left.py,sha256=x,10\n"),  # the wheel's own record
    ],
)
def test_a_torn_package_is_forgotten_and_no_other(
    site_packages: Path, file: str, content: str | None
) -> None:
    (site_packages / file).unlink()
    if content is not None:
        (site_packages / file).write_text(content)
    assert forget_torn_packages(site_packages) == ["left-1.0.dist-info"]
    assert not (site_packages / "left-1.0.dist-info").exists()
    assert (site_packages / "right-1.0.dist-info").exists()


def test_what_pip_had_set_aside_is_removed(site_packages: Path) -> None:
    (site_packages / "~ight").mkdir()
    forget_torn_packages(site_packages)
    assert not (site_packages / "~ight").exists()


@pytest.mark.parametrize("name", [".venv", ".venv-oldest"])
def test_a_disk_that_is_too_full_is_named_before_anything_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    monkeypatch.setattr(set_up.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5.94e9))
    with pytest.raises(SystemExit, match=rf"set-up: \{name} needs 8 GB of disk, .* has 5\.9 GB"):
        set_up.main([name, "torch==2.11.*"])
    assert list(tmp_path.iterdir()) == []
