"""Other forms: each file of the folder is what an independent reading of its form says."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import prepare
from engine.bring.cityscapes import CLASSES
from engine.bring.depth_codes import unturned
from engine.bring.rasters import from_runs, uncompressed
from engine.cli import load_config
from engine.frames.index import DatasetSpec, load_dataset
from engine.mistakes import ConfigError

HW = (24, 32)


def save(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def image(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*HW, 3), np.uint8)


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as opened:
        return np.array(opened)


def rows(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as stream:
        return {row[0]: row[1] for row in csv.reader(stream)}


def bring(out: Path, *words: object) -> None:
    assert prepare.main([*map(str, words), "--out", str(out)]) == 0


def is_sound(out: Path) -> int:
    """How many frames the engine reads, by the classes that came with them."""
    classes = load_config([out / "dataset.toml"]).data.classes
    return len(load_dataset(out, DatasetSpec(classes, ())).train.samples)


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
def test_cityscapes_folders(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "cs", tmp_path / "out"
    ids = {7: 0, 8: 1, 11: 2, 23: 10, 33: 18, 0: 255, 6: 255, 29: 255}
    label = np.random.default_rng(0).choice([*ids], HW).astype(np.uint8)
    trains = np.vectorize(ids.__getitem__)(label).astype(np.uint8)
    for split, city, number in (("train", "ulm", 0), ("val", "bonn", 1), ("test", "koeln", 2)):
        name = f"{city}_00_{number}"
        save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", image(number))
        found = label if kind == "labelIds" else trains
        save(root / f"gtFine/{split}/{city}/{name}_gtFine_{kind}.png", found)
    bring(out, "cityscapes", root)
    shown = capsys.readouterr().out
    assert f"2 labels of {kind}" in shown
    assert "1 labels of test frames passed over" in shown
    assert np.array_equal(pixels(out / "train/label/bonn_00_1.png"), trains)
    assert np.array_equal(pixels(out / "test/image/koeln_00_2.png"), image(2))
    assert not (out / "test/label").exists()
    assert rows(out / "splits.csv") == {
        "stem": "fold",
        "bonn_00_1": "validation",
        "ulm_00_0": "train",
    }
    data = load_config([out / "dataset.toml"]).data
    assert (data.classes, data.splits, data.folds) == (CLASSES, "splits.csv", 2)
    assert rows(out / "scenes.csv")["ulm_00_0"] == "ulm"
    assert is_sound(out) == 2
    (root / f"gtFine/val/bonn/bonn_00_1_gtFine_{kind}.png").unlink()
    with pytest.raises(ConfigError, match=r"bonn_00_1_leftImg8bit.png has no label; needed: "):
        bring(tmp_path / "again", "cityscapes", root)
    with pytest.raises(ConfigError, match="holds no leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png"):
        bring(tmp_path / "again", "cityscapes", tmp_path)


CATEGORIES = [{"id": 9, "name": "wall"}, {"id": 2, "name": "cup"}, {"id": 4, "name": "cat"}]


def coco(tmp_path: Path, annotations: list[dict[str, Any]]) -> tuple[Path, Path]:
    names = [f"{n:012d}.jpg" for n in range(2)]
    for number, name in enumerate(names):
        save(tmp_path / "images" / name, image(number))
    images = [
        {"id": 10 + n, "file_name": name, "height": HW[0], "width": HW[1]}
        for n, name in enumerate(names)
    ]
    file = tmp_path / "annotations.json"
    told = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    file.write_text(json.dumps(told), encoding="utf-8")
    return file, tmp_path / "images"


def test_coco_panoptic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.random.default_rng(0).choice([0, 7, 300, 70_000], HW)
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    save(tmp_path / "annotations/000000000000.png", colours)
    category = {7: 9, 300: 2, 70_000: 4}
    segments = [{"id": one, "category_id": of} for one, of in category.items()]
    told = {"image_id": 10, "file_name": "000000000000.png", "segments_info": segments}
    file, images = coco(tmp_path, [told])
    bring(tmp_path / "out", "coco", file, "--images", images)
    # In the order of their ids: cup 2, cat 4, wall 9.
    needed = np.vectorize({0: 255, 7: 2, 300: 0, 70_000: 1}.__getitem__)(ids)
    assert np.array_equal(pixels(tmp_path / "out/train/label/000000000000.png"), needed)
    assert load_config([tmp_path / "out/dataset.toml"]).data.classes == ("cup", "cat", "wall")
    assert "1 images without an annotation passed over" in capsys.readouterr().out
    assert is_sound(tmp_path / "out") == 1
    told["segments_info"] = segments[:2]
    file, images = coco(tmp_path, [told])
    with pytest.raises(ConfigError, match="holds segment 70000, the JSON does not"):
        bring(tmp_path / "again", "coco", file, "--images", images)


def packed(runs: list[int]) -> str:
    """COCO's text of run lengths, as its C code writes it."""
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            code, number = number & 31, number >> 5
            more = number != (-1 if code & 16 else 0)
            text += chr(48 + (code | 32 * more))
    return text


def test_coco_run_lengths_and_polygons(tmp_path: Path) -> None:
    mask = np.random.default_rng(2).random(HW) < 0.4
    column = mask.T.ravel()
    changes = np.flatnonzero(np.diff(column.astype(np.int8))) + 1
    runs = np.diff([0, *changes, column.size]).tolist()
    runs = [0, *runs] if column[0] else runs
    assert uncompressed(packed(runs)) == runs
    assert np.array_equal(from_runs(runs, HW), mask)
    text = {"size": list(HW), "counts": packed(runs)}
    square = [[4.0, 2.0, 9.0, 2.0, 9.0, 6.0, 4.0, 6.0]]
    annotations = [
        {"image_id": 11, "category_id": 4, "segmentation": square},
        {"image_id": 11, "category_id": 9, "segmentation": text},
    ]
    file, images = coco(tmp_path, annotations)
    bring(tmp_path / "out", "coco", file, "--images", images)
    needed = np.where(mask, 2, 255)
    needed[2:7, 4:10] = 1  # the smaller one is on top
    assert np.array_equal(pixels(tmp_path / "out/train/label/000000000001.png"), needed)
    text["size"] = [1, 1]
    file, images = coco(tmp_path, annotations)
    with pytest.raises(ConfigError, match="run lengths of .1, 1., the image is of .24, 32."):
        bring(tmp_path / "again", "coco", file, "--images", images)
    file.write_text("<html>", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a web page"):
        bring(tmp_path / "again", "coco", file, "--images", images)
    file.write_text('{"shapes": []}', encoding="utf-8")
    with pytest.raises(ConfigError, match="JSON of another form; needed: COCO's JSON with images"):
        bring(tmp_path / "again", "coco", file, "--images", images)


def test_labelme_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "labelme", tmp_path / "out"
    save(folder / "a.png", image(0))
    stream = io.BytesIO()
    Image.fromarray(image(1)).save(stream, "PNG")
    shapes = [
        {"label": "floor", "points": [[0, 12], [31, 12], [31, 23], [0, 23]]},
        {"label": "box", "points": [[5, 20], [9, 10]], "shape_type": "rectangle"},
        {"label": "__ignore__", "points": [[20, 0], [25, 0], [25, 3], [20, 3]]},
        {"label": "ball", "points": [[28, 4], [30, 4]], "shape_type": "circle"},
        {"label": "box", "points": [[1, 1], [2, 2]], "shape_type": "line"},
    ]
    size = {"imageHeight": HW[0], "imageWidth": HW[1]}
    files = {
        "a": {"shapes": shapes, "imagePath": "a.png", **size},
        "b": {
            "shapes": shapes[:1],
            "imagePath": "gone.png",
            "imageData": base64.b64encode(stream.getvalue()).decode(),
            **size,
        },
    }
    for name, told in files.items():
        (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    bring(out, "labelme", folder, "--background", "wall")
    assert "1 shapes passed over: a line" in capsys.readouterr().out
    assert load_config([out / "dataset.toml"]).data.classes == ("wall", "ball", "box", "floor")
    needed = np.zeros(HW, np.uint8)
    needed[12:24] = 3
    needed[10:21, 5:10] = 2
    needed[0:4, 20:26] = 255
    found = pixels(out / "train/label/a.png")
    disc = np.hypot(*(np.indices(HW) - np.array([4, 28])[:, None, None]))
    assert (found[disc <= 1.5] == 1).all()
    assert np.array_equal(np.where(disc <= 3, 0, found), np.where(disc <= 3, 0, needed))
    assert np.array_equal(pixels(out / "train/image/b.png"), image(1))
    assert is_sound(out) == 2
    with pytest.raises(ConfigError, match="names the class 'floor', which data.classes lacks; did"):
        bring(tmp_path / "again", "labelme", folder, "--classes", "flor,box,ball")
    files["a"]["shapes"] = [{"label": "box", "points": [[1, 1], [2, 2]]}]
    (folder / "a.json").write_text(json.dumps(files["a"]), encoding="utf-8")
    with pytest.raises(ConfigError, match="a.json is of a polygon of 2 points; needed: polygons,"):
        bring(tmp_path / "again", "labelme", folder)


def test_a_table_of_paths_with_turned_depth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = np.random.default_rng(3).integers(0, 10_000, HW, np.uint16)
    turned = (depth << np.uint16(3)) | (depth >> np.uint16(13))
    assert np.array_equal(unturned(turned), depth)
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert len(np.unique(unturned(every))) == 65536
    label = np.random.default_rng(4).integers(0, 3, HW, np.uint8)
    lines = ["image,depth,label,split,scene"]
    for number, split in enumerate(("train", "val", "train", "test")):
        save(
            tmp_path / f"room{number // 2}/rgb/1.png"
            if number % 2
            else tmp_path / f"room{number // 2}/rgb/0.png",
            image(number),
        )
        save(tmp_path / f"d/{number}.png", turned)
        save(tmp_path / f"l/{number}.png", label)
        labelled = "" if split == "test" else f"l/{number}.png"
        place = f"room{number // 2}/rgb/{number % 2}.png"
        lines.append(f"{place}, d/{number}.png, {labelled}, {split}, room{number // 2}")
    table, out = tmp_path / "frames.csv", tmp_path / "out"
    table.write_text("\n".join(lines), encoding="utf-8")
    bring(out, "csv", table, "--classes", "a,b,c", "--depth-code", "sunrgbd")
    assert "4 depth maps turned by three bits" in capsys.readouterr().out
    assert rows(out / "splits.csv") == {
        "stem": "fold",
        "room0_rgb_0": "train",
        "room0_rgb_1": "validation",
        "room1_rgb_0": "train",
    }
    assert rows(out / "scenes.csv")["room1_rgb_1"] == "room1"
    assert np.array_equal(pixels(out / "train/depth/room0_rgb_1.png"), depth)
    copied = (out / "train/label/room0_rgb_0.png").read_bytes()
    assert copied == (tmp_path / "l/0.png").read_bytes()
    assert is_sound(out) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!doctype html>", "is a web page"),
        ("picture,label\na,b", "is of the columns picture,label; needed: a CSV whose header"),
        ("image\n", "is of a header alone"),
        ("image,label\nx.png,l.png", "line 2: image 'x.png': no such file in"),
        ("image,label\ni.png,l.jpg", "line 2: label 'l.jpg'; needed: .png"),
        ("image,split\ni.png,dev", "line 2: split 'dev'; needed: train, training, val"),
        ("image,label\ni.png,", "line 2: a frame to train on has no label"),
        ("image,stem,label\ni.png,a,l.png\ni.png,a,l.png", "two frames of train would be named a"),
        ("image,split\ni.png,test", "there is no frame to train on"),
    ],
)
def test_faults_of_a_table_are_one_line(tmp_path: Path, text: str, told: str) -> None:
    save(tmp_path / "i.png", image(0))
    save(tmp_path / "l.png", image(0)[..., 0])
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        bring(tmp_path / "out", "csv", tmp_path / "t.csv")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
