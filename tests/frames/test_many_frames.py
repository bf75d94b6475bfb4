"""What is kept of a frame, and what is written for it, does not grow with their number."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from engine.data.alike import find_alike
from engine.data.alike_index import alike_of, indexed_likeness
from engine.data.folds import contiguous_blocks, neighbours
from engine.data.likeness import alike_pairs, likeness
from engine.frames.decode import Sample
from engine.frames.depth import DepthSpread
from engine.frames.files import FrameList
from engine.frames.findings import Findings
from engine.frames.kinds import FrameReport
from engine.frames.reading import AS_STORED
from engine.frames.samples import Samples, count_files, hw_of
from engine.views.records import SubmissionProgress
from engine.views.resumable import ResumableArray

FRAME_BYTES = 3000
"""A row, 256 pixels of small classes, its stem, and what growing arrays hold in reserve."""


def findings(count: int) -> Findings:
    stems = [f"{number:07d}" for number in range(count)]
    kinds = {"image": ".jpg", "depth": ".png", "label": ".png"}
    folders = {kind: Path("dataset/train") / kind for kind in kinds}
    names = {kind: [stem + ending for stem in stems] for kind, ending in kinds.items()}
    found = Findings.empty(Path("dataset"), FrameList.of(folders, names), 13, 12)
    for number in range(count):
        found.put(number, report(number))
    return found


def report(number: int) -> FrameReport:
    files = ("image", "jpg"), ("depth", "png"), ("label", "png")
    return FrameReport(
        (480, 640 + number % 2),
        [(f"train/{kind}/{number:07d}.{end}", f"{number:064x}") for kind, end in files],
        class_pixels=[number] * 13,
        ignored_pixels=number,
        missing_depth=number / 7,
        small_pixels=[number % 480, 639] * (number % 257),
        depth=DepthSpread(*range(number, number + 10)),
        thumbnail="A" * 432,
    )


def test_a_report_comes_back_as_it_was_put() -> None:
    found = findings(300)
    assert [found[number] for number in (0, 1, 256, 299)] == [
        report(number) for number in (0, 1, 256, 299)
    ]
    faulty = FrameReport(small_pixels=[70_000, 1], hw=(80_000, 2))
    found.put(7, faulty)
    assert found[7] is faulty
    assert found.small_pixels(7).tolist() == [[70_000, 1]]


def test_memory_is_a_few_kilobytes_a_frame_and_samples_are_made_when_asked_for() -> None:
    held = []
    for count in (500, 2000):
        tracemalloc.start()
        found = findings(count)
        samples = Samples(found, {}, AS_STORED, range(count))
        assert int(hw_of(samples)[:, 1].sum()) == 640 * count + count // 2
        assert count_files(samples, "depth") == count
        assert sum(sample.hw[0] for sample in samples) == 480 * count
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert (held[1] - held[0]) / 1500 < FRAME_BYTES


def test_a_slice_of_samples_is_made_of_the_same_rows() -> None:
    samples = Samples(findings(10), {"0000003": "kitchen"}, AS_STORED, range(10))
    part = samples[2:8:2]
    assert [sample.stem for sample in part] == ["0000002", "0000004", "0000006"]
    assert list(part[::-1]) == list(part)[::-1]
    assert hw_of(part[::-1]).tolist() == [list(sample.hw) for sample in part[::-1]]
    assert (samples[3].scene, samples[-1].scene) == ("kitchen", None)
    assert samples == list(samples)
    with pytest.raises(IndexError):
        samples[10]


def test_a_note_is_as_long_after_a_thousand_frames_as_after_one(tmp_path: Path) -> None:
    array = ResumableArray(tmp_path / "array.npy", (1000, 2), np.uint8)
    lengths, noted = [], 0
    for number in range(1000):
        array.write(number, np.full((1, 2), number % 251, np.uint8))
        noted = array.noted([number], noted)
        lengths.append(len(SubmissionProgress(key="", done=1, noted=noted).model_dump_json()))
    array.sync()
    assert max(lengths) <= lengths[0] + 10
    assert noted == array.noted(range(1000))
    array.close()
    again = ResumableArray(tmp_path / "array.npy", (1000, 2), np.uint8)
    again.recall(range(1000), noted)
    again.finish()


def test_blocks_are_cut_where_a_search_of_every_gap_would_cut() -> None:
    drawn = np.random.default_rng(0)
    for _ in range(50):
        numbers = np.unique(drawn.integers(0, 400, 150))
        samples = [Sample(f"{n:04d}", Path("x"), None, None, (1, 1), None) for n in numbers]
        for blocks in (2, 7, 40):
            assert contiguous_blocks(samples, blocks).tolist() == by_every_gap(samples, blocks)


def by_every_gap(samples: list[Sample], blocks: int) -> list[int]:
    beside, count = neighbours(samples), len(samples)
    gaps = [place for place in range(1, count) if place - 1 not in beside[place]]
    size, bounds = count / blocks, [0]
    for number in range(1, blocks):
        even = round(number * size)
        lowest, highest = bounds[-1] + 1, count - (blocks - number)
        near = [gap for gap in gaps if abs(gap - even) <= size / 2 and lowest <= gap <= highest]
        bounds.append(min(near, key=lambda gap: abs(gap - even), default=max(even, lowest)))
    block_N: list[int] = np.repeat(np.arange(blocks), np.diff([*bounds, count])).tolist()
    return block_N


def rooms(count: int) -> np.ndarray:
    """Pictures (N, 9, 12, 3): ten views of each room, each shifted by a cell, with noise."""
    drawn, pictures = np.random.default_rng(1), []
    for _ in range(count // 10):
        wall = drawn.integers(0, 256, (9, 30, 3))
        for view in range(10):
            seen = wall[:, view : view + 12] + drawn.integers(-12, 13, (9, 12, 3))
            pictures.append(np.clip(seen, 0, 255))
    return np.array(pictures, np.uint8)


def test_the_index_finds_what_all_pairs_find() -> None:
    pictures = rooms(400)
    pictures[17] = pictures[311]
    # Names in no order: all that is found, the index finds.
    order = np.random.default_rng(2).permutation(len(pictures))
    every, found = likeness(pictures), indexed_likeness(pictures, order)
    wanted = {tuple(pair) for pair in every.pair_P2[every.alike_P >= 0.7].tolist()}
    got = dict(zip(map(tuple, found.pair_P2.tolist()), found.alike_P, strict=True))
    assert len(wanted) > 1000
    assert len(wanted - got.keys()) <= 0.01 * len(wanted)
    assert got[17, 311] == 1
    for pair, alike in zip(every.pair_P2.tolist(), every.alike_P, strict=True):
        assert got.get(tuple(pair), alike) == pytest.approx(alike, abs=1e-9)
    some_P2 = every.pair_P2[:500]
    np.testing.assert_allclose(
        alike_of(pictures, some_P2), alike_pairs(pictures, some_P2), atol=1e-9
    )


def test_the_work_of_the_index_grows_with_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def count(pictures: np.ndarray, pair_P2: np.ndarray) -> np.ndarray:
        compared[-1] += len(pair_P2)
        return alike_of(pictures, pair_P2)

    monkeypatch.setattr("engine.data.alike_index.alike_of", count)
    for frames in (200, 800):
        compared.append(0)
        pictures = rooms(frames)
        indexed_likeness(pictures, np.arange(frames))
    assert compared[1] < 4.6 * compared[0]  # all pairs: 16 times


def test_copies_are_linked_in_a_row_however_many_there_are() -> None:
    pictures = rooms(100)[np.zeros(600, int)]
    found = indexed_likeness(pictures, np.arange(600))
    assert len(found.pair_P2) < 20 * 600
    alike = find_alike(pictures, [f"frame{n}" for n in range(600)])
    assert alike.group_N.max() == 0


def test_beyond_some_frames_the_index_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.alike.EXACT", 50)
    pictures, stems = rooms(100), [f"a{n:03d}" for n in range(100)]
    indexed, exact = find_alike(pictures, stems), find_alike(pictures, stems, exact=True)
    assert ", by an index" in str(indexed.method)
    assert ", by an index" not in str(exact.method)
    assert indexed.group_N.tolist() == exact.group_N.tolist()
