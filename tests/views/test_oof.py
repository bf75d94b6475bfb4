"""Out-of-fold prediction against frames predicted one by one, stopped and resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Config
from engine.data.folds import Folds, make_folds
from engine.data.normalisation import Normalisation
from engine.frames.index import Dataset, Sample, load_dataset
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy
from engine.runtime.operations import choose_operations
from engine.views.frame_batches import frame_batches
from engine.views.networks import FoldNetwork
from engine.views.oof import predict_fold, store_hw
from engine.views.store import ProbStoreWriter, StoreLayout, open_store
from engine.views.tta import mean_probabilities
from kernels.confusion import probability_confusion

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def dataset(tiny_config: Config) -> Dataset:
    data = tiny_config.data
    return load_dataset(Path(data.root), data.classes, data.small_classes, need_depth=False)


@pytest.fixture(scope="module")
def folds(tiny_config: Config, dataset: Dataset) -> Folds:
    return make_folds(dataset.train.samples, "blocked", 2, 42, 1)


def network_of(fold: int) -> FoldNetwork:
    """Any function of the image will do; each fold has its own."""
    mixing = torch.randn(13, 3, 1, 1, generator=torch.Generator().manual_seed(fold))

    def forward(image: Tensor) -> Prediction:
        logits = F.conv2d(F.avg_pool2d(image, 4), 4 * mixing)
        return Prediction(logits, logits[:, 0])

    plain = Normalisation((128.0, 128.0, 128.0), (64.0, 64.0, 64.0))
    return FoldNetwork(fold, forward, plain, 3, align_corners=True)


def writer_of(folder: Path, config: Config, dataset: Dataset, folds: Folds) -> ProbStoreWriter:
    samples = dataset.train.samples
    return ProbStoreWriter(
        folder,
        StoreLayout(
            stems=tuple(sample.stem for sample in samples),
            fold_of=folds.fold_of,
            classes=config.data.classes,
            hw=store_hw(config, samples),
            temperatures=config.inference.temperatures,
            key="key",
        ),
    )


def predict(
    fold: int,
    writer: ProbStoreWriter,
    config: Config,
    dataset: Dataset,
    folds: Folds,
    *,
    weights: str = "weights",
) -> None:
    predict_fold(
        lambda: network_of(fold),
        fold,
        weights,
        folds,
        dataset.train.samples,
        config,
        POLICY,
        writer,
    )


def one_by_one(
    samples: Sequence[Sample], config: Config, fold: int
) -> tuple[list[Tensor], np.ndarray[Any, Any]]:
    """(T, C, h, w) of each sample and the confusion by temperature, batch size 1."""
    maps, count = [], np.zeros((2, 13, 13), np.int64)
    for frames in frame_batches(samples, 1, POLICY.device, depth=False, label=True, workers=1):
        prob = mean_probabilities(
            [network_of(fold)], frames, config.inference, config.inference.temperatures, 13, POLICY
        )
        assert frames.label_BHW is not None
        count += np.stack(
            [probability_confusion(prob[:, t], frames.label_BHW).numpy() for t in range(2)]
        )
        maps.append(F.interpolate(prob[0], (24, 32), mode="bilinear"))
    return maps, count


def test_every_frame_is_predicted_by_the_fold_that_never_saw_it(
    tiny_config: Config, dataset: Dataset, folds: Folds, tmp_path: Path
) -> None:
    writer = writer_of(tmp_path, tiny_config, dataset, folds)
    expected: dict[int, Tensor] = {}
    for fold in (0, 1):
        predict(fold, writer, tiny_config, dataset, folds)
        validation = folds.validation(fold)
        samples = [dataset.train.samples[i] for i in validation]
        maps, count = one_by_one(samples, tiny_config, fold)
        state = writer.state(fold, "weights")
        assert state["done"] == len(validation) == 6
        assert state["confusion"] == count.tolist()
        expected |= dict(zip(validation.tolist(), maps, strict=True))
    writer.finish(1.0, "whole")
    prob_NChw = open_store(tmp_path).prob_NChw
    assert prob_NChw.shape == (12, 13, 24, 32)
    for index, prob_Chw in enumerate(prob_NChw):
        # float16 keeps eleven bits of a probability.
        np.testing.assert_allclose(prob_Chw, expected[index][1].numpy(), atol=6e-4)
        np.testing.assert_allclose(prob_Chw.astype(np.float32).sum(0), 1, atol=5e-3)


def test_the_confusion_counts_every_labelled_pixel_at_the_labels_own_size(
    tiny_config: Config, dataset: Dataset, folds: Folds, tmp_path: Path
) -> None:
    writer = writer_of(tmp_path, tiny_config, dataset, folds)
    inference = tiny_config.inference.model_copy(update={"base_hw": (32, 32)})
    config = tiny_config.model_copy(update={"inference": inference})
    writer = writer_of(tmp_path, config, dataset, folds)
    predict(0, writer, config, dataset, folds)
    labelled = dataset.statistics.class_pixels_NC[folds.validation(0)].sum(axis=0)
    for count in writer.state(0, "weights")["confusion"]:
        assert np.array(count).sum(axis=1).tolist() == labelled.tolist()


@pytest.mark.parametrize("batches", [1, 2])
def test_stopped_and_reopened_it_goes_on_to_the_same_bytes(
    batches: int,
    tiny_config: Config,
    dataset: Dataset,
    folds: Folds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for fold in (0, 1):
        predict(fold, writer_of(whole, tiny_config, dataset, folds), tiny_config, dataset, folds)
    with monkeypatch.context() as patch:
        commit, done = ProbStoreWriter.commit, [0]

        def stopping(self: ProbStoreWriter, fold: int, state: dict[str, Any]) -> None:
            commit(self, fold, state)
            done[0] += 1
            if done[0] == batches:
                raise StoppedError

        patch.setattr(ProbStoreWriter, "commit", stopping)
        writer = writer_of(parts, tiny_config, dataset, folds)
        with pytest.raises(StoppedError):
            predict(0, writer, tiny_config, dataset, folds)
    for fold in (0, 1):
        predict(fold, writer_of(parts, tiny_config, dataset, folds), tiny_config, dataset, folds)
    confusions = []
    for folder in (whole, parts):
        writer = writer_of(folder, tiny_config, dataset, folds)
        confusions.append([writer.state(fold, "weights")["confusion"] for fold in (0, 1)])
        writer.finish(0.7, "whole")
    assert confusions[0] == confusions[1]
    assert (whole / "prob.npy").read_bytes() == (parts / "prob.npy").read_bytes()


def test_a_predicted_fold_loads_no_network(
    tiny_config: Config, dataset: Dataset, folds: Folds, tmp_path: Path
) -> None:
    writer = writer_of(tmp_path, tiny_config, dataset, folds)
    predict(0, writer, tiny_config, dataset, folds)

    def load() -> FoldNetwork:
        raise AssertionError("nothing is left to predict")

    predict_fold(load, 0, "weights", folds, dataset.train.samples, tiny_config, POLICY, writer)


def test_new_weights_predict_their_fold_again_from_the_start(
    tiny_config: Config, dataset: Dataset, folds: Folds, tmp_path: Path
) -> None:
    writer = writer_of(tmp_path, tiny_config, dataset, folds)
    predict(0, writer, tiny_config, dataset, folds)
    before = writer.state(0, "weights")["confusion"]
    predict(0, writer, tiny_config, dataset, folds, weights="new")
    assert writer.state(0, "new")["confusion"] == before
    assert writer.state(0, "weights") == {}


def test_the_store_has_half_the_base_size_or_half_the_largest_frame(
    tiny_config: Config, dataset: Dataset
) -> None:
    samples = dataset.train.samples
    assert store_hw(tiny_config, samples) == (24, 32)
    inference = tiny_config.inference.model_copy(update={"base_hw": None})
    config = tiny_config.model_copy(update={"inference": inference})
    odd = [Sample(str(hw), Path(), None, None, hw, None) for hw in ((101, 40), (64, 201))]
    assert store_hw(config, tuple(odd)) == (50, 100)
