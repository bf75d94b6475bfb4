"""One DALI pipeline a source, and whose turn its outputs' memory is."""

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from engine.data.batch import Batch, Draws, Source
from engine.frames.decode import Sample
from tests.pretend_gpu import PretendGpu

if not (sys.platform == "linux" and os.uname().machine == "x86_64"):
    pytest.skip("DALI exists for Linux x86-64 only", allow_module_level=True)

from nvidia.dali import pipeline_def

from engine.data.file_source import FileSource

Sources = Callable[..., Source]
Epochs = Callable[..., Iterator[Draws]]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the pipelines that are built."""
    rows: list[int] = []

    def counting(define: Callable[..., Any]) -> Callable[..., Any]:
        def make(*arguments: Any, **named: Any) -> Any:
            rows.append(named["batch_size"])
            return pipeline_def(define)(*arguments, **named)

        return make

    monkeypatch.setattr("engine.data.dali_source.pipeline_def", counting)
    return rows


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.index.tolist() == b.index.tolist()
        assert torch.equal(a.image_BCHW, b.image_BCHW)
        assert torch.equal(a.depth_BHW, b.depth_BHW)
        assert torch.equal(a.label_BHW, b.label_BHW)


def test_one_pipeline_serves_all_epochs_with_the_bytes_of_one_each(
    built: list[int], jpg: list[Sample], source_of: Sources, epoch: Epochs
) -> None:
    source = source_of("dali", jpg)
    assert built == []
    found = [list(source.batches(epoch(jpg, number))) for number in range(3)]
    assert built == [3]
    for number, batches in enumerate(found):
        assert_equal(batches, list(source_of("dali", jpg).batches(epoch(jpg, number))))


def test_an_epoch_that_was_left_early_leaves_nothing_in_the_next(
    built: list[int], png: list[Sample], source_of: Sources, epoch: Epochs
) -> None:
    source = source_of("dali", png)
    expected = list(source.batches(epoch(png, 1)))
    left = source.batches(epoch(png, 0))
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert_equal(list(source.batches(epoch(png, 1))), expected)
    assert built == [3, 3]


def test_epochs_at_the_same_time_have_a_pipeline_each(
    built: list[int], png: list[Sample], source_of: Sources, epoch: Epochs
) -> None:
    source = source_of("dali", png)
    alone = [list(source.batches(epoch(png, number))) for number in (0, 1)]
    pairs = list(zip(*(source.batches(epoch(png, n)) for n in (0, 1)), strict=True))
    for found, expected in zip(zip(*pairs, strict=True), alone, strict=True):
        assert_equal(list(found), expected)
    assert built == [3, 3]


def test_a_pipeline_takes_fewer_rows_than_before_and_no_more(
    built: list[int], png: list[Sample], source_of: Sources, epoch: Epochs
) -> None:
    source = source_of("dali", png)
    for size in (3, 2, 4):
        found = list(source.batches(epoch(png, batch=size)))
        assert_equal(found, list(source_of("dali", png).batches(epoch(png, batch=size))))
    assert [*dict.fromkeys(built)] == [3, 2, 4]
    assert len(built) == 5


class _Output:
    """What a pipeline gives for one kind of file."""

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        self.tensor = torch.zeros(3, 32, 64, channels, dtype=dtype)

    def as_tensor(self) -> torch.Tensor:
        return self.tensor


class _StandIn:
    """A pipeline that notes what is asked of it, and when its outputs are given back."""

    def __init__(self, feed: Callable[[], Any], log: list[str], rows_max: int) -> None:
        self.feed, self.log, self.max_batch_size = feed, log, rows_max

    def build(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def run(self, stream: object = None) -> tuple[_Output, ...]:
        self.feed()
        self.log.append(f"run for {stream}")
        outputs = _Output(3, torch.float32), _Output(1, torch.uint16), _Output(1, torch.uint8)
        weakref.finalize(outputs[0], self.log.append, "dropped")
        return outputs


@pytest.mark.parametrize(("device", "reader"), [("cuda", "the current stream"), ("cpu", "None")])
def test_outputs_are_bound_to_the_stream_that_reads_them_and_kept_until_it_was_asked_to(
    device: str,
    reader: str,
    png: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    source_of: Sources,
    epoch: Epochs,
) -> None:
    log: list[str] = []

    def stand_in(_: Callable[..., Any]) -> Callable[..., Any]:
        def make(feed: Callable[[], Any], decoder: str, *_: Any, **named: Any) -> _StandIn:
            log.append(f"{decoder}, dynamic {named['exec_dynamic']}")
            return _StandIn(feed, log, named["batch_size"])

        return make

    def finish(self: FileSource, draws: Draws, crops: Any, whole: Any) -> Batch:
        batch = real(self, draws, crops, whole)
        log.append("read")
        return batch

    real = FileSource.finish
    monkeypatch.setattr(FileSource, "finish", finish)
    monkeypatch.setattr("engine.data.dali_source.pipeline_def", stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the current stream")
    with PretendGpu() as gpu:
        batches = source_of("dali", png[:6], device=device).batches(epoch(png[:6]))
        assert len(list(batches)) == 2
        assert gpu.waits == []
    each = [f"run for {reader}", "read"]
    decoder = {"cuda": "mixed", "cpu": "cpu"}[device]
    assert log == [f"{decoder}, dynamic True", *each, each[0], "dropped", each[1], "dropped"]


@pytest.mark.gpu
@pytest.mark.parametrize("side", [False, True])
def test_a_reader_that_is_behind_reads_what_it_was_given(
    side: bool, jpg: list[Sample], source_of: Sources, epoch: Epochs
) -> None:
    source, expected = source_of("dali", jpg, device="cuda"), source_of("torch", jpg)
    stream = torch.cuda.Stream() if side else None  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for number in range(3):
            found = []
            for batch in source.batches(epoch(jpg, number)):
                found.append(batch)
                # In front of what reads the next outputs.
                torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            for a, b in zip(found, expected.batches(epoch(jpg, number)), strict=True):
                assert torch.equal(a.label_BHW.cpu(), b.label_BHW)
                assert torch.equal(a.depth_BHW.cpu(), b.depth_BHW)
                assert (a.image_BCHW.cpu() - b.image_BCHW)[:, :3].abs().max() <= 2.0
