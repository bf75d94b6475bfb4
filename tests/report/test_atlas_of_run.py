"""The atlas that engine.train leaves in a run folder."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from engine import train
from engine.config import RuntimeConfig
from engine.report.atlas import stored_masks
from engine.report.atlas_report import Atlas
from engine.rundir import FOR_PEOPLE, RunDir
from engine.runtime.device import set_up_device
from engine.views.store import open_store
from kernels.metrics import mean_iou

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def test_the_atlas_of_a_run_is_that_of_its_store(finished_run: FinishedRun) -> None:
    run: RunDir = finished_run.dir
    store, atlas = open_store(run.oof), Atlas.read(run.atlas)
    count_NCC = np.load(run.frame_counts, allow_pickle=False)
    prob = torch.from_numpy(np.array(store.prob_NChw)).float()
    mask_NHW = F.interpolate(prob, (48, 64), mode="bilinear").argmax(1).numpy()
    root = Path(tomllib.loads(run.config.read_text(encoding="utf-8"))["data"]["root"])
    for stem, mask_HW, count_CC in zip(store.manifest.stems, mask_NHW, count_NCC, strict=True):
        label_HW = np.array(Image.open(root / "train" / "label" / f"{stem}.png"))
        pair = label_HW[label_HW != 255].astype(int) * 13 + mask_HW[label_HW != 255]
        expected_CC = np.bincount(pair, minlength=169).reshape(13, 13)
        # Where two classes are within rounding of one another, either may have won.
        assert np.abs(count_CC.astype(int) - expected_CC).sum() <= 4
    assert atlas.key == store.manifest.key == finished_run.summary["key"]
    assert atlas.miou == mean_iou(count_NCC.sum(axis=0, dtype=np.int64))
    assert [frame.stem for frame in atlas.worst_frames] != list(store.manifest.stems)
    assert len(atlas.worst_frames) == 12
    assert atlas.groups.of == [0] * 12
    assert atlas.depth is not None
    assert atlas.depth[-1].share == pytest.approx(0.1, abs=0.01)
    # The store has half the size at which the summary was counted.
    assert atlas.miou == pytest.approx(finished_run.summary["oof"]["miou"], abs=0.02)
    assert "what is taken for what" in finished_run.stdout


def test_a_lost_atlas_is_made_again_and_nothing_else(
    finished_run: FinishedRun,
    copied_run: RunDir,
    tiny_toml: Path,
    read_run: Callable[[Path], dict[str, Any]],
) -> None:
    def mtimes() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in copied_run.root.rglob("*")}

    copied_run.frame_counts.unlink()
    before = mtimes()
    assert train.main(["--config", str(tiny_toml), "--out", str(copied_run.root)]) == 0
    after = mtimes()
    changed = [path for path, moment in after.items() if before.get(path) != moment]
    made = {path.name for path in changed if path.suffix != ".sum"} - {*FOR_PEOPLE}
    assert made == {"atlas.json", "frames.npy", "worst.png", "seal.json"}
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)


@pytest.mark.parametrize("sizes", [[(4, 6), (4, 6)], [(4, 6), (3, 5)]], ids=["one grid", "two"])
def test_the_masks_of_several_stores_are_those_of_their_weighted_sum(
    sizes: list[tuple[int, int]],
) -> None:
    rng = np.random.default_rng(0)
    stores = [rng.random((2, 3, *hw)).astype(np.float16) for hw in sizes]
    weight_MC = rng.random((2, 3))
    wide_M3HW = [
        F.interpolate(torch.from_numpy(store[1:2]).double(), (9, 13), mode="bilinear")[0]
        for store in stores
    ]
    blend_3HW = torch.einsum("mc,mcyx->cyx", torch.from_numpy(weight_MC), torch.stack(wide_M3HW))
    policy = set_up_device(RuntimeConfig(device="cpu"))
    masks = stored_masks(stores, weight_MC, policy)
    assert np.array_equal(masks(1, (9, 13)), blend_3HW.argmax(dim=0).numpy())
