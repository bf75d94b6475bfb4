"""What else a prediction may be asked for: outputs, views, folds, several runs, tiles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import predict
from engine.config import Config
from engine.mistakes import ConfigError
from engine.nyuv2 import PALETTE
from engine.rundir import RunDir

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def mask_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def run(*arguments: object) -> None:
    assert predict.main(list(map(str, arguments))) == 0


@pytest.fixture
def test_frames(tiny_config: Config) -> Path:
    return Path(tiny_config.data.root) / "test" / "image"


def test_what_is_asked_for_is_written_and_agrees(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    kinds = "colour,overlay,probabilities,confidence"
    run(finished_run.dir.root, test_frames, "--save", kinds, "--out", tmp_path)
    expected = np.load(finished_run.dir.submission)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("colours", "confidence", "overlay", "probabilities"),
    ]
    colours = np.array(PALETTE)
    for n, stem in enumerate(f"{i:03d}" for i in range(5)):
        prob_CHW = np.load(tmp_path / "probabilities" / f"{stem}.npy")
        assert (prob_CHW.shape, prob_CHW.dtype) == ((13, 48, 64), np.float16)
        np.testing.assert_allclose(prob_CHW.astype(np.float32).sum(axis=0), 1, atol=5e-3)
        assert (prob_CHW.argmax(axis=0) != expected[n]).mean() < 0.02  # rounded to half
        confidence_HW = mask_of(tmp_path / "confidence" / f"{stem}.png")
        assert np.abs(confidence_HW / 255 - prob_CHW.max(axis=0)).max() < 0.01
        with Image.open(tmp_path / "overlay" / f"{stem}.png") as image:
            mixed_HW3 = np.array(image).astype(int)
        with Image.open(test_frames / f"{stem}.png") as image:
            half_HW3 = (np.array(image).astype(int) + colours[expected[n]]) / 2
        assert np.abs(mixed_HW3 - half_HW3).max() <= 1
        with Image.open(tmp_path / "colours" / f"{stem}.png") as image:
            assert np.array_equal(np.array(image), expected[n])


def test_views_that_are_asked_for_are_those_of_a_run_that_has_them(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    root = finished_run.dir.root
    run(root, test_frames, "--out", tmp_path / "plain")
    same = ["--size", "48,64", "--scales", "0.75,1", "--flip", "--batch", "3"]
    run(root, test_frames, *same, "--out", tmp_path / "same")
    other = ["--size", "96x128", "--scales", "1", "--no-flip"]
    run(root, test_frames, *other, "--out", tmp_path / "other")
    plain, again, others = (
        np.stack([mask_of(path) for path in sorted((tmp_path / name).iterdir())])
        for name in ("plain", "same", "other")
    )
    assert np.array_equal(plain, again)
    assert (plain != others).any()


def test_one_fold_alone_and_two_runs_together_look_as_asked(
    finished_run: FinishedRun, rgbd_run: RunDir, test_frames: Path, tmp_path: Path
) -> None:
    """The mean of two equal runs is the run; of both folds alone, neither is the mean."""
    root = finished_run.dir.root
    for name, arguments in {
        "run": [root],
        "twice": [root, root],
        "zero": [root, "--fold", "0"],
        "one": [root, "--fold", "1"],
        "mixed": [root, rgbd_run.root],
    }.items():
        runs = [word for word in arguments if isinstance(word, Path)]
        run(*runs, test_frames, *arguments[len(runs) :], "--out", tmp_path / name)
    masks = {
        path.name: np.stack([mask_of(each) for each in sorted(path.iterdir())])
        for path in tmp_path.iterdir()
    }
    assert (masks["run"] != masks["twice"]).mean() < 1e-3  # ties, by rounding
    assert (masks["zero"] != masks["one"]).any()
    assert (masks["mixed"] != masks["run"]).any()
    with pytest.raises(ConfigError, match="--fold 2: .* has folds 0 to 1"):
        run(root, test_frames, "--fold", "2")


def test_tiles_give_masks_of_a_large_image_and_say_of_which_size(
    finished_run: FinishedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="engine")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    save = ["--save", "masks,probabilities", "--out", tmp_path / "out"]
    run(finished_run.dir.root, tmp_path / "large.png", "--tile", "64,96", *save)
    mask_HW = mask_of(tmp_path / "out" / "large.png")
    prob_CHW = np.load(tmp_path / "out" / "probabilities" / "large.npy")
    assert (mask_HW.shape, prob_CHW.shape) == ((200, 300), (13, 200, 300))
    assert (mask_HW != prob_CHW.argmax(axis=0)).mean() < 0.02
    assert "tiles of 64 x 96 pixels, of frames at their own size" in caplog.text
    assert "images/s; masks, probabilities in" in caplog.text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--tile", "70,64"), "--tile 70,64: sides are multiples of 32; type 64,64"),
        (("--tile", "64"), "--tile 64: needed is H,W as in 512,512"),
        (("--size", "large"), "--size large: needed is own, training, or H,W as in 480,640"),
        (("--scales", "1;2"), "--scales 1;2: needed are numbers, as in 0.75,1,1.25"),
        (("--scales", "-1"), "inference.scales must be positive"),
        (("--overlap", "1"), "--overlap 1.0: needed is a share between 0 and 0.75"),
        (("--batch", "0"), "inference.batch_size"),
        (("--save", "mask"), "--save mask: there are masks, colour, overlay, probabilities, conf"),
    ],
)
def test_a_flag_with_another_value_is_refused_with_what_is_needed(
    finished_run: FinishedRun, test_frames: Path, flags: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(finished_run.dir.root, test_frames, *flags)
    assert told in str(caught.value)
