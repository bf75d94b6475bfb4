"""Batches of JPEG frames by DALI, `mixed` on a GPU, against those that PyTorch makes on the CPU."""

import importlib.util
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.certify.experiment import make_config, open_run
from benchmarks.certify.notes import Notes, NotHereError
from benchmarks.rows import ours
from benchmarks.subset import with_section
from engine.data.batch import Batch
from engine.experiment import Experiment
from engine.model.network import input_normalisation

_QUALITY = 90
_MOST = 2.0
"""Of 255: both decoders round to whole ones, and so does DALI's resampling."""


def decode(notes: Notes) -> None:
    """How far an epoch of crops differs, and frames a second of each source."""
    if not importlib.util.find_spec("nvidia") or not importlib.util.find_spec("nvidia.dali"):
        raise NotHereError("not here: nvidia-dali-cuda130")
    frames = _as_jpeg(notes.folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    notes.note("DALI on", "the GPU: mixed" if device == "cuda" else "the CPU; mixed: no GPU")
    config = with_section(make_config(notes.folder), "data", root=str(frames))
    epochs = {}
    for source, where in (("dali", device), ("torch", "cpu")):
        run = open_run(notes.folder, with_section(config, "runtime", source=source, device=where))
        start_s = time.monotonic()
        epochs[source] = _taken(run)
        seconds = time.monotonic() - start_s
        frames_s = sum(len(batch.index) for batch in epochs[source]) / seconds
        notes.note(f"{source}, frames a second, start-up included", round(frames_s, 1))
    pairs = list(zip(epochs["dali"], epochs["torch"], strict=True))
    for name in ("label_BHW", "depth_BHW"):
        same = all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs)
        notes.check(name.partition("_")[0], same, f"{len(pairs)} batches")
    std = torch.tensor(input_normalisation(config.model).std)[:, None, None]
    gaps = torch.cat([((a.image_BCHW - b.image_BCHW)[:, :3].abs() * std) for a, b in pairs])
    told = f"off by at most {gaps.max():.2g} of 255, {gaps.mean():.2g} on average"
    notes.check("image", float(gaps.max()) <= _MOST, told)


def _taken(run: Experiment) -> list[Batch]:
    """The batches of an epoch, on the CPU."""
    return [
        Batch(b.image_BCHW.cpu(), b.depth_BHW.cpu(), b.label_BHW.cpu(), b.index)
        for b in ours.epoch_batches(run)
    ]


def _as_jpeg(folder: Path) -> Path:
    """The training frames of the other sections once more, their images as JPEG."""
    rooms = Path(make_config(folder).data.root)
    made = folder / f"{rooms.name}-jpeg" / "train"
    for file in (rooms / "train").glob("*/*.png"):
        target = made / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.name == "image":
            with Image.open(file) as image:
                image.save(target.with_suffix(".jpg"), quality=_QUALITY)
        elif not target.exists():
            target.symlink_to(file)
    return made.parent
