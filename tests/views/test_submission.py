"""The submission's files, their bytes, and a stop between any two writes."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Config
from engine.data.normalisation import Normalisation
from engine.frames.index import Dataset, Sample, load_dataset
from engine.model.network import Prediction
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.operations import choose_operations
from engine.views.masks import predict_masks
from engine.views.networks import FoldNetwork
from engine.views.submission import forget_progress, frame_size, write_submission

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def dataset(tiny_config: Config) -> Dataset:
    data = tiny_config.data
    return load_dataset(Path(data.root), data.classes, data.small_classes, need_depth=False)


def networks(shift: int = 0) -> list[FoldNetwork]:
    def network(fold: int) -> FoldNetwork:
        generator = torch.Generator().manual_seed(fold + shift)
        mixing = 4 * torch.randn(13, 3, 1, 1, generator=generator)

        def forward(image: Tensor) -> Prediction:
            logits = F.conv2d(F.avg_pool2d(image, 4), mixing)
            return Prediction(logits, logits[:, 0])

        plain = Normalisation((128.0, 128.0, 128.0), (64.0, 64.0, 64.0))
        return FoldNetwork(fold, forward, plain, 3, align_corners=True)

    return [network(0), network(1)]


def no_masks(start: int) -> Any:
    raise AssertionError("nothing is left to predict")


def masks_of(
    config: Config, dataset: Dataset, shift: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    found = predict_masks(networks(shift), dataset.test.samples, 0.7, config, POLICY)
    return np.concatenate([mask for _, mask in found])


def write(
    run: RunDir, config: Config, dataset: Dataset, *, key: str = "key", shift: int = 0
) -> float:
    samples = dataset.test.samples
    seconds = write_submission(
        lambda start: predict_masks(networks(shift), samples, 0.7, config, POLICY, start),
        samples,
        run,
        key,
    )
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
    assert sorted(path.name for path in run.root.iterdir()) == ["submission.npy", "submission.zip"]


@pytest.mark.parametrize(
    "event",
    [
        *(f"renamed .submission.json {n}" for n in (1, 2, 3)),
        "write submission.npy 1",
        "write submission.zip 1",
    ],
)
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    event: str,
    tiny_config: Config,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = RunDir(tmp_path / "whole"), RunDir(tmp_path / "parts")
    for run in (whole, parts):
        run.root.mkdir()
    write(whole, tiny_config, dataset)
    moment, name, count = event.split()
    with monkeypatch.context() as patch:
        replace, seen = Path.replace, [0]

        def stopping(self: Path, target: Path) -> Path:
            seen[0] += target.name == name
            now = target.name == name and seen[0] == int(count)
            if now and moment == "write":
                raise StoppedError
            result = replace(self, target)
            if now:
                raise StoppedError
            return result

        patch.setattr(Path, "replace", stopping)
        with pytest.raises(StoppedError):
            write(parts, tiny_config, dataset)
    write(parts, tiny_config, dataset)
    for ours, theirs in (
        (parts.submission, whole.submission),
        (parts.submission_zip, whole.submission_zip),
    ):
        assert ours.read_bytes() == theirs.read_bytes()
    assert not (parts.root / ".submission.npy.partial").exists()


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


def test_one_size_is_needed() -> None:
    def sample(hw: tuple[int, int]) -> Sample:
        return Sample("x", Path(), None, None, hw, None)

    assert frame_size([]) is None
    assert frame_size([sample((3, 4)), sample((3, 4))]) == (3, 4)
    assert frame_size([sample((3, 4)), sample((4, 3))]) is None
