"""prepare stats: counts are those of the files; the page holds all that it shows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import prepare
from engine.cli import load_config
from engine.data.checked import read_dataset
from engine.nyuv2 import CLASSES
from engine.report.data_stats import data_stats
from engine.report.page.data_page import data_page


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms, one frame of which is there twice, under a name that is markup."""
    root = tmp_path_factory.mktemp("stats") / "rooms"
    arguments = ["rooms", str(root), "--scenes", "6", "--frames", "3", "--hw", "48", "64"]
    assert prepare.main(arguments) == 0
    for kind in ("image", "depth", "label"):
        shutil.copyfile(root / f"train/{kind}/000000.png", root / f"train/{kind}/a<b>.png")
    return root


def test_counts_are_those_of_the_files(root: Path) -> None:
    config = load_config([], {"data": {"root": str(root)}})
    stats = data_stats(root, read_dataset(config), config)
    labels = [np.array(Image.open(path)) for path in sorted((root / "train/label").iterdir())]
    depths = [np.array(Image.open(path)) for path in sorted((root / "train/depth").iterdir())]
    every = np.concatenate([label.ravel() for label in labels])
    assert stats.frames == {"train": 16, "test": 3}
    assert stats.sizes == [("48 x 64", 16)]
    assert stats.unlabelled == pytest.approx((every == 255).mean())
    for index, one in enumerate(stats.classes):
        assert one.name == CLASSES[index]
        assert one.share == pytest.approx((every == index).sum() / (every != 255).sum())
        assert one.frames == sum(bool((label == index).any()) for label in labels)
    metres = np.concatenate([depth.ravel() for depth in depths]) / 1000
    bins = {one.name: one.share for one in stats.depth}
    known = metres[metres > 0]
    assert bins["1.5 .. 2"] == pytest.approx(((known >= 1.5) & (known < 2)).mean())
    assert sum(bins.values()) == pytest.approx(1)
    assert stats.duplicates >= 1
    assert (stats.pairs[0].first, stats.pairs[0].second) == ("000000", "a<b>")
    assert stats.pairs[0].alike == pytest.approx(1)


def test_the_page_holds_all_that_it_shows(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "stats.html"
    assert prepare.main(["stats", str(root), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "a<b>" in shown
    assert f"{out} is written" in shown
    page = out.read_text(encoding="utf-8")
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    for forbidden in ("<script", "http://", "https://", 'src="/'):
        assert forbidden not in page
    assert page.count("data:image/webp;base64,") >= 12
    assert page == data_page_again(root)


def data_page_again(root: Path) -> str:
    """Made once more: nothing of it hangs on the moment."""
    config = load_config([], {"data": {"root": str(root)}})
    dataset = read_dataset(config)
    return data_page(data_stats(root, dataset, config), dataset.train.samples)
