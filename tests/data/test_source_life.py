"""What the sources promise besides pixels: order, read-ahead, clean ends, clear errors."""

import gc
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.config import RuntimeConfig
from engine.data.batch import Draws, Source
from engine.data.sources import ResidentSource, choose_source, resident_bytes
from engine.data.surface import Surface
from engine.frames.cache import GIB, Layout
from engine.frames.decode import Sample
from tests.frames_on_disk import Kind, has_dali

READING = [pytest.param("dali", marks=has_dali), "torch"]
ALL = [*READING, "resident"]


@pytest.mark.parametrize("kind", ALL)
def test_batches_come_in_order_and_one_to_three_ahead_are_in_preparation_where_files_are_read(
    kind: Kind,
    png: list[Sample],
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    taken: list[int] = []

    def draws() -> Iterator[Draws]:
        for number in range(10):
            taken.append(number)
            yield from epoch(png, number, batch=7)

    batches = source_of(kind, png).batches(draws())
    for number in range(10):
        np.testing.assert_array_equal(next(batches).index, next(epoch(png, number, batch=7)).index)
        assert len(taken) >= min(10, number + 1 + (kind != "resident"))
        # However many there are to come: DALI has one more in its hands while it runs.
        assert len(taken) <= number + 1 + {"resident": 0, "torch": 2, "dali": 3}[kind]
    assert next(batches, None) is None


@pytest.mark.parametrize("kind", ALL)
def test_no_draws_give_no_batches(
    kind: Kind, png: list[Sample], source_of: Callable[..., Source]
) -> None:
    assert list(source_of(kind, png).batches([])) == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
@pytest.mark.parametrize("kind", READING)
def test_an_iterator_closed_early_leaves_no_threads(
    kind: Kind,
    png: list[Sample],
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    next(source_of(kind, png).batches(epoch(png)))  # whatever the libraries start once and keep
    gc.collect()
    before, python_before = threads(), threading.active_count()
    for _ in range(3):
        batches = source_of(kind, png).batches(epoch(png))
        next(batches)
        assert threads() > before
        batches.close()  # type: ignore[attr-defined]
        del batches
        assert threading.active_count() == python_before
    deadline = time.monotonic() + 5  # the kernel may reap a thread a little later
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() <= before


@pytest.mark.parametrize("kind", READING)
@pytest.mark.parametrize(
    "damage",
    [(name, fault) for name in ("image", "depth", "label") for fault in ("gone", "cut", "text")],
    ids="-".join,
)
def test_a_file_that_went_bad_is_one_error_with_its_stem(
    kind: Kind,
    damage: tuple[str, str],
    tmp_path: Path,
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
    write_frames: Callable[[Path, str], list[Sample]],
) -> None:
    samples = write_frames(tmp_path, "jpg")
    source = source_of(kind, samples)
    name, fault = damage
    bad: Path = getattr(samples[4], name)
    if fault == "gone":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:500] if fault == "cut" else b"hello")
    with pytest.raises(RuntimeError, match=rf"^sample 4 cannot be read: .*4-{name}"):
        list(source.batches(epoch(samples)))


@has_dali
def test_a_map_that_changed_its_size_is_refused_by_dali(
    tmp_path: Path,
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
    write_frames: Callable[[Path, str], list[Sample]],
) -> None:
    samples = write_frames(tmp_path, "png")
    assert samples[4].depth is not None
    Image.fromarray(np.zeros((5, 5), np.uint16)).save(samples[4].depth)
    with pytest.raises(RuntimeError, match=r"^sample 4 cannot be read: .*4-depth"):
        list(source_of("dali", samples).batches(epoch(samples)))


@has_dali
def test_a_batch_larger_than_the_first_is_refused_by_dali(
    png: list[Sample], source_of: Callable[..., Source], epoch: Callable[..., Iterator[Draws]]
) -> None:
    draws = [next(epoch(png, batch=size)) for size in (2, 3)]
    with pytest.raises(ValueError, match="3 rows follows a first one of 2"):
        list(source_of("dali", png).batches(draws))


def test_files_for_some_samples_only_and_depth_input_without_depth_are_refused(
    png: list[Sample], source_of: Callable[..., Source]
) -> None:
    bare = [replace(sample, depth=None) for sample in png]
    with pytest.raises(ValueError, match="1 of 7 samples have a depth file; need all or none"):
        source_of("torch", [*png[:1], *bare[1:]], 3)
    with pytest.raises(ValueError, match="4 input channels need depth"):
        source_of("torch", bare)


# Sources are announced once for each number of threads, so each test below has its own.
def test_auto_keeps_frames_that_fit_and_says_so(
    png: list[Sample], source_of: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="engine.data.sources"):
        made = source_of("auto", png, workers=3)
    assert isinstance(made, ResidentSource)
    assert "resident (the decoded frames fit)" in caplog.text


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.sources.total_bytes", lambda device: 200_000)


def test_frames_stay_if_they_fit_into_memory_gib_whatever_the_machine_has(
    little_memory: None, png: list[Sample]
) -> None:
    need, cpu = sum(Layout(png).sizes.values()), torch.device("cpu")
    chosen = [
        choose_source(RuntimeConfig(memory_gib=given / GIB), png, cpu, surfaces=False)
        for given in (need, need - 1)
    ]
    assert chosen[0] == ("resident", "the decoded frames fit")
    assert chosen[1][0] != "resident"
    assert "of decoded frames exceed 0.0 GiB, runtime.memory_gib" in chosen[1][1]


def test_surfaces_of_frames_that_stay_are_counted_as_they_are_kept(
    little_memory: None, png: list[Sample]
) -> None:
    surface = Surface("normals", 60.0, 0.001)
    cells = sum(surface.cells(np.ones(sample.hw, np.uint16)).nbytes for sample in png)
    need = resident_bytes(png, surfaces=True)
    assert need == resident_bytes(png, surfaces=False) + cells
    chosen = [
        choose_source(
            RuntimeConfig(memory_gib=given / GIB), png, torch.device("cpu"), surfaces=True
        )[0]
        for given in (need, need - 1)
    ]
    assert chosen[0] == "resident" != chosen[1]


@has_dali
def test_auto_reads_files_by_dali_where_the_frames_do_not_fit(
    little_memory: None,
    png: list[Sample],
    source_of: Callable[..., Source],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="engine.data.sources"):
        made = source_of("auto", png, workers=4)
    assert type(made).__name__ == "DaliSource"
    assert "dali (0.0 GiB of decoded frames exceed 0.0 GiB, half of the memory" in caplog.text


def test_auto_falls_back_to_torch_and_says_why_once(
    little_memory: None,
    png: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with caplog.at_level(logging.INFO, logger="engine.data.sources"):
        made = [source_of("auto", png, workers=5) for _ in range(3)]
    assert all(len(list(source.batches(epoch(png)))) == 3 for source in made)
    (message,) = (
        record.getMessage() for record in caplog.records if record.name == "engine.data.sources"
    )
    assert re.fullmatch(
        r"data source: torch \(0\.0 GiB of decoded frames exceed 0\.0 GiB, half of the memory; "
        r"DALI cannot be imported: .*nvidia.*\), batches on cpu, 5 threads",
        message,
    )
    with pytest.raises(RuntimeError, match="cannot be imported: .*; install nvidia-dali"):
        source_of("dali", png)


def test_interleaved_iterators_do_not_disturb_each_other(
    png: list[Sample], source_of: Callable[..., Source], epoch: Callable[..., Iterator[Draws]]
) -> None:
    source = source_of("torch", png)
    first, second = source.batches(epoch(png, 0)), source.batches(epoch(png, 1))
    alone: list[NDArray[np.int64]] = [batch.index for batch in source.batches(epoch(png, 1))]
    for index, _, batch in zip(alone, first, second, strict=True):
        np.testing.assert_array_equal(batch.index, index)
