"""A run on files whose values mean something else gives what a run on files put right gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from engine import predict, train

FLAGS = ["--model.input", "rgbd", "--training.epochs", "1", "--inference.scales", "1.0"]

RAW = [
    *("--data.label_map", ",".join(f"{3 * index}={index}" for index in range(13))),
    *(
        "--data.ignore",
        "100,200",
        "--data.depth_scale",
        "0.000125",
        "--data.depth_invalid",
        "65535",
    ),
]


def spoil(root: Path, clean: Path) -> None:
    """Labels three times as large in 16 bits, their holes 200; eighths of a millimetre."""

    def copy(name: str, change: Callable[[NDArray[np.uint16]], NDArray[np.uint16]]) -> None:
        (root / name).mkdir(parents=True)
        for path in (clean / name).iterdir():
            pixels = change(np.array(Image.open(path)).astype(np.uint16))
            Image.fromarray(pixels.astype(np.uint16)).save(root / name / path.name)

    copy("train/label", lambda label: np.where(label == 255, 200, 3 * label))
    for split in ("train", "test"):
        copy(f"{split}/depth", lambda depth: np.where(depth == 0, 65535, 8 * depth))
        (root / split / "image").symlink_to(clean / split / "image")


def test_a_run_on_raw_values_is_that_on_values_put_right(
    tiny_root: Path, tiny_toml: Path, tmp_path: Path
) -> None:
    spoil(tmp_path / "data", tiny_root)
    runs = tmp_path / "raw", tmp_path / "clean"
    for run, root, flags in zip(runs, (tmp_path / "data", tiny_root), (RAW, []), strict=True):
        arguments = ["--config", str(tiny_toml), "--data.root", str(root), "--out", str(run)]
        assert train.main([*arguments, *FLAGS, *flags]) == 0
    for fold in (0, 1):
        ours, theirs = (load_file(run / f"fold{fold}/best.safetensors") for run in runs)
        assert all((ours[name] == theirs[name]).all() for name in theirs)
    for name in ("oof/prob.npy", "submission.npy", "frames.npy"):
        np.testing.assert_array_equal(np.load(runs[0] / name), np.load(runs[1] / name))
    # The masks of the raw test frames, by the unit that the run keeps.
    images = tmp_path / "data" / "test" / "image"
    depth = tmp_path / "data" / "test" / "depth"
    masks = tmp_path / "masks"
    assert (
        predict.main([str(runs[0]), str(images), "--depth", str(depth), "--out", str(masks)]) == 0
    )
    found = [np.asarray(Image.open(path)) for path in sorted(masks.iterdir())]
    np.testing.assert_array_equal(np.stack(found), np.load(runs[1] / "submission.npy"))
