"""Where frames do not fit a GPU, the fastest source of files is measured, taken and named."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.config import RuntimeConfig
from engine.data import measured
from engine.data.batch import Draws, Source
from engine.data.file_source import choose_file_source
from engine.data.measured import measured_rates, rates
from engine.data.sources import choose_source
from engine.frames.cache import GIB
from engine.frames.decode import Sample
from tests.frames_on_disk import has_dali

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class _Timed:
    """A source that takes so many seconds for each batch."""

    def __init__(self, seconds: list[float], clock: list[float]) -> None:
        self.seconds, self.clock = itertools.cycle(seconds), clock
        self.rows: list[int] = []

    def batches(self, draws: Any) -> Iterator[Any]:
        seconds = next(self.seconds)
        for rows in draws:
            self.clock[0] += seconds
            self.rows.append(len(rows.index))
            yield rows


def test_rates_are_medians_without_the_first_epoch(
    png: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    slow, quick = _Timed([9, 2, 2, 7], clock), _Timed([50, 0.5, 0.25, 0.5], clock)
    samples = png * 2  # 14: a batch of 8 and one of 6
    assert rates({"a": slow, "b": quick}, samples, CPU) == {"a": 14 / 4, "b": 14}
    assert slow.rows == [8, 6] * 4


@has_dali
@pytest.mark.parametrize("depth", [True, False])
def test_both_sources_are_measured_on_the_files_themselves(
    depth: bool, jpg: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "_ROUNDS", 1)
    samples = tuple(jpg if depth else [replace(sample, depth=None) for sample in jpg])
    found = measured_rates(samples, CPU, 1)
    assert [*found] == ["dali", "torch"]
    assert min(found.values()) > 0
    assert measured_rates(samples, CPU, 1) is found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples were measured, each time; torch is faster."""
    counts: list[int] = []

    def stand_in(samples: tuple[Sample, ...], device: torch.device, workers: int) -> Any:
        counts.append(len(samples))
        return {"dali": 812.4, "torch": 1203.6}

    monkeypatch.setattr(measured, "measured_rates", stand_in)
    return counts


@has_dali
def test_on_a_gpu_the_fastest_is_taken_and_the_figures_are_told(
    asked: list[int], png: list[Sample]
) -> None:
    runtime = RuntimeConfig(memory_gib=1.0)
    found = choose_file_source(runtime, GPU, png, 3 * GIB, GIB)
    assert found == (
        "torch",
        "3.0 GiB of decoded frames exceed 1.0 GiB, runtime.memory_gib; "
        "frames a second here: dali 812, torch 1204",
    )
    assert asked == [7]


@has_dali
@pytest.mark.parametrize(
    ("device", "fields", "chosen"),
    [
        (CPU, {}, "dali"),
        (GPU, {"deterministic": True}, "dali"),
        (GPU, {"source": "dali"}, "dali"),
        (GPU, {"source": "torch"}, "torch"),
    ],
)
def test_nothing_is_measured_where_bytes_would_depend_on_it_or_the_source_is_named(
    device: torch.device, fields: dict[str, Any], chosen: str, asked: list[int], png: list[Sample]
) -> None:
    runtime = RuntimeConfig.model_validate(fields)
    assert choose_file_source(runtime, device, png, 3 * GIB, GIB)[0] == chosen
    assert asked == []


def test_what_fits_stays_on_the_gpu_and_nothing_is_measured(
    asked: list[int], png: list[Sample]
) -> None:
    told = choose_source(RuntimeConfig(memory_gib=1.0), png, GPU, surfaces=False)
    assert told == ("resident", "the decoded frames fit")
    assert asked == []


@pytest.mark.gpu
@has_dali
def test_on_a_gpu_the_choice_is_measured_and_the_source_gives_batches(
    jpg: list[Sample],
    epoch: Callable[..., Iterator[Draws]],
    source_of: Callable[..., Source],
) -> None:
    runtime = RuntimeConfig(memory_gib=1e-6)
    kind, why = choose_source(runtime, jpg, GPU, surfaces=False)
    assert kind in ("dali", "torch")
    assert "frames a second here: dali " in why
    batches = list(source_of(kind, jpg, device="cuda").batches(epoch(jpg)))
    assert all(batch.image_BCHW.is_cuda for batch in batches)
