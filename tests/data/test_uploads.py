"""What goes to a GPU with every batch is copied behind the host's back; a pretended one counts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import pytest
import torch

from engine.data import inputs
from engine.data.batch import Draws, Source
from engine.data.inputs import upload
from engine.data.sources import FrameReader
from engine.frames.decode import Sample
from tests.pretend_gpu import GPU, PretendGpu


@pytest.mark.parametrize("kind", ["resident", "torch"])
def test_no_batch_stops_the_host(
    kind: Literal["resident", "torch"],
    png: list[Sample],
    source_of: Callable[..., Source],
    epoch: Callable[..., Iterator[Draws]],
) -> None:
    with PretendGpu() as gpu:
        source = source_of(kind, png, device="cuda")
        found = list(source.batches(epoch(png)))
        assert gpu.waits == []
    for a, b in zip(found, source_of(kind, png).batches(epoch(png)), strict=True):
        assert torch.equal(a.image_BCHW, b.image_BCHW)
        assert torch.equal(a.depth_BHW, b.depth_BHW)
        assert torch.equal(a.label_BHW, b.label_BHW)


def test_no_frame_that_is_looked_at_stops_the_host(png: list[Sample]) -> None:
    samples = [*png[:3], png[2]]
    reader = FrameReader(GPU, 2, depth=True, workers=1)
    with PretendGpu() as gpu:
        found = list(reader.batches(samples, label=True))
        assert gpu.waits == []
        assert all(frames.frames.image_P3.device == GPU for frames in found)
    on_cpu = list(replace(reader, device=torch.device("cpu")).batches(samples, label=True))
    assert len(found) == len(on_cpu) == 3
    for a, b in zip(found, on_cpu, strict=True):
        for part, other in zip((*a.frames, a.label_BHW), (*b.frames, b.label_BHW), strict=True):
            assert part is not None
            assert other is not None
            assert torch.equal(part, other)


def test_on_a_cpu_nothing_is_copied() -> None:
    host = torch.arange(3)
    assert upload(host, torch.device("cpu")) is host


def test_a_split_is_waited_for_and_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_PINNED_BYTES", 100)
    with PretendGpu() as gpu:
        for size in (100, 101):
            assert upload(torch.zeros(size, dtype=torch.uint8), GPU).device == GPU
        assert gpu.waits == ["to, of (101,)"]


@pytest.mark.gpu
def test_a_pinned_copy_lasts_until_it_was_read() -> None:
    rounds, device = 50, torch.device("cuda")
    # The copies wait behind it while the host goes on.
    torch.cuda._sleep(1_000_000_000)  # type: ignore[no-untyped-call]
    found = [upload(torch.full((4096,), number), device) for number in range(rounds)]
    for number, tensor in enumerate(found):
        assert torch.equal(tensor.cpu(), torch.full((4096,), number))
