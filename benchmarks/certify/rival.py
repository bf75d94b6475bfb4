"""A training step against the plain recipe's at its fastest, in turns, on the same batch."""

import tempfile
from pathlib import Path

import torch

from benchmarks.certify.experiment import make_config
from benchmarks.certify.notes import Notes, need

_FRAMES = 20
_ROUNDS, _ROUNDS_ON_CPU = 15, 5


def rival(notes: Notes) -> None:
    """The row "train step" of `benchmarks.throughput`, and the rival that needs the longest."""
    need("albumentations", "cv2", "segmentation_models_pytorch")
    from benchmarks.known_rows import rows
    from benchmarks.measure import Bench
    from benchmarks.timing import machine_rates

    config = make_config(notes.folder)
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    fastest = "plain, AMP, channels-last, compiled" if gpu else "plain, channels-last"
    rates = machine_rates(torch.get_num_threads(), device)
    with tempfile.TemporaryDirectory(dir=notes.folder) as scratch:
        bench, row = Bench(config, Path(scratch), rates), rows(device)["train step"]
        job = bench.job(row, _FRAMES)
        notes.add_rows(bench.measure(row, job, [fastest], _ROUNDS if gpu else _ROUNDS_ON_CPU))
