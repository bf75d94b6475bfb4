"""Whether what several processes exchange arrives: by NCCL where there is a GPU, else by gloo."""

import torch

from benchmarks.certify.notes import Notes
from benchmarks.ranks import measured
from benchmarks.scaling_model import GRADIENT_MB

_SMALL_MB = 8.0
"""Of the buffer on a CPU."""


def ranks(notes: Notes) -> None:
    """Every exchange, and a step by either kind of sum, in a world of each number of GPUs here."""
    gpus = torch.cuda.device_count()
    for processes in sorted({1, gpus or 1}):
        mb = GRADIENT_MB if gpus else _SMALL_MB
        for row in measured(processes, "cuda" if gpus else "cpu", 7, mb, parts=max(2, processes)):
            told = f"{row['ms']} ms by {row['backend']}"
            notes.check(f"{row['what']}, of {processes}", row["right"], told)
            notes.note(f"{row['what']}, of {processes}: figures", row)
