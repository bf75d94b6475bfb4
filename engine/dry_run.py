"""`engine.train --dry-run`: all that training checks, then what a run takes. It trains nothing."""

import logging
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.config import Config
from engine.early import check_train
from engine.lease import look
from engine.report.seal import is_sealed
from engine.rundir import NOT_MEASURED, RunDir
from engine.settings import IN_CHANNELS

if TYPE_CHECKING:
    from rich.table import Table

    from engine.experiment import Experiment
    from engine.model.network import Network
    from engine.training.pace import Pace

_log = logging.getLogger(__name__)

_GIB = 1 << 30


def dry_run(config: Config, run_dir: RunDir, chosen: Sequence[int], *, resume: bool) -> None:
    """Refuse what training would refuse; else tell sizes, memory, disk and the time it would take.

    Nothing is written to the run folder; the cache of decoded frames is filled, and embedded rooms
    are rendered, as for any run. Raises as `engine.experiment.complete`.
    """
    if is_sealed(config, run_dir):
        _log.info("%s is complete; nothing to do", run_dir.root)
        return
    for fold in chosen:
        look(run_dir.training(fold))
    check_train(config, run_dir, chosen, resume=resume)
    from rich.console import Console

    from engine.experiment import check_folds, open_experiment
    from engine.resume import check_same_experiment
    from engine.training.pace import measure

    if run_dir.config.is_file():
        check_same_experiment(config, run_dir)
    run, console = open_experiment(config, run_dir), Console(highlight=False)
    untrained = check_folds(run, chosen, resume=resume)
    # Before anything is measured: where memory is too small, that is the last that is seen.
    console.print(_table(f"{run_dir.root}: dry run, nothing is trained", _sizes(run, untrained)))
    if untrained:
        pace = measure(run.task(untrained[0]), run.policy)
        console.print(_table("", _paces(run, untrained, pace)))
    console.print(f"all is checked; nothing was written to {run_dir.root}", soft_wrap=True)


def _sizes(run: "Experiment", untrained: Sequence[int]) -> dict[str, str]:
    """What the run is made of, and the memory and disk that this comes to."""
    config, train = run.config, run.dataset.train.samples
    data, training = config.data, config.training
    network = _network(config)
    channels = " or ".join(str(IN_CHANNELS[seen]) for seen in dict.fromkeys(config.inputs))
    parameters = sum(part.numel() for part in network.parameters())
    rows = {
        "frames": f"{len(train)} training, {len(run.dataset.test.samples)} test, {_hw(run)}",
        "classes": f"{len(data.classes)}: {', '.join(data.classes)}",
        "folds": _folds(run, untrained),
        "network": f"{config.model.encoder} + {config.model.decoder}, {parameters:,} parameters, "
        f"{channels} channels in",
        "input": f"{_by(data.input_hw)}, crop {_by(data.crop_hw)}, batch {training.batch_size}"
        + (f", {config.unlabelled} of it labelled by a teacher" if training.teacher else ""),
        "views": _views(run),
    }
    if untrained:
        tasks = [run.task(fold) for fold in untrained]
        each = ", ".join(str(count) for count in dict.fromkeys(t.steps_per_epoch for t in tasks))
        total = sum(task.steps_per_epoch for task in tasks) * training.epochs
        most = "at most " if training.patience else ""
        rows["steps"] = f"{each} an epoch, {most}{training.epochs} epochs a fold, {total:,} in all"
    rows["memory, estimated"] = _memory(run, network)
    rows["disk, estimated"] = _disk(run, network)
    return rows


def _hw(run: "Experiment") -> str:
    from engine.frames.samples import of_each_size

    sizes = sorted({sample.hw for sample in of_each_size(run.dataset.train, run.dataset.test)})
    shown = " to ".join(_by(hw) for hw in dict.fromkeys((sizes[0], sizes[-1])))
    return f"{shown} pixels" + (f", {len(sizes)} sizes" if sizes[1:] else "")


def _folds(run: "Experiment", untrained: Sequence[int]) -> str:
    if not run.config.holds_out:
        told = f"networks {', '.join(map(str, untrained))} on all frames" if untrained else "none"
        return f"none; to train: {told}; {NOT_MEASURED}"
    parts = (
        f"{fold} ({len(run.folds.training(fold))} frames, "
        f"{len(run.folds.validation(fold))} to validate)"
        for fold in untrained
    )
    kind = f"{run.config.data.folds} {run.folds.kind}"
    if (members := run.config.training.members) > 1:
        kind += f", {members} networks each"
    return f"{kind}; to train: {', '.join(parts) or 'none'}"


def _views(run: "Experiment") -> str:
    from engine.views.zoom import base_hw, view_hw

    views = run.config.inference
    base = base_hw(run.config.data, views, run.dataset.train.samples[0].hw)
    sizes = ", ".join(_by(view_hw(base, scale)) for scale in views.scales)
    count = len(views.scales) * (1 + views.flip)
    mirrored = ", each mirrored too" if views.flip else ""
    return f"{count} of a frame: {sizes}{mirrored}; {len(views.temperatures)} temperatures"


def _memory(run: "Experiment", network: "Network") -> str:
    """Of a step and of a view: counted on the meta device, without what libraries need beside it.

    Weights count four times: the average and two moments of AdamW are of their size.
    """
    from engine.data.sources import choose_source, resident_bytes, trained_frames
    from engine.runtime.device import total_bytes
    from engine.runtime.memory import PROBE_HW, pass_bytes, step_bytes
    from engine.views.zoom import base_hw, view_hw

    config, device = run.config, run.policy.device
    samples = trained_frames(config, run.dataset)
    training, views, channels = config.training, config.inference, config.model.in_channels
    halves = 2 if run.policy.autocast_dtype is not None else 1
    weights = 4 * sum(part.nbytes for part in network.parameters())
    images = math.ceil(training.batch_size / training.parts / training.accumulate)
    crop = config.data.crop_hw
    step = weights + step_bytes(network, channels, crop, images) // halves
    base = base_hw(config.data, views, samples[0].hw)
    pixels = math.prod(view_hw(base, max(views.scales)))
    totals = 4 * len(config.data.classes) * len(views.temperatures) * math.prod(base)
    view = totals + pass_bytes(network, channels) // halves * pixels // math.prod(PROBE_HW)
    frames, kept = 0, ""
    surfaces = config.sees_surfaces
    if choose_source(config.runtime, samples, device, surfaces=surfaces)[0] == "resident":
        frames = resident_bytes(samples, surfaces=surfaces)
        kept = f", decoded frames {_gib(frames)}"
    return (
        f"step {_gib(step)}, a view {_gib(view)}{kept}, of {_gib(total_bytes(device))} on {device}"
    )


def _disk(run: "Experiment", network: "Network") -> str:
    """Of the run folder at its largest: checkpoints are whole, and every temperature is stored."""
    from engine.views.store import oof_layout

    config, test = run.config, run.dataset.test.samples
    state = sum(part.nbytes for part in network.state_dict().values())
    # Network, average and two moments; beside them the best average.
    folds = config.networks * 5 * state
    layout = oof_layout(config, run.dataset.train.samples, run.folds, "")
    store = 2 * math.prod(layout.shape) if config.holds_out else 0
    masks = 2 * sum(math.prod(sample.hw) for sample in test)
    most = folds + store * len(layout.temperatures) + masks
    there = next(path for path in (run.dir.root, *run.dir.root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    parts = f"folds {_gib(folds)}, probabilities {_gib(store)} when finished"
    return f"{_gib(most)} at the most ({parts}); {_gib(free)} are free"


def _paces(run: "Experiment", untrained: Sequence[int], pace: "Pace") -> dict[str, str]:
    """What was measured, and the time that it comes to."""
    from dataclasses import replace

    from engine.report.environment import peak_memory_mib
    from engine.runtime.progress import duration
    from engine.training.time_left import seconds_left

    first, position = untrained[0], run.position(untrained[0])
    task = replace(run.task(first), later=len(untrained) - 1)
    train_s = pace.step_s * task.steps_per_epoch
    validation_s = pace.validation_s * len(task.validation)
    done = position.epoch if position else 0
    left_s = seconds_left(task, done, train_s, validation_s, pace.views_s)
    rows = {}
    if pace.steps:
        rows["a step"] = f"{1000 * pace.step_s:.4g} ms, median of {pace.steps} measured"
        rows["an epoch"] = f"{duration(train_s)}, its validation {duration(validation_s)}"
    rows["a frame"] = f"{1000 * pace.views_s:.4g} ms by all views, of {pace.frames} measured"
    held = peak_memory_mib() / 1024 if pace.peak_bytes is None else pace.peak_bytes / _GIB
    what = "of this process" if pace.peak_bytes is None else "of tensors on the GPU"
    rows["memory, measured"] = f"{held:.2f} GiB, the peak {what} so far"
    counted = f"by {pace.steps} steps and {pace.frames} frames" if pace.steps else "by views alone"
    most = "at most " if task.config.training.patience else ""
    told = f"{most}{duration(left_s)}, {counted}; without checking files and the atlas"
    rows["time, estimated"] = told
    if run.config.openvino:
        rows["time, estimated"] += "; views by PyTorch, OpenVINO's are faster"
    if run.config.runtime.tune != "off":
        rows["time, estimated"] += "; steps untuned"
    return rows


def _network(config: Config) -> "Network":
    import torch

    from engine.model.network import Network

    with torch.device("meta"):
        return Network(config.model, len(config.data.classes))


def _table(title: str, rows: dict[str, str]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", show_header=False)
    for name, told in rows.items():
        table.add_row(name, Text(told))  # a class may be called as rich's markup is
    return table


def _by(hw: tuple[int, int]) -> str:
    return f"{hw[0]} x {hw[1]}"


def _gib(count: int) -> str:
    if count < _GIB // 10:
        return f"{count / (1 << 20):.3g} MiB"
    return f"{count / _GIB:.3g} GiB"
