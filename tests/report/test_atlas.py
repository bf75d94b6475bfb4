"""The atlas of a few frames against plain loops."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from engine.frames.decode import Sample
from engine.report.atlas import MaskOf, complete_atlas, contact_sheet, count_frames
from engine.report.atlas_report import TOP_CONFUSIONS, WORST_FRAMES, Atlas, AtlasFrames
from engine.report.frame_errors import (
    DEPTHS,
    EDGES,
    SIZES,
    depth_bins,
    object_sizes,
    on_boundary,
)
from engine.report.show import atlas_tables
from engine.rundir import RunDir
from kernels.metrics import class_iou, mean_iou

CLASSES = ("floor", "wall", "window", "tv")
SIZES_HW = [(40, 60), (24, 30), (40, 60)]
"""Frames of two sizes; one is below 1024 pixels, so that its objects are too."""

MakeSamples = Callable[..., tuple[Sample, ...]]
Maps = Sequence[NDArray[np.uint8]]


@pytest.fixture
def make_samples(tmp_path: Path) -> MakeSamples:
    def make(labels: Maps, depths: Sequence[NDArray[np.uint16]] | None = None) -> Any:
        samples = []
        for number, label in enumerate(labels):
            paths = [tmp_path / f"{kind}{number}.png" for kind in ("image", "label", "depth")]
            Image.fromarray(np.full((*label.shape, 3), 90, np.uint8)).save(paths[0])
            Image.fromarray(label).save(paths[1])
            depth = None
            if depths is not None:
                depth = paths[2]
                Image.fromarray(depths[number]).save(depth)
            hw = label.shape[0], label.shape[1]
            samples.append(Sample(f"{number:03d}", paths[0], depth, paths[1], hw, None))
        return tuple(samples)

    return make


def scene(hw: tuple[int, int], seed: int) -> tuple[Any, Any, Any]:
    """Truth, prediction and depth: rectangles, shifted; the last class is never there."""
    rng = np.random.default_rng(seed)
    label = np.zeros(hw, np.uint8)
    for value in rng.integers(0, 3, 6):
        top, left = rng.integers(0, hw[0] - 4), rng.integers(0, hw[1] - 4)
        label[top : top + 14, left : left + 18] = value
    mask = np.roll(label, rng.integers(1, 4), axis=1)
    depth = rng.integers(300, 9000, hw).astype(np.uint16)
    depth[rng.random(hw) < 0.2] = 0
    label[rng.random(hw) < 0.1] = 255
    return label, mask, depth


def atlas_of(
    samples: Sequence[Sample], masks: Maps, root: Path, classes: Sequence[str] = CLASSES
) -> dict[str, Any]:
    frames = AtlasFrames(samples, [n % 2 for n in range(len(samples))], classes)
    atlas = complete_atlas(RunDir(root), "key", frames, lambda: lambda n, hw: masks[n])
    return atlas.to_json()


def plain_counts(labels: Maps, masks: Maps, regions: Sequence[Any]) -> NDArray[np.int64]:
    """Confusion of the pixels inside `regions`, pixel by pixel."""
    count = np.zeros((4, 4), np.int64)
    for label, mask, region in zip(labels, masks, regions, strict=True):
        for y, x in np.argwhere(region & (label != 255)).tolist():
            count[label[y, x], mask[y, x]] += 1
    return count


def test_every_figure_is_that_of_the_pixels_it_names(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    labels, masks, depths = zip(*(scene(hw, n) for n, hw in enumerate(SIZES_HW)), strict=True)
    atlas = atlas_of(make_samples(labels, depths), masks, tmp_path / "run")
    parts: list[tuple[Any, Callable[[Any], Any], Any]] = [
        *((part, object_sizes, labels) for part in atlas["object_size"]),
        *((part, lambda label: ~on_boundary(label), labels) for part in atlas["edge"]),
        *((part, depth_bins, depths) for part in atlas["depth"]),
    ]
    assert [part["name"] for part, _, _ in parts] == [*SIZES, *EDGES, *DEPTHS]
    everywhere = [np.ones(hw, bool) for hw in SIZES_HW]
    whole = plain_counts(labels, masks, everywhere)
    for number, (part, number_of, maps) in enumerate(parts):
        place = [*range(len(SIZES)), *range(len(EDGES)), *range(len(DEPTHS))][number]
        found = [number_of(one) for one in maps]
        inside = [(one[0] if isinstance(one, tuple) else one) == place for one in found]
        count = plain_counts(labels, masks, inside)
        assert part["share"] == count.sum() / whole.sum()
        if not count.any():
            assert part["pixel_acc"] is part["miou"] is None
            continue
        assert part["pixel_acc"] == np.trace(count) / count.sum()
        assert part["miou"] == mean_iou(count)
        for c, name in enumerate(CLASSES):
            iou, truth = class_iou(count)[c], count[c].sum()
            assert part["iou"][name] == (None if np.isnan(iou) else iou)
            assert part["recall"][name] == (count[c, c] / truth if truth else None)
    assert sum(part["share"] for part in atlas["object_size"]) == pytest.approx(1)
    assert sum(part["share"] for part in atlas["edge"]) == pytest.approx(1)
    assert sum(part["share"] for part in atlas["depth"]) == pytest.approx(1)
    objects = np.sum([object_sizes(label)[1] for label in labels], axis=0)
    assert [part["objects"] for part in atlas["object_size"]] == objects.tolist()
    assert atlas["miou"] == mean_iou(whole)
    assert atlas["pixel_acc"] == np.trace(whole) / whole.sum()
    check_classes(atlas, whole, labels, masks)


def check_classes(
    atlas: dict[str, Any], whole: NDArray[np.int64], labels: Maps, masks: Maps
) -> None:
    edges = []
    for c, name in enumerate(CLASSES):
        found = atlas["classes"][name]
        if name == "tv":
            assert set(found.values()) == {None}
            continue
        common = either = 0
        for label, mask in zip(labels, masks, strict=True):
            truth = on_boundary(label) & (label == c)
            predicted = on_boundary(np.where(label == 255, label, mask)) & (mask == c)
            common += int((truth & predicted).sum())
            either += int((truth | predicted).sum())
        edges.append(common / either)
        assert found == {
            "iou": class_iou(whole)[c],
            "boundary_iou": common / either,
            "recall": whole[c, c] / whole[c].sum(),
            "precision": whole[c, c] / whole[:, c].sum(),
        }
    assert atlas["boundary_miou"] == pytest.approx(np.mean(edges))
    wrong = [
        (-float(whole[t, p] / whole[t].sum()), t, p)
        for t in range(3)
        for p in range(3)
        if t != p and whole[t, p]
    ]
    assert [(pair["truth"], pair["prediction"]) for pair in atlas["confusions"]] == [
        (CLASSES[t], CLASSES[p]) for _, t, p in sorted(wrong)
    ]
    for pair, (share, t, p) in zip(atlas["confusions"], sorted(wrong), strict=True):
        assert (pair["share"], pair["pixels"]) == (-share, whole[t, p])


def test_the_counts_of_each_frame_are_kept(make_samples: MakeSamples, tmp_path: Path) -> None:
    labels, masks, _ = zip(*(scene(hw, n) for n, hw in enumerate(SIZES_HW)), strict=True)
    run = RunDir(tmp_path / "run")
    atlas_of(make_samples(labels), masks, run.root)
    count_NCC = np.load(run.frame_counts, allow_pickle=False)
    assert count_NCC.dtype == np.uint32
    for n, hw in enumerate(SIZES_HW):
        plain = plain_counts(labels[n : n + 1], masks[n : n + 1], [np.ones(hw, bool)])
        assert np.array_equal(count_NCC[n], plain)


def test_the_worst_frames_come_first_and_unlabelled_ones_not_at_all(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    truth = np.zeros((8, 20), np.uint8)
    # Frame n has n + 1 wrong columns, the last two as many; frame 3 has no label.
    masks = [np.where(np.arange(20) <= min(n, 14), 1, truth).astype(np.uint8) for n in range(16)]
    labels = [np.full_like(truth, 255) if n == 3 else truth for n in range(16)]
    atlas = atlas_of(make_samples(labels), masks, tmp_path / "run")
    assert [frame["stem"] for frame in atlas["worst_frames"]] == [
        *("014", "015", "013", "012", "011", "010", "009", "008", "007", "006", "005", "004"),
    ]
    assert len(atlas["worst_frames"]) == WORST_FRAMES
    assert atlas["worst_frames"][2] == {
        "stem": "013",
        "fold": 1,
        "miou": 6 / 20 / 2,
        "pixel_acc": 6 / 20,
    }


def test_confusions_are_ranked_by_the_share_of_their_truth(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    label, mask = np.zeros((10, 100), np.uint8), np.zeros((10, 100), np.uint8)
    mask[:, :20] = 1  # a fifth of a common class
    label[:, 98:], mask[:, 98:] = 2, 1  # all of a rare one
    atlas = atlas_of(make_samples([label]), [mask], tmp_path / "run")
    assert atlas["confusions"] == [
        {"truth": "window", "prediction": "wall", "share": 1.0, "pixels": 20},
        {"truth": "floor", "prediction": "wall", "share": 200 / 980, "pixels": 200},
    ]


def test_many_confusions_are_cut_to_the_top(make_samples: MakeSamples, tmp_path: Path) -> None:
    names = [f"class{c}" for c in range(30)]
    label = np.repeat(np.arange(30, dtype=np.uint8), 4).reshape(10, 12)
    mask = ((label + 1) % 30).astype(np.uint8)
    atlas = atlas_of(make_samples([label]), [mask], tmp_path / "run", names)
    assert len(atlas["confusions"]) == TOP_CONFUSIONS
    assert atlas["confusions"][0]["prediction"] == "class1"


def test_without_depth_maps_that_part_is_left_out_and_said_so(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    label, mask, _ = scene((20, 30), 0)
    atlas = atlas_of(make_samples([label]), [mask], tmp_path / "run")
    assert atlas["depth"] is None
    shown = text_of(atlas)
    assert "no depth maps, so nothing by depth" in shown
    assert "depth <" not in shown


def text_of(atlas: dict[str, Any]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in atlas_tables(Atlas.model_validate(atlas)):
        console.print(table)
    return " ".join(stream.getvalue().replace("│", " | ").split())


def test_the_tables_show_the_figures(make_samples: MakeSamples, tmp_path: Path) -> None:
    labels, masks, depths = zip(*(scene(hw, n) for n, hw in enumerate(SIZES_HW)), strict=True)
    atlas = atlas_of(make_samples(labels, depths), masks, tmp_path / "run")
    shown = text_of(atlas)
    wall, far = atlas["classes"]["wall"], atlas["depth"][-2]
    for text in (
        f"OOF mIoU at store resolution {atlas['miou']:.4f}, boundary mIoU "
        f"{atlas['boundary_miou']:.4f} (within 3 px of another class)",
        f"wall | {wall['boundary_iou']:.4f} | {wall['recall']:.4f} | {wall['precision']:.4f}",
        "tv | - | - | -",
        f"depth >= 6 m | | {far['share']:.1%} | {far['pixel_acc']:.4f} | {far['miou']:.4f}",
        "> 16384 px | 0 | 0.0% | - | -",
        f"{atlas['confusions'][0]['truth']} | {atlas['confusions'][0]['prediction']} |",
        f"{atlas['worst_frames'][0]['stem']} | ",
    ):
        assert text in shown, text


def test_the_atlas_is_json_and_knows_what_it_was_made_from(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    label, mask, depth = scene((20, 30), 1)
    run, samples = RunDir(tmp_path / "run"), make_samples([label], [depth])
    atlas = atlas_of(samples, [mask], run.root)
    assert json.loads(run.atlas.read_text(encoding="utf-8")) == atlas
    assert Atlas.read(run.atlas).to_json() == atlas
    assert atlas["groups"] == {"kind": "block", "count": 1, "of": [0]}
    opened = []

    def completed(key: str) -> Atlas:
        def open_masks() -> MaskOf:
            opened.append(key)
            return lambda n, hw: mask

        return complete_atlas(run, key, AtlasFrames(samples, [0], CLASSES), open_masks)

    assert completed("key").to_json() == atlas
    assert opened == []
    assert completed("other").key == Atlas.read(run.atlas).key == "other"
    run.worst_frames.unlink()
    completed("other")
    assert opened == ["other", "other"]
    assert run.worst_frames.exists()


def test_the_sheet_shows_image_truth_and_prediction(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    label, mask = np.zeros((40, 60), np.uint8), np.ones((40, 60), np.uint8)
    label[:20] = 255
    run = RunDir(tmp_path / "run")
    atlas_of(make_samples([label] * 3), [mask] * 3, run.root)
    with Image.open(run.worst_frames) as sheet:
        pixels = np.array(sheet)
    assert pixels.shape == (2 * (180 + 14), 2 * 3 * 240, 3)
    # 60 x 40 fills 240 x 160 of a tile; frame 1 stands right of frame 0, frame 2 below it.
    for top, left in ((14, 0), (14, 720), (208, 0)):
        assert pixels[top + 5, left + 5].tolist() == [90, 90, 90]
        assert pixels[top + 5, left + 245].tolist() == [0, 0, 0]
        assert pixels[top + 150, left + 245].tolist() == [214, 39, 40]
        assert pixels[top + 5, left + 485].tolist() == [188, 189, 34]


def test_the_sheet_tells_more_than_13_classes_apart(make_samples: MakeSamples) -> None:
    label, mask = np.full((40, 60), 15, np.uint8), np.full((40, 60), 2, np.uint8)
    sheet = np.array(contact_sheet(make_samples([label]), [0], lambda *_: mask))
    truth, predicted = sheet[14 + 5, 240 + 5], sheet[14 + 5, 480 + 5]
    assert truth.tolist() != predicted.tolist()


def test_one_frame_is_asked_for_at_a_time_and_at_its_own_size(make_samples: MakeSamples) -> None:
    labels, masks, _ = zip(*(scene(hw, n) for n, hw in enumerate(SIZES_HW)), strict=True)
    asked = []

    def predict(index: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        asked.append((index, hw))
        mask: NDArray[np.uint8] = masks[index]
        return mask

    count_frames(AtlasFrames(make_samples(labels), (), ("",) * 4), predict)
    assert asked == list(enumerate(SIZES_HW))
