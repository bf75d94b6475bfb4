"""The page of a blend."""

import shlex
from pathlib import Path

from engine.report.page import plots
from engine.report.page.blocks import class_block, colours_of, interval_told, parts, stages
from engine.report.page.contents import BlendContents, read_blend
from engine.report.page.frame_block import FrameBlock, frame_block, named_frames
from engine.report.page.render import render
from engine.report.page.run_page import key_figures, memory_told
from engine.report.page.sources import blend_source
from engine.rundir import RunDir
from engine.selection.records import AT_STORE

_SECTIONS = (
    ("weights", "Weights"),
    ("classes", "Classes"),
    ("errors", "Errors"),
    ("frames", "Frames"),
    ("leakage", "Leakage"),
    ("cost", "Time and memory"),
    ("commands", "Commands"),
)


def blend_page(run: RunDir, data: Path | None = None) -> str:
    """The HTML of a finished blend.

    Args:
        run: its folder.
        data: the dataset folder; None = the one that the first run's config names.

    Raises:
        ConfigError: it is not finished.
        ValueError: a file is damaged.
    """
    told = read_blend(run)
    counted, blend = told.counted, told.blend
    names = [Path(member.run).name or member.run for member in blend.members]
    curve = blend.curve and plots.blend_curve(blend.curve, (names[0], names[1]), "curve")
    systems = [
        ("blend: weights found on the frames that it is scored on", blend.oof),
        ("blend, honest: each fold by weights found without it", blend.honest),
    ]
    weights = blend.weights_of(counted.classes).T.tolist()
    return render(
        "blend.html",
        title=counted.name,
        eyebrow="Roomsmith blend",
        lead=f"{len(blend.members)} runs, blended by weights of their probabilities.",
        sections=_SECTIONS,
        figures=key_figures(counted, None),
        weights_told=_weights_told(told),
        members=blend.members,
        names=names,
        systems=systems,
        gains=[("The blend gains", blend.gain), ("Honestly it gains", blend.honest.gain)],
        curve=curve,
        by_class=list(zip(counted.classes, weights, strict=True)) if blend.per_class else [],
        iou=blend.iou,
        classes=class_block(
            f"{AT_STORE}. {interval_told(counted.intervals)}",
            counted.atlas.classes,
            counted.intervals,
            counted.confusion,
            counted.atlas.boundary_miou,
            counted.atlas.confusions,
        ),
        parts=parts(counted.atlas),
        has_depth=counted.atlas.depth is not None,
        frames=_frames(told, data),
        leakage_told=f"{100 * blend.leakage:.1f} % of the validation frames have a neighbour by "
        "number that is trained on; the pages of the runs say more.",
        stages=stages(counted.summary.seconds),
        memory_told=memory_told(counted.summary),
        commands=_commands(told),
        colours=colours_of(counted.classes),
    )


def _weights_told(told: BlendContents) -> str:
    ways = {
        "exact": "the optimum of every blend of the two"
        if told.blend.curve
        else "exact line searches from several starts",
        "slsqp": "exact line searches from the maximum of the soft mIoU",
        "equal": "not searched for: all are equal",
    }
    way = ways[told.blend.method] + (", then by class" if told.blend.per_class else "")
    return f"How the weights were found: {way}. All figures of mIoU here are at store resolution."


def _frames(told: BlendContents, data: Path | None) -> FrameBlock:
    source, _ = blend_source(told.blend, told.counted.classes, data)
    if source is not None:
        return frame_block(told.counted.count_NCC, source)
    why = "the runs of the blend are not where they were, or were made again since"
    return named_frames(told.counted.atlas, told.counted.count_NCC, why)


def _commands(told: BlendContents) -> list[tuple[str, str]]:
    root = shlex.quote(str(told.counted.run.root))
    runs = " ".join(shlex.quote(member.run) for member in told.blend.members)
    how = "" if told.blend.method == "exact" else f" --method {told.blend.method}"
    how += " --per-class" if told.blend.per_class else ""
    return [
        (
            "Repeat it, from the folder that it was started in",
            f"python -m engine.blend {runs} --out AGAIN{how}",
        ),
        ("Make this page again", f"python -m engine.report {root}"),
    ]
