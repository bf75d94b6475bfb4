"""The stages of a run that touch every frame, each alone in a process: its time and its memory."""

import logging
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.frames.index import Dataset

_WORKERS = 1
"""Threads that decode. The processor's time of two varied with what else ran, 1.3 to 2.2 ms a
frame, perhaps because they wait for Python's lock in frames so small; one waits for none."""

_BATCH = 32
_CROP_HW = (32, 32)
_MIB = 1 << 20


def run_stage(stage: str, root: Path, work: Path) -> dict[str, float]:
    """Seconds of wall and processor, and MiB of memory at the most and before the stage began."""
    logging.disable(logging.INFO)
    done = STAGES[stage](root, work)
    before, start = _peak_mib(), (time.perf_counter(), _processor_s())
    done()
    end = time.perf_counter(), _processor_s()
    wall_s, cpu_s = (b - a for a, b in zip(start, end, strict=True))
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mib": _peak_mib(), "before_mib": before}


def _index(root: Path, _: Path) -> Callable[[], object]:
    from engine.frames.index import list_dataset

    return lambda: list_dataset(root, need_depth=True)


def _check(root: Path, work: Path) -> Callable[[], object]:
    _warm(work)
    shutil.rmtree(work / "cache", ignore_errors=True)
    return lambda: _dataset(root, work)


def _recall(root: Path, work: Path) -> Callable[[], object]:
    _warm(work)
    return lambda: _dataset(root, work)


def _folds(root: Path, work: Path) -> Callable[[], object]:
    from engine.data.folds import make_folds

    samples = _dataset(root, work).train.samples
    return lambda: make_folds(samples, "blocked", 5).file(samples).write(work / "folds.json")


def _leakage(root: Path, work: Path) -> Callable[[], object]:
    for kept in (work / "cache").glob("*.alike"):
        kept.unlink()
    return _leakage_recall(root, work)


def _leakage_recall(root: Path, work: Path) -> Callable[[], object]:
    import numpy as np

    from engine.data.alike import alike_frames
    from engine.data.folds import make_folds
    from engine.frames.samples import stems_of

    dataset = _dataset(root, work)
    samples = dataset.train.samples
    fold_of = make_folds(samples, "blocked", 5).fold_of

    def search() -> None:
        alike = alike_frames(dataset.train, folder=work / "cache")
        assert alike is not None
        alike.leakage(np.asarray(fold_of), stems_of(samples))

    return search


def _cache(root: Path, work: Path) -> Callable[[], object]:
    from engine.frames.cache import open_frames

    samples = _dataset(root, work).train.samples
    for kept in (work / "cache").glob("frames-*"):
        shutil.rmtree(kept)
    return lambda: open_frames(samples, work / "cache", _WORKERS, 0)


def _loader(root: Path, work: Path) -> Callable[[], object]:
    import torch

    from engine.data.inputs import InputSpec, Normalisation
    from engine.data.torch_source import TorchSource

    dataset = _dataset(root, work)
    spec = InputSpec(4, Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    source = TorchSource(dataset.train.samples, _CROP_HW, spec, torch.device("cpu"), _WORKERS)

    def epoch() -> None:
        for _ in source.batches(_draws(dataset)):
            pass

    return epoch


def _store(root: Path, work: Path) -> Callable[[], object]:
    import numpy as np

    from engine.data.folds import make_folds
    from engine.views.store import ProbStoreWriter, oof_layout

    samples, config = _dataset(root, work).train.samples, _config(root)
    folds = make_folds(samples, "blocked", 5)
    shutil.rmtree(work / "oof", ignore_errors=True)
    layout = oof_layout(config, samples, folds, "key")

    def fill() -> None:
        writer = ProbStoreWriter(work / "oof", layout)
        prob_TChw = np.full((len(layout.temperatures), *layout.shape[1:]), 0.5, np.float16)
        for fold in range(5):
            state = writer.state(fold, "weights")
            asked = folds.validation(fold).tolist()
            for start in range(0, len(asked), _BATCH):
                for index in asked[start : start + _BATCH]:
                    writer.write(index, prob_TChw, fold)
                done = min(start + _BATCH, len(asked))
                state = state.model_copy(update={"done": done})
                writer.commit(fold, state)
        writer.finish(layout.temperatures[0], "key")

    return fill


def _submission(root: Path, work: Path) -> Callable[[], object]:
    import numpy as np

    from engine.rundir import RunDir
    from engine.views.submission import write_submission

    samples = _dataset(root, work).train.samples  # as many to test as are trained on
    run = RunDir(work / "run")
    shutil.rmtree(run.root, ignore_errors=True)
    run.root.mkdir()
    mask_BHW = np.zeros((_BATCH, *samples[0].hw), np.uint8)

    def masks(start: int) -> Iterator[tuple[int, "NDArray[np.uint8]"]]:
        for first in range(start, len(samples), _BATCH):
            yield first, mask_BHW[: len(samples) - first]

    return lambda: write_submission(masks, samples, run, "key")


def _shard(root: Path, work: Path) -> Callable[[], object]:
    from engine.frames.pack import pack_dataset

    shutil.rmtree(work / "shards", ignore_errors=True)
    return lambda: pack_dataset(root, work / "shards")


def _shard_index(_: Path, work: Path) -> Callable[[], object]:
    from engine.frames.index import list_dataset

    return lambda: list_dataset(work / "shards", need_depth=True)


def _shard_loader(_: Path, work: Path) -> Callable[[], object]:
    return _loader(work / "shards", work)


def _seal(root: Path, work: Path) -> Callable[[], object]:
    from engine.report.seal import dataset_files, is_sealed, seal
    from engine.rundir import RunDir

    config, run = _config(root), RunDir(work / "run")
    run.root.mkdir(exist_ok=True)

    def close() -> None:
        seal(config, run, dataset_files(config))
        if not is_sealed(config, run):
            raise RuntimeError(f"{run.root} is not sealed")

    return close


STAGES: Mapping[str, Callable[[Path, Path], Callable[[], object]]] = {
    "index": _index,
    "check": _check,
    "recall": _recall,
    "folds": _folds,
    "leakage": _leakage,
    "leakage recall": _leakage_recall,
    "cache": _cache,
    "loader": _loader,
    "store": _store,
    "submission": _submission,
    "seal": _seal,
    "shard": _shard,
    "shard index": _shard_index,
    "shard loader": _shard_loader,
}
"""By name, in the order in which a run has them: what gets ready and returns what is measured."""


def _config(root: Path) -> Config:
    from engine.cli import load_config

    sizes: dict[str, Any] = {"input_hw": [32, 32], "crop_hw": [*_CROP_HW], "root": str(root)}
    views: dict[str, Any] = {"base_hw": [32, 32], "temperatures": [1.0], "scales": [1.0]}
    return load_config([], {"data": sizes, "inference": views})


def _dataset(root: Path, work: Path) -> "Dataset":
    from engine.frames.index import CheckMemory, DatasetSpec, load_dataset

    data = _config(root).data
    spec = DatasetSpec(data.classes, data.small_classes, need_depth=True)
    return load_dataset(root, spec, workers=_WORKERS, memory=CheckMemory(work / "cache"))


def _warm(work: Path) -> None:
    """Import and compile what decodes, on a dataset of two rooms."""
    from benchmarks.scale_frames import write_frames

    few = work / "few"
    if not few.exists():
        write_frames(few, 40)
    shutil.rmtree(work / "few-cache", ignore_errors=True)
    _dataset_of(few, work / "few-cache")


def _dataset_of(root: Path, cache: Path) -> None:
    from engine.frames.index import CheckMemory, DatasetSpec, load_dataset

    data = _config(root).data
    spec = DatasetSpec(data.classes, data.small_classes, need_depth=True)
    load_dataset(root, spec, workers=_WORKERS, memory=CheckMemory(cache))


def _draws(dataset: "Dataset") -> Iterator[Any]:
    """An epoch of training over all frames."""
    import numpy as np

    from engine.data.inputs import draw, epoch_order

    split = dataset.train
    data = _config(Path()).data
    hw = np.array([sample.hw for sample in split.samples])
    order = epoch_order(0, 0, np.arange(len(split.samples)))
    for start in range(0, len(order), _BATCH):
        index = order[start : start + _BATCH]
        yield draw(data, seed=0, epoch=0, index=index, hw=hw, small_pixels=split.small_pixels)


def _peak_mib() -> float:
    # Not `getrusage`: what a process that begins another one held until then counts there, too.
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / _MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MIB


def _processor_s() -> float:
    return time.process_time()
