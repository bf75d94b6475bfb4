"""What is asked of a GPU, and waited for, in which order."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import DataConfig, InferenceConfig
from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader
from engine.frames.decode import Sample
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views.behind import fetch_behind
from engine.views.masks import System, masks
from engine.views.mixture import Mixture
from engine.views.predictor import FoldNetwork, Predictor
from tests.pretend_gpu import GPU, PretendGpu

POLICY = DevicePolicy(GPU, None, compile=False, operations=choose_operations("fused", GPU))
SPEC = InputSpec(3, Normalisation((128.0, 128.0, 128.0), (64.0, 64.0, 64.0)))


@dataclass
class _Result:
    """A tensor of a GPU."""

    number: int
    log: list[str]

    def to(self, device: str, *, non_blocking: bool) -> int:
        self.log.append(f"{device}, non-blocking {non_blocking}: {self.number}")
        return self.number


def test_a_batch_is_waited_for_when_the_next_has_been_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class Event:
        def record(self) -> None:
            self.copy = log[-1][-1]
            log.append(f"event: {self.copy}")

        def synchronize(self) -> None:
            log.append(f"wait: {self.copy}")

    def results() -> Iterator[tuple[Any, ...]]:
        for number in range(3):
            log.append(f"compute: {number}")
            yield (_Result(number, log),)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    for (found,), _ in fetch_behind(results()):
        log.append(f"use: {found}")
    asked = [[f"compute: {n}", f"cpu, non-blocking True: {n}", f"event: {n}"] for n in range(3)]
    used = [[f"wait: {n}", f"use: {n}"] for n in range(3)]
    assert log == [*asked[0], *asked[1], *used[0], *asked[2], *used[1], *used[2]]


@pytest.mark.parametrize("batches", range(8))
def test_it_is_time_to_commit_after_two_seconds_and_at_the_end(batches: int) -> None:
    results = [(torch.tensor(number),) for number in range(batches)]
    # It looks at the clock at the start and once for each batch but the last.
    clock_s = map(float, [0, 0.5, 1.9, 2.0, 3.0, 3.9, 4.0]).__next__
    with PretendGpu():
        due = [is_due for _, is_due in fetch_behind(results, clock_s)]
    in_time = [False, False, True, False, False, True]
    assert due == [*in_time[: max(0, batches - 1)], *[True] * (batches > 0)]


def predictor_of(policy: DevicePolicy) -> Predictor:
    def forward(image: Tensor) -> Prediction:
        logits = 5 * F.avg_pool2d(image, 4)
        return Prediction(logits, logits[:, 0])

    of = {"scales": (0.5, 1.0), "temperatures": (1.0,), "base_hw": "own"}
    views = InferenceConfig.model_validate(of)
    data = DataConfig(classes=("a", "b", "c"), small_classes=())
    reader = FrameReader(policy.device, 2, depth=False, workers=1)
    return Predictor([FoldNetwork(0, forward, SPEC)], views, data, policy, reader)


@pytest.mark.parametrize("blend", [False, True])
def test_masks_stop_nobody_and_are_those_of_a_cpu(blend: bool, png: list[Sample]) -> None:
    def predict(policy: DevicePolicy) -> list[tuple[int, list[Any]]]:
        system: System = predictor_of(policy)
        if blend:
            weight_MC = np.array([[0.5, 0.25, 0.125], [0.5, 0.75, 0.875]])
            system = Mixture([predictor_of(policy), predictor_of(policy)], weight_MC)
        return [(first, mask_BHW.tolist()) for first, mask_BHW in masks(system, samples, 1)]

    samples = [*png[:3], png[2], png[2]]
    expected = predict(replace(POLICY, device=torch.device("cpu")))
    with PretendGpu() as gpu:
        assert predict(POLICY) == expected
    assert [first for first, _ in expected] == [1, 2, 4]
    # The weights of a blend, once.
    assert gpu.waits == ["to, of (2, 3)"] * blend


@pytest.mark.gpu
def test_copies_are_pinned_and_whole_however_late_the_gpu_is() -> None:
    def results() -> Iterator[tuple[Tensor, ...]]:
        for number in range(8):
            torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]
            yield torch.full((1000, 1000), number, device="cuda"), torch.ones(3, device="cuda")

    for number, ((found, ones), _) in enumerate(fetch_behind(results())):
        assert found.is_pinned()
        assert (found == number).all()
        assert ones.tolist() == [1, 1, 1]


@pytest.mark.gpu
def test_a_real_gpu_is_waited_for_by_events_only(png: list[Sample]) -> None:
    predictor = predictor_of(POLICY)
    first = [mask_BHW.tolist() for _, mask_BHW in masks(predictor, png)]  # kernels are compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = [mask_BHW.tolist() for _, mask_BHW in masks(predictor, png)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert again == first
