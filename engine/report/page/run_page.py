"""The page of a run."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.cli import to_toml
from engine.data.leakage import ContentLeakage, leakage_told
from engine.extended import stands_before
from engine.origin import origin_of
from engine.report.page import plots
from engine.report.page.blocks import (
    KeyFigure,
    class_block,
    colours_of,
    interval_told,
    parts,
    stages,
)
from engine.report.page.contents import Counted, RunContents, changed_fields, read_run
from engine.report.page.frame_block import FrameSource, frame_block
from engine.report.page.frames import photo
from engine.report.page.heat import heat_block
from engine.report.page.render import render
from engine.report.page.sources import run_source
from engine.report.parity_report import Parity
from engine.report.seen import told_inside
from engine.report.summary import Summary, networks_of
from engine.rundir import RunDir
from engine.runtime.progress import duration
from engine.runtime.recorded import Environment
from engine.selection.records import AT_LABELS, AT_STORE
from engine.training.records import EpochLine

_SECTIONS = (
    ("what", "What was run"),
    ("training", "Training"),
    ("classes", "Classes"),
    ("calibration", "Calibration"),
    ("errors", "Errors"),
    ("frames", "Frames"),
    ("leakage", "Leakage"),
    ("cost", "Time and memory"),
    ("parity", "Parity"),
    ("commands", "Commands"),
)


class Closest(NamedTuple):
    """The two frames of different folds that are most alike."""

    stems: tuple[str, str]
    folds: tuple[int, int]
    alike: float
    pictures: list[tuple[str, str]]
    """Stem and data URI of both; empty where one cannot be read."""
    why_not: str


def run_page(run: RunDir, data: Path | None = None) -> str:
    """The HTML of a finished run.

    Args:
        run: its folder.
        data: the dataset folder; None = the one that its config names.

    Raises:
        ConfigError: it is no run, or not finished.
        ValueError: a file is damaged.
    """
    told = read_run(run)
    counted, config, folds = told.counted, told.config, told.folds
    source = run_source({"": run}, config, folds, data)
    closest = _closest(folds.leakage_content, source)
    classes, summary, atlas = counted.classes, counted.summary, counted.atlas
    at_store = f"{AT_STORE}. {interval_told(counted.intervals)}"
    return render(
        "run.html",
        title=counted.name,
        eyebrow="Roomsmith run",
        lead=_lead(told),
        sections=_SECTIONS,
        figures=key_figures(counted, told),
        data_told=_data_told(told),
        zoom_told=summary.zoom_gap.told() if summary.zoom_gap else "",
        changed=changed_fields(config),
        toml=to_toml(config),
        environment=environment_rows(told.environment, told.apart),
        training_told=_training_told(told),
        plots=curve_plots(told.curves, ""),
        losses_told=losses_told(told.curves),
        fold_rows=_folds(told),
        patience=config.training.patience,
        classes=class_block(
            at_store,
            atlas.classes,
            counted.intervals,
            counted.confusion,
            atlas.boundary_miou,
            atlas.confusions,
        ),
        heat=heat_block(told.temperature),
        parts=parts(atlas),
        has_depth=atlas.depth is not None,
        frames=frame_block(counted.count_NCC, source),
        leakage_told=f"{leakage_told(folds.leakage, folds.leakage_measured, None).capitalize()}: "
        "the share of validation frames whose neighbour by number is trained on. "
        + _content_told(folds.leakage_content),
        closest=closest,
        stages=stages(summary.seconds),
        memory_told=memory_told(summary),
        parity_told=_parity_told(told.parity),
        parity_rows=_parity_rows(told.parity),
        commands=_commands(told),
        colours=colours_of(classes),
    )


def key_figures(counted: Counted, run: RunContents | None) -> list[KeyFigure]:
    """What one wants to know first."""
    summary, intervals, atlas = counted.summary, counted.intervals, counted.atlas
    miou, labelled = intervals.miou, sum(bool(count_CC.any()) for count_CC in counted.count_NCC)
    ends = f"95 %: {miou.low:.3f} .. {miou.high:.3f}" if miou.low is not None else "no interval"
    figures = [
        KeyFigure(AT_LABELS, f"{summary.oof.miou:.4f}", f"{labelled} labelled frames"),
        KeyFigure(AT_STORE, f"{atlas.miou:.4f}", ends),
        KeyFigure("pixel accuracy", f"{100 * summary.oof.pixel_acc:.1f} %", "out-of-fold"),
    ]
    if atlas.boundary_miou is not None:
        reach = f"within {atlas.boundary_reach_px} px of another class"
        figures.append(KeyFigure("boundary mIoU", f"{atlas.boundary_miou:.4f}", reach))
    if summary.test is not None:
        test = f"submission, {summary.test.frames} labelled test frames"
        figures.append(KeyFigure("test mIoU", f"{summary.test.miou:.4f}", test))
    if run is not None:
        chosen = "the best of those scored" if run.temperature.chosen_by == "oof miou" else "set"
        figures.append(KeyFigure("temperature", f"{run.temperature.best:g}", chosen))
    seconds = summary.seconds.get("total")
    if seconds is not None:
        figures.append(KeyFigure("time", duration(seconds), "all stages"))
    return figures


def memory_told(summary: Summary) -> str:
    """The peak of memory, in a sentence."""
    peak = summary.peak_memory_mib
    if not peak:
        return "Peak memory: not measured."
    return f"Peak memory of the process that wrote the summary: {peak / 1024:.2f} GiB."


def curve_plots(curves: Mapping[int, list[EpochLine]], prefix: str) -> dict[str, Any]:
    """Losses, mIoU and learning rate over the epochs, each None where no line has it."""
    validation = ("validation", lambda one: one.validation_loss)
    losses = ("training", lambda one: one.segmentation_loss), validation
    one_curve = dict(list(curves.items())[:1])  # of all folds it is the same
    same_rate = len({tuple(one.lr for one in lines) for lines in curves.values()}) == 1
    return {
        "loss": plots.fold_curves(curves, f"{prefix}loss", "Losses by epoch", *losses),
        "miou": plots.fold_curves(
            curves, f"{prefix}miou", "mIoU by epoch", ("mIoU", lambda one: one.miou)
        ),
        "lr": plots.fold_curves(
            one_curve if same_rate else curves,
            f"{prefix}lr",
            "Learning rate by epoch",
            ("learning rate", lambda one: one.lr),
        ),
    }


def losses_told(curves: Mapping[int, list[EpochLine]]) -> str:
    """What the lines of losses are."""
    lines = (one for fold in curves.values() for one in fold)
    if any(one.validation_loss is not None for one in lines):
        return (
            "Losses: cross-entropy of the training crops, weighted as configured (drawn out), and "
            "of the validation frames, unweighted (dashed)."
        )
    return (
        "Cross-entropy of the training crops, weighted as configured; of the validation frames it "
        "was not measured."
    )


def _lead(told: RunContents) -> str:
    model, training = told.config.model, told.config.training
    inputs = "RGB and depth" if told.config.needs_depth else "RGB"
    most = "at most " if training.patience else ""
    epochs = f"{most}{training.epochs} epoch{'s' * (training.epochs != 1)} a fold"
    return f"{model.encoder} + {model.decoder} on {inputs}, {epochs}, {told.folds.kind} folds."


def _data_told(told: RunContents) -> str:
    folds, environment = told.folds, told.environment
    count = len(set(folds.fold_of.values()))
    return (
        f"{len(folds.fold_of)} training frames of {told.config.data.root} in {count} "
        f"{folds.kind} folds, {len(told.counted.classes)} classes; fingerprint of the data "
        f"{environment.dataset_fingerprint[:16]}.{_origin_told(told)}{_teacher_told(told)}"
    )


def _teacher_told(told: RunContents) -> str:
    """Who labelled its test frames, if they were trained on; nothing of most runs."""
    teacher = told.config.training.teacher.removeprefix("run:")
    if teacher and not told.config.taught_by_run:
        teacher = " ".join(told_inside(told.config))
    return f" Its test frames were labelled by {teacher} and trained on." if teacher else ""


def _origin_told(told: RunContents) -> str:
    """Which run it started from, and what of its frames that has seen; nothing of most runs."""
    origin = origin_of(told.config, told.counted.run)
    if origin is None or origin.seen is None:
        return ""
    seen = origin.seen
    if seen.unknown:
        known = "whether its weights were trained on some of these frames is not known"
    else:
        known = f"of its training images {seen.validated} are validated here, {seen.test} tested"
    return f" It started from {origin.run}; {known}."


def environment_rows(found: Environment, apart: Sequence[str]) -> list[tuple[str, str]]:
    """What computed, by name; `apart` is what was computed otherwise than the first fold."""
    machine = found.machine
    rows = [
        ("processor", f"{machine.processor}, {machine.cores} cores, {machine.threads} threads"),
        ("GPU", machine.gpu or "none"),
        ("system", machine.system),
        ("commit", found.commit or "not known"),
    ]
    rows += [(name, version or "not installed") for name, version in found.versions.items()]
    return rows + [("otherwise", line) for line in apart]


def _training_told(told: RunContents) -> str:
    training = told.config.training
    if not training.epochs:
        return "No step was trained: the weights were taken as they came."
    if not told.curves:
        return "The lines of the epochs are not in the run folder."
    networks = [one for fold in told.counted.summary.folds for one in networks_of(fold)]
    each = "each fold"
    if training.members > 1:
        each = f"each of the {training.members} networks of a fold"
    kept = f"Of {each} the epoch with the best mIoU of its own validation frames is kept."
    for stand in stands_before(told.config, told.counted.run):
        reached = "" if stand.miou is None else f", out-of-fold mIoU {stand.miou:.4f},"
        kept += f" Finished with {stand.epochs} epochs{reached} it was given more."
    if not training.patience:
        return kept
    counted = f"{training.patience} validation{'s' * (training.patience != 1)}"
    ended = sum(one.stopped_after is not None for one in networks)
    folds = f"{ended} of {len(networks)} {'folds' if training.members == 1 else 'networks'}"
    why = f"after {counted} in a row without a better one (training.patience)"
    return f"{kept} {folds} ended before epoch {training.epochs}, {why}."


def _folds(told: RunContents) -> list[dict[str, Any]]:
    of = list(told.folds.fold_of.values())
    folds = told.counted.summary.folds
    return [{**dict(f), "frames": of.count(f.fold), "networks": networks_of(f)} for f in folds]


def _content_told(content: ContentLeakage | None) -> str:
    if content is None:
        return "By content: not measured."
    share = "not measured" if content.share is None else f"{100 * content.share:.1f} %"
    return f"By content, what the frames show: {share} ({content.method})."


def _closest(content: ContentLeakage | None, source: FrameSource) -> Closest | None:
    if content is None or content.closest is None or content.alike is None:
        return None
    fold_of = dict(zip(source.stems, source.fold_of or (), strict=True))
    frames = [source.reader.frame(stem) for stem in content.closest]
    shown = [
        (stem, photo(frame.image_HW3))
        for stem, frame in zip(content.closest, frames, strict=True)
        if frame is not None
    ]
    first, second = (fold_of[stem] for stem in content.closest)
    whole = shown if len(shown) == 2 else []
    return Closest(content.closest, (first, second), content.alike, whole, " cannot be shown.")


def _parity_told(parity: Parity | None) -> str:
    if parity is None:
        return "How far the training step is from eager float32 was not measured."
    if not parity.compared:
        return f"The step that ran: {parity.step}. Nothing was compared: {parity.why_not}."
    return (
        f"The step that ran ({parity.step}) against eager float32, on {parity.batches} batches: "
        "relative distances, L2."
    )


def _parity_rows(parity: Parity | None) -> list[tuple[str, str]]:
    if parity is None or not parity.compared:
        return []
    rows = [("loss", parity.loss), ("gradient", parity.gradient), ("logits", parity.logits)]
    told = [(name, f"{value:.2e}") for name, value in rows if value is not None]
    if worst := parity.worst_tensor:
        told.append((f"gradient that is furthest, {worst.name}", f"{worst.error:.2e}"))
    if parity.miou is not None and parity.miou_float32 is not None:
        told.append(
            (
                "validation mIoU, as it ran and in float32",
                f"{parity.miou:.4f}, {parity.miou_float32:.4f}",
            )
        )
    return told


def _commands(told: RunContents) -> list[tuple[str, str]]:
    root, run = shlex.quote(str(told.counted.run.root)), told.counted.run
    depth = " --depth DEPTH" if told.config.needs_depth else ""
    config = shlex.quote(str(run.config))
    return [
        (
            "Repeat it, from the folder that it was started in",
            f"python -m engine.train --config {config} --out AGAIN",
        ),
        ("Predict other images", f"python -m engine.predict {root} IMAGES{depth}"),
        ("Blend it with another run", f"python -m engine.blend {root} OTHER --out BLEND"),
        ("Compare it with another run", f"python -m engine.compare {root} OTHER"),
        ("Make this page again", f"python -m engine.report {root}"),
    ]
