"""How the small dataset of `conftest.py` is checked."""

from pathlib import Path

from engine import nyuv2
from engine.config import DataConfig
from engine.frames.index import CheckMemory, Dataset, DatasetSpec, load_dataset
from engine.frames.reading import Reading

TRAIN, TEST = 5, 2
"""Frames of its splits: more than one, and different counts."""


def spec_of(data: DataConfig) -> DatasetSpec:
    """What a config asks of a dataset that needs no depth."""
    return DatasetSpec(data.classes, data.small_classes, reading=Reading.of(data))


SPEC = DatasetSpec(nyuv2.CLASSES, nyuv2.SMALL_CLASSES, need_depth=True)

PLENTY = 1 << 30
"""Bytes of memory or disk that any frames of these tests fit into."""


def load(root: Path, memory: CheckMemory | None, spec: DatasetSpec = SPEC) -> Dataset:
    return load_dataset(root, spec, workers=1, memory=memory)
