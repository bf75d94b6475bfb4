"""The dataset that a config names, checked; frames to be trained on are kept decoded."""

import torch

from engine.config import ROOMS, Config, data_root
from engine.data.sources import resident_limit
from engine.frames.cache import cache_folder
from engine.frames.index import CheckMemory, Dataset, DatasetSpec, load_dataset
from engine.frames.reading import Reading
from engine.rooms.dataset import render_rooms
from engine.runtime.progress import track_total


def read_dataset(config: Config, device: torch.device | None = None) -> Dataset:
    """Check the dataset that a config names; the embedded rooms are rendered if they are not there.

    Frames that the source of a `device` to train on would keep are kept decoded as they are
    checked. Raises DatasetError for the faults of a dataset.
    """
    data, runtime, root = config.data, config.runtime, data_root(config)
    limit = 0 if device is None else resident_limit(runtime, device)
    memory = CheckMemory(cache_folder(runtime.cache), frame_bytes=limit)
    needs_depth, reading = config.needs_depth, Reading.of(data)
    spec = DatasetSpec(data.classes, data.small_classes, needs_depth, reading)
    if data.root == ROOMS:
        with track_total("rendering rooms") as progress:
            render_rooms(root, progress=progress)
    with track_total("checking files") as progress:
        return load_dataset(root, spec, workers=runtime.workers, progress=progress, memory=memory)
