"""What the sources promise besides pixels: order, read-ahead, clean ends, clear errors."""

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.data import resident_source, sources
from engine.data.augment import Draws
from engine.data.normalisation import Normalisation
from engine.data.resident_source import ResidentSource
from engine.data.sources import Source, make_source
from engine.frames.index import Sample

Kind = Literal["dali", "resident", "torch"]

# The shape that the fixtures' sources crop.
CROP_HW = (32, 64)
IDENTITY = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

has_dali = pytest.mark.skipif(
    not (sys.platform == "linux" and os.uname().machine == "x86_64"),
    reason="DALI exists for Linux x86-64 only",
)
READING = [pytest.param("dali", marks=has_dali), "torch"]
ALL = [*READING, "resident"]


@pytest.mark.parametrize("kind", ALL)
def test_batches_come_in_order_and_one_ahead_is_in_preparation_where_files_are_read(
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
@pytest.mark.parametrize("fault", ["gone", "cut", "text"])
@pytest.mark.parametrize("name", ["image", "depth", "label"])
def test_a_file_that_went_bad_is_one_error_with_its_stem(
    kind: Kind,
    fault: str,
    name: str,
    tmp_path: Path,
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
    write_frames: Callable[[Path, str], list[Sample]],
) -> None:
    samples = write_frames(tmp_path, "jpg")
    source = source_of(kind, samples)
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


@has_dali
def test_auto_keeps_frames_that_fit_and_says_so(
    png: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources._announce.cache_clear()
    device = torch.device("cpu")
    with caplog.at_level(logging.INFO, logger="engine.data.sources"):
        made = make_source("auto", png, CROP_HW, IDENTITY, 3, device, 2, cache=str(tmp_path))
    assert isinstance(made, ResidentSource)
    assert "resident (the decoded frames fit)" in caplog.text


@has_dali
def test_auto_reads_files_by_dali_where_the_frames_do_not_fit(
    png: list[Sample], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sources._announce.cache_clear()
    monkeypatch.setattr(resident_source, "_memory_limit", lambda device: 100_000)
    device = torch.device("cpu")
    with caplog.at_level(logging.INFO, logger="engine.data.sources"):
        made = make_source("auto", png, CROP_HW, IDENTITY, 3, device, 2)
    assert type(made).__name__ == "DaliSource"
    assert "dali (0.0 GiB of decoded frames exceed 0.0 GiB, half of the memory" in caplog.text


def test_auto_falls_back_to_torch_and_says_why_once(
    png: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    monkeypatch.setattr(sources, "_dali_fault", lambda: "no such library")
    monkeypatch.setattr(sources, "misfit", lambda samples, device: "too large")
    sources._announce.cache_clear()
    device = torch.device("cpu")
    with caplog.at_level(logging.INFO, logger="engine.data.sources"):
        made = [make_source("auto", png, CROP_HW, IDENTITY, 3, device, 2) for _ in range(3)]
    assert all(len(list(source.batches(epoch(png)))) == 3 for source in made)
    assert [record.getMessage() for record in caplog.records] == [
        "data source: torch (too large; DALI cannot be imported: no such library), "
        "batches on cpu, 2 threads"
    ]
    with pytest.raises(RuntimeError, match="no such library; install nvidia-dali"):
        make_source("dali", png, CROP_HW, IDENTITY, 3, device, 2)


def test_interleaved_iterators_do_not_disturb_each_other(
    png: list[Sample], source_of: Callable[..., Source], epoch: Callable[..., Iterator[Draws]]
) -> None:
    source = source_of("torch", png)
    first, second = source.batches(epoch(png, 0)), source.batches(epoch(png, 1))
    alone: list[NDArray[np.int64]] = [batch.index for batch in source.batches(epoch(png, 1))]
    for index, _, batch in zip(alone, first, second, strict=True):
        np.testing.assert_array_equal(batch.index, index)
