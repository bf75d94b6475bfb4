"""The submission's files, their bytes, and a stop between any two writes."""

import errno
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.config import Config
from engine.damage import DamageError
from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader
from engine.frames.index import Dataset, DatasetSpec, load_dataset
from engine.model.network import Prediction
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views.masks import masks
from engine.views.predictor import FoldNetwork, Predictor
from engine.views.resumable import ResumableArray
from engine.views.store import forget_progress
from engine.views.submission import is_submitted, write_submission
from tests.stopping import StoppedError, stop_at

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
SPEC = InputSpec(3, Normalisation((128.0, 128.0, 128.0), (64.0, 64.0, 64.0)))


@pytest.fixture(scope="module")
def dataset(tiny_config: Config) -> Dataset:
    data = tiny_config.data
    return load_dataset(Path(data.root), DatasetSpec(data.classes, data.small_classes))


@pytest.fixture(scope="module")
def mixed(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same dataset, its test frames of two sizes."""
    root = tmp_path_factory.mktemp("mixed")
    shutil.copytree(tiny_config.data.root, root, dirs_exist_ok=True)
    for number in (1, 2):
        for kind in ("image", "depth"):
            path = root / "test" / kind / f"{number:03d}.png"
            with Image.open(path) as opened:
                opened.crop((0, 0, 40, 47)).save(path)
    data = tiny_config.data
    return load_dataset(root, DatasetSpec(data.classes, data.small_classes))


def predictor_of(config: Config, shift: int = 0) -> Predictor:
    """Two networks at one temperature; another `shift` stands for other weights."""

    def network(fold: int) -> FoldNetwork:
        generator = torch.Generator().manual_seed(fold + shift)
        mixing = 4 * torch.randn(13, 3, 1, 1, generator=generator)

        def forward(image: Tensor) -> Prediction:
            logits = F.conv2d(F.avg_pool2d(image, 4), mixing)
            return Prediction(logits, logits[:, 0])

        return FoldNetwork(fold, forward, SPEC)

    reader = FrameReader(POLICY.device, config.inference.batch_size, depth=False, workers=1)
    networks = [network(0), network(1)]
    return Predictor(networks, config.inference, config.data, POLICY, reader).at(0.7)


def no_masks(start: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    raise AssertionError("nothing is left to predict")


def masks_of(config: Config, dataset: Dataset, shift: int = 0) -> NDArray[np.uint8]:
    found = masks(predictor_of(config, shift), dataset.test.samples)
    return np.concatenate([mask for _, mask in found])


def write(
    run: RunDir, config: Config, dataset: Dataset, *, key: str = "key", shift: int = 0
) -> float:
    samples = dataset.test.samples
    predictor = predictor_of(config, shift)
    seconds = write_submission(lambda start: masks(predictor, samples, start), samples, run, key)
    assert seconds is not None
    return seconds


def test_the_array_is_the_masks_in_stem_order_and_the_zip_holds_it(
    tiny_config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    assert write(run, tiny_config, dataset) > 0
    array = np.load(run.submission)
    assert array.dtype == np.uint8
    assert array.shape == (5, 48, 64)
    assert np.array_equal(array, masks_of(tiny_config, dataset))
    assert len(np.unique(array)) > 2, "a test on masks of one class would show little"
    with zipfile.ZipFile(run.submission_zip) as archive:
        assert archive.namelist() == ["submission.npy"]
        assert np.array_equal(np.load(io.BytesIO(archive.read("submission.npy"))), array)
    assert [sample.stem for sample in dataset.test.samples] == [f"{i:03d}" for i in range(5)]
    forget_progress(run)
    rows = [f"{row},{row:03d}" for row in range(5)]
    assert run.submission_csv.read_text("utf-8").splitlines() == ["row,stem", *rows]
    names = [f"submission.{ending}" for ending in ("csv", "npy", "zip")]
    found = sorted(path.name for path in run.root.iterdir())
    assert found == [*(f".{name}.sum" for name in names), *names]


def whole_and_stopped(
    event: str, made_of: tuple[Config, Dataset], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[RunDir, RunDir]:
    """A run with a submission, and one that died on the way to it."""
    whole, parts = RunDir(folder / "whole"), RunDir(folder / "parts")
    for run in (whole, parts):
        run.root.mkdir()
    write(whole, *made_of)
    with monkeypatch.context() as patch:
        stop_at(event, patch)
        with pytest.raises(StoppedError):
            write(parts, *made_of)
    return whole, parts


def content(run: RunDir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.root.glob("submission.*")}


@pytest.mark.parametrize(
    "event",
    [
        *(f"renamed .submission.json {n}" for n in (1, 2, 3)),
        *(
            f"{moment} submission.{kind} 1"
            for moment in ("write", "renamed")
            for kind in ("csv", "zip", "npy")
        ),
    ],
)
@pytest.mark.parametrize("sizes", ["one", "several"])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    event: str,
    sizes: str,
    tiny_config: Config,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sizes == "several" and "npy" in event:
        return  # there is no such file
    dataset = request.getfixturevalue("dataset" if sizes == "one" else "mixed")
    whole, parts = whole_and_stopped(event, (tiny_config, dataset), tmp_path, monkeypatch)
    write(parts, tiny_config, dataset)
    assert content(parts) == content(whole)
    assert len(content(whole)) == (3 if sizes == "one" else 2)
    assert is_submitted(parts)
    assert not (parts.root / ".submission.npy.partial").exists()


@pytest.mark.parametrize("noted", [1, 3])
def test_what_is_noted_of_a_partial_file_that_is_gone_is_predicted_again(
    noted: int,
    tiny_config: Config,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = f"renamed .submission.json {noted}"
    whole, parts = whole_and_stopped(event, (tiny_config, dataset), tmp_path, monkeypatch)
    (parts.root / ".submission.npy.partial").unlink()
    write(parts, tiny_config, dataset)
    assert content(parts) == content(whole)


def test_what_was_damaged_before_it_was_whole_is_named(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = "renamed .submission.json 2"
    whole, parts = whole_and_stopped(event, (tiny_config, dataset), tmp_path, monkeypatch)
    partial = parts.root / ".submission.npy.partial"
    damaged = bytearray(partial.read_bytes())
    damaged[200] ^= 1
    partial.write_bytes(damaged)
    told = r"\.submission\.npy\.partial is damaged: item 0 is not what was written; .*delete it"
    with pytest.raises(DamageError, match=told):
        write(parts, tiny_config, dataset)
    partial.unlink()
    write(parts, tiny_config, dataset)
    assert content(parts) == content(whole)


def test_progress_is_forgotten_where_nothing_can_be_written(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    run = RunDir(tmp_path)
    write(run, tiny_config, dataset)
    monkeypatch.setattr(Path, "unlink", refuse)
    forget_progress(run)
    forget_progress(RunDir(tmp_path / "nothing was left"))


def test_what_another_key_began_and_did_not_note_is_not_taken_for_ones_own(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = "renamed .submission.json 2"
    whole, parts = whole_and_stopped(event, (tiny_config, dataset), tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        stop_at("write .submission.json 1", patch)
        with pytest.raises(StoppedError):
            write(parts, tiny_config, dataset, key="other", shift=7)
    write(parts, tiny_config, dataset)
    assert content(parts) == content(whole)


def test_what_stands_already_is_not_predicted_again(
    tiny_config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    seconds = write(run, tiny_config, dataset)
    before = run.submission.stat().st_mtime_ns
    again = write_submission(no_masks, dataset.test.samples, run, "key")
    assert again == seconds
    assert run.submission.stat().st_mtime_ns == before


def test_what_other_weights_predicted_is_predicted_again(
    tiny_config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    write(run, tiny_config, dataset)
    write(run, tiny_config, dataset, key="other", shift=7)
    assert np.array_equal(np.load(run.submission), masks_of(tiny_config, dataset, shift=7))


def test_the_array_is_given_back_where_prediction_fails(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, closed = ResumableArray.close, []

    def noting(self: ResumableArray) -> None:
        close(self)
        closed.append(self)

    monkeypatch.setattr(ResumableArray, "close", noting)
    stop_at("renamed .submission.json 1", monkeypatch)
    with pytest.raises(StoppedError):
        write(RunDir(tmp_path), tiny_config, dataset)
    assert len(closed) == 1


def test_masks_of_several_sizes_are_pictures_in_the_zip(
    tiny_config: Config, mixed: Dataset, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    write(run, tiny_config, mixed)
    samples = mixed.test.samples
    found = [mask for _, many in masks(predictor_of(tiny_config), samples) for mask in many]
    with zipfile.ZipFile(run.submission_zip) as archive:
        assert archive.namelist() == [f"{sample.stem}.png" for sample in samples]
        for sample, mask in zip(samples, found, strict=True):
            with Image.open(io.BytesIO(archive.read(f"{sample.stem}.png"))) as picture:
                assert picture.mode == "L"
                assert np.array_equal(np.array(picture), mask)
                assert mask.shape == sample.hw
    assert not run.submission.exists()
    assert len(run.submission_csv.read_text("utf-8").splitlines()) == 1 + len(samples)
    assert write_submission(no_masks, samples, run, "key") is not None


@pytest.mark.parametrize("harm", ["no zip", "no array", "cut zip"])
def test_a_submission_that_lacks_a_file_is_none(
    harm: str, tiny_config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    write(run, tiny_config, dataset)
    before = content(run)
    assert is_submitted(run)
    harms: dict[str, Callable[[], object]] = {
        "no zip": run.submission_zip.unlink,
        "no array": run.submission.unlink,
        "cut zip": lambda: run.submission_zip.write_bytes(before["submission.zip"][:-9]),
    }
    harms[harm]()
    assert not is_submitted(run)
    write(run, tiny_config, dataset)
    assert content(run) == before


def test_without_test_frames_there_is_no_submission(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert write_submission(no_masks, [], RunDir(tmp_path), "key") is None
    assert "no submission of the test frames: there are none" in caplog.text
    assert not [*tmp_path.iterdir()]
