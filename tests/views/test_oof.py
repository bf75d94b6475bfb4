"""Out-of-fold prediction against frames predicted one by one, stopped and resumed."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.config import Config
from engine.data.folds import Folds, make_folds
from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader
from engine.frames.index import Dataset, DatasetSpec, Sample, load_dataset
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views import behind
from engine.views.behind import fetch_behind
from engine.views.predictor import FoldNetwork, Predictor
from engine.views.records import FoldState
from engine.views.store import ProbStoreWriter, oof_layout, open_store, predict_fold
from kernels.confusion import probability_confusion
from tests.pretend_gpu import GPU, PretendGpu
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
SPEC = InputSpec(3, Normalisation((128.0, 128.0, 128.0), (64.0, 64.0, 64.0)))


@dataclass(frozen=True)
class Case:
    """Frames in two folds, and what predicts them."""

    config: Config
    dataset: Dataset
    folds: Folds
    policy: DevicePolicy = POLICY

    def writer(self, folder: Path) -> ProbStoreWriter:
        samples = self.dataset.train.samples
        return ProbStoreWriter(folder, oof_layout(self.config, samples, self.folds, "key"))

    def predictor(self, fold: int, batch_size: int) -> Predictor:
        config, policy = self.config, self.policy
        reader = FrameReader(policy.device, batch_size, depth=False, workers=1)
        return Predictor([network_of(fold)], config.inference, config.data, policy, reader)

    def predict(
        self, fold: int, writer: ProbStoreWriter, *, weights: str = "weights", batch_size: int = 2
    ) -> FoldState:
        def load(_: int) -> Predictor:
            return self.predictor(fold, batch_size)

        return predict_fold(load, fold, weights, self.dataset.train.samples, writer)

    def one_by_one(
        self, samples: Sequence[Sample], fold: int
    ) -> tuple[list[Tensor], NDArray[np.int64]]:
        """(T, C, h, w) of each sample and the confusion by temperature, batch size 1."""
        maps, count = [], np.zeros((2, 13, 13), np.int64)
        for frames, prob in self.predictor(fold, 1).predict(samples, label=True):
            label = frames.label_BHW
            assert label is not None
            count += np.stack([probability_confusion(prob[:, t], label).numpy() for t in range(2)])
            maps.append(F.interpolate(prob[0], (24, 32), mode="bilinear"))
        return maps, count


@pytest.fixture(scope="module")
def case(tiny_config: Config) -> Case:
    data = tiny_config.data
    dataset = load_dataset(Path(data.root), DatasetSpec(data.classes, data.small_classes))
    folds = make_folds(dataset.train.samples, "blocked", 2, 42, 1)
    return Case(tiny_config, dataset, folds)


def network_of(fold: int) -> FoldNetwork:
    """Any function of the image will do; each fold has its own."""
    mixing = torch.randn(13, 3, 1, 1, generator=torch.Generator().manual_seed(fold))

    def forward(image: Tensor) -> Prediction:
        logits = F.conv2d(F.avg_pool2d(image, 4), 4 * mixing.to(image.device))
        return Prediction(logits, logits[:, 0])

    return FoldNetwork(fold, forward, SPEC)


def confusion_of(writer: ProbStoreWriter, fold: int) -> list[list[list[int]]]:
    return writer.state(fold, "weights").confusion


def test_every_frame_is_predicted_by_the_fold_that_never_saw_it(case: Case, tmp_path: Path) -> None:
    writer = case.writer(tmp_path)
    expected: dict[int, Tensor] = {}
    for fold in (0, 1):
        state = case.predict(fold, writer)
        assert state == writer.state(fold, "weights")
        validation = case.folds.validation(fold)
        samples = [case.dataset.train.samples[i] for i in validation]
        maps, count = case.one_by_one(samples, fold)
        assert state.done == len(validation) == 6
        assert state.confusion == count.tolist()
        expected |= dict(zip(validation.tolist(), maps, strict=True))
    writer.finish(1.0, "whole")
    prob_NChw = open_store(tmp_path).prob_NChw
    assert prob_NChw.shape == (12, 13, 24, 32)
    for index, prob_Chw in enumerate(prob_NChw):
        # float16 keeps eleven bits of a probability.
        np.testing.assert_allclose(prob_Chw, expected[index][1].numpy(), atol=6e-4)
        np.testing.assert_allclose(prob_Chw.astype(np.float32).sum(0), 1, atol=5e-3)


def test_the_confusion_counts_every_labelled_pixel_at_the_labels_own_size(
    case: Case, tmp_path: Path
) -> None:
    inference = case.config.inference.model_copy(update={"base_hw": (32, 32)})
    small = replace(case, config=case.config.model_copy(update={"inference": inference}))
    state = small.predict(0, small.writer(tmp_path))
    reports = case.dataset.train.reports
    labelled = np.sum([reports[n].class_pixels for n in case.folds.validation(0)], axis=0)
    for count_CC in np.array(state.confusion):
        assert count_CC.sum(axis=1).tolist() == labelled.tolist()


@pytest.mark.parametrize("batches", [1, 2])
def test_stopped_and_reopened_it_goes_on_to_the_same_bytes(
    batches: int, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for fold in (0, 1):
        case.predict(fold, case.writer(whole))
    with monkeypatch.context() as patch:
        commit, done = ProbStoreWriter.commit, [0]

        def stopping(self: ProbStoreWriter, fold: int, state: FoldState) -> None:
            commit(self, fold, state)
            done[0] += 1
            if done[0] == batches:
                raise StoppedError

        patch.setattr(ProbStoreWriter, "commit", stopping)
        with pytest.raises(StoppedError):
            case.predict(0, case.writer(parts))
    for fold in (0, 1):
        case.predict(fold, case.writer(parts))
    confusions = []
    for folder in (whole, parts):
        writer = case.writer(folder)
        confusions.append([confusion_of(writer, fold) for fold in (0, 1)])
        writer.finish(0.7, "whole")
    assert confusions[0] == confusions[1]
    assert (whole / "prob.npy").read_bytes() == (parts / "prob.npy").read_bytes()


def test_what_an_older_release_began_goes_on_without_calibration(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = case.predict(0, case.writer(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        # As an older release: it stops after two frames, and its note has no calibration.
        commit = ProbStoreWriter.commit

        def stop(self: ProbStoreWriter, fold: int, state: FoldState) -> None:
            older = FoldState.model_validate(state.model_dump(exclude={"calibration"}))
            commit(self, fold, older)
            raise StoppedError

        patch.setattr(ProbStoreWriter, "commit", stop)
        with pytest.raises(StoppedError):
            case.predict(0, case.writer(tmp_path / "parts"))
    assert "calibration" not in (tmp_path / "parts/progress.json").read_text("utf-8")
    end = case.predict(0, case.writer(tmp_path / "parts"))
    assert whole.calibration is not None
    assert end.calibration is None
    assert (end.done, end.confusion) == (whole.done, whole.confusion)


def test_a_predicted_fold_loads_no_network(case: Case, tmp_path: Path) -> None:
    writer = case.writer(tmp_path)
    state = case.predict(0, writer)

    def load(_: int) -> Predictor:
        raise AssertionError("nothing is left to predict")

    assert predict_fold(load, 0, "weights", case.dataset.train.samples, writer) == state


def test_a_network_of_another_fold_is_refused(case: Case, tmp_path: Path) -> None:
    writer, samples = case.writer(tmp_path), case.dataset.train.samples
    with pytest.raises(ValueError, match="by fold 0; the network of fold 1 was trained on it"):
        predict_fold(lambda _: case.predictor(1, 2), 0, "weights", samples, writer)
    assert writer.state(0, "weights").done == 0


def test_new_weights_predict_their_fold_again_from_the_start(case: Case, tmp_path: Path) -> None:
    writer = case.writer(tmp_path)
    before = case.predict(0, writer)
    again = case.predict(0, writer, weights="new")
    assert again.confusion == before.confusion
    assert writer.state(0, "new") == again
    assert writer.state(0, "weights").done == 0


def test_the_store_has_half_the_base_size_or_half_the_largest_sides(case: Case) -> None:
    odd = [Sample(str(hw), Path(), None, None, hw, None) for hw in ((101, 40), (64, 201))]
    # By area, of 48 x 64 pixels: 88 x 35 and 31 x 98.
    sizes = (((48, 64), (24, 32)), ("own", (50, 100)), ("training", (48, 48)))
    for base_hw, half_hw in sizes:
        inference = case.config.inference.model_copy(update={"base_hw": base_hw})
        config = case.config.model_copy(update={"inference": inference})
        assert oof_layout(config, odd, case.folds, "key").shape[2:] == half_hw


def test_the_layout_of_a_store_is_that_of_the_training_frames(case: Case) -> None:
    samples = case.dataset.train.samples
    layout = oof_layout(case.config, samples, case.folds, "key")
    assert layout.stems == tuple(sample.stem for sample in samples)
    assert layout.shape == (12, 13, 24, 32)
    assert layout.temperatures == case.config.inference.temperatures
    assert np.array_equal(layout.fold_of, case.folds.fold_of)


def test_torch_rounds_to_float16_as_numpy_does() -> None:
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    assert half[1] == 2.0**-24, "the smallest subnormal is among them"
    middle = (half[:-1] + half[1:]) * np.float32(0.5)  # exact: float32 has 13 bits more
    ends = np.float32(0), np.float32(np.inf)
    beside = [np.nextafter(each, end) for each in (half, middle) for end in ends]
    smaller = np.random.default_rng(0).random(100_000, np.float32) * 2.0 ** -np.arange(30)[:, None]
    every: list[NDArray[np.float32]] = [half, middle, *beside, smaller.astype(np.float32)]
    for numbers in every:
        found = torch.from_numpy(numbers).half().numpy()
        assert np.array_equal(found.view(np.uint16), numbers.astype(np.float16).view(np.uint16))


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each commit notes, where each batch of a GPU takes half a second."""
    commit, done = ProbStoreWriter.commit, list[int]()

    def fetch(results: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
        return fetch_behind(results, map(float, itertools.count(0, 0.5)).__next__)

    monkeypatch.setattr(behind, "fetch_behind", fetch)

    def noting(self: ProbStoreWriter, fold: int, state: FoldState) -> None:
        commit(self, fold, state)
        done.append(state.done)

    monkeypatch.setattr(ProbStoreWriter, "commit", noting)
    return done


def test_a_gpu_waits_for_nothing_commits_by_time_and_gives_the_bytes_of_a_cpu(
    case: Case, tmp_path: Path, committed: list[int]
) -> None:
    on_cpu, on_gpu = (case.writer(tmp_path / name) for name in ("cpu", "gpu"))
    on_gpu_case = replace(case, policy=replace(POLICY, device=GPU))
    with PretendGpu() as gpu:
        ends = [on_gpu_case.predict(fold, on_gpu, batch_size=1) for fold in (0, 1)]
        assert gpu.waits == []
    assert committed == 2 * [4, 6]
    committed.clear()
    for fold, end in enumerate(ends):
        found = case.predict(fold, on_cpu, batch_size=1)
        assert (found.confusion, found.calibration) == (end.confusion, end.calibration)
    assert committed == 2 * [1, 2, 3, 4, 5, 6]
    for writer in (on_cpu, on_gpu):
        writer.finish(0.7, "whole")
    assert (tmp_path / "gpu/prob.npy").read_bytes() == (tmp_path / "cpu/prob.npy").read_bytes()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("written", [1, 3, 5, 6])
def test_killed_between_two_commits_it_predicts_again_what_was_not_noted(
    device: str,
    written: int,
    case: Case,
    tmp_path: Path,
    committed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = replace(case, policy=replace(POLICY, device=torch.device(device)))

    def predict(writer: ProbStoreWriter) -> FoldState:
        with PretendGpu() if device == "cuda" else nullcontext():
            return there.predict(0, writer, batch_size=1)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    state = predict(case.writer(whole))
    with monkeypatch.context() as patch:
        write, left = ProbStoreWriter.write, [written]

        def stopping(self: ProbStoreWriter, index: int, prob: NDArray[np.float16], f: int) -> None:
            write(self, index, prob, f)
            left[0] -= 1
            if not left[0]:
                raise StoppedError

        committed.clear()
        patch.setattr(ProbStoreWriter, "write", stopping)
        with pytest.raises(StoppedError):
            predict(case.writer(parts))
    noted = written - 1 if device == "cpu" else 4 * (written > 4)
    assert case.writer(parts).state(0, "weights").done == (committed or [0])[-1] == noted
    end = predict(case.writer(parts))
    assert (end.confusion, end.calibration) == (state.confusion, state.calibration)
    for name in (".prob_t0.7.npy", ".prob_t1.npy"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.gpu
def test_a_real_gpu_stores_what_a_cpu_stores_within_rounding(case: Case, tmp_path: Path) -> None:
    on_cpu, on_gpu = (case.writer(tmp_path / name) for name in ("cpu", "gpu"))
    operations = choose_operations("fused", GPU)
    on_gpu_case = replace(case, policy=replace(POLICY, device=GPU, operations=operations))
    for fold in (0, 1):
        found, expected = on_gpu_case.predict(fold, on_gpu), case.predict(fold, on_cpu)
        assert found.done == expected.done
        difference = np.array(found.confusion) - np.array(expected.confusion)
        assert np.abs(difference).sum() <= 40
    for writer in (on_cpu, on_gpu):
        writer.finish(1.0, "whole")
    stored, expected_NChw = (open_store(tmp_path / name).prob_NChw for name in ("gpu", "cpu"))
    np.testing.assert_allclose(stored, expected_NChw, atol=2e-3)
