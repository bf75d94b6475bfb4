"""What the tests of pages share."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine import report_command
from engine.rundir import RunDir

FinishedRun = Any  # defined in ../conftest.py, which cannot be imported

IMAGE = "<img src=x onerror=alert(1)>"
SCRIPT = "<script>alert(2)</script>\"'&"
MATHS = r"$\frac{1}{x}$ {{ 7 * 7 }}"


@pytest.fixture(scope="session")
def page(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished run; nobody may change it."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    assert report_command.main([str(finished_run.dir.root), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def hostile_run(
    finished_run: FinishedRun, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A finished run whose frames, classes and folder are named like HTML; nobody may change it."""
    data = tmp_path_factory.mktemp("hostile") / "data"
    shutil.copytree(tiny_root, data)
    names = {f"{n:03d}": f"{IMAGE}{n:03d}" for n in range(12)}
    for path in list((data / "train").glob("*/*.png")):
        path.rename(path.with_name(f"{names[path.stem]}.png"))
    root = tmp_path_factory.mktemp("runs") / f"<b>{IMAGE}"
    # Their checksums would tell that somebody renamed what they hold.
    shutil.copytree(finished_run.dir.root, root, ignore=shutil.ignore_patterns(".*.sum", "*.html"))
    run = RunDir(root)
    words = {**names, "bed": SCRIPT, "sofa": MATHS}
    for path in (run.atlas, run.summary, run.folds, run.manifest):
        text = json.dumps(_renamed(json.loads(path.read_text("utf-8")), words))
        path.write_text(text, "utf-8")
    toml = run.config.read_text("utf-8").replace('"bed"', json.dumps(SCRIPT))
    toml = toml.replace('"sofa"', json.dumps(MATHS)).replace(str(tiny_root), str(data))
    run.config.write_text(toml, "utf-8")
    return run


def _renamed(value: Any, words: dict[str, str]) -> Any:
    """JSON in which every key and word that `words` names is another."""
    if isinstance(value, dict):
        return {words.get(key, key): _renamed(part, words) for key, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, words) for part in value]
    return words.get(value, value) if isinstance(value, str) else value
