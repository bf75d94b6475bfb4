"""A finished run or blend on the terminal; reads its small files only."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from engine.report.atlas_report import Atlas, PartErrors
from engine.report.summary import Summary, networks_of
from engine.report.tables import Cell, Row, shown, table
from engine.rundir import NOT_MEASURED, RunDir
from engine.runtime.progress import duration
from engine.selection.records import AT_LABELS, AT_STORE, SubmissionScores, TemperatureChoice

if TYPE_CHECKING:
    from engine.selection.blend_search import Blend


def show(run: RunDir) -> None:
    """Print the tables of a finished run or blend."""
    console, summary = Console(), Summary.read(run.summary)
    if run.blend.exists():
        from engine.selection.blend_search import Blend

        # A log has no width of its own, and the names of runs are long.
        console = Console(width=None if console.is_terminal else 120)
        tables = blend_tables(Blend.read(run.blend), summary)
    else:
        tables = summary_tables(summary, TemperatureChoice.read(run.temperature))
    if summary.test is not None:
        tables.append(test_table(summary.test))
    if summary.oof_scores is not None:
        tables += atlas_tables(Atlas.read(run.atlas))
    for drawn in tables:
        console.print(drawn)
    if summary.oof_scores is None:
        console.print(NOT_MEASURED, soft_wrap=True, highlight=False)
    if summary.zoom_gap:
        console.print(summary.zoom_gap.told(), soft_wrap=True, highlight=False)
    console.print(f"written to {run.root}", highlight=False)


def summary_tables(summary: Summary, temperature: TemperatureChoice) -> list[Table]:
    """Folds, temperatures, classes and seconds of a run; of one that holds no frame out, these."""
    if summary.oof_scores is None:
        return [seconds_table(summary.seconds)]
    oof = summary.oof
    leakage = f"{summary.leakage:.1%}" if summary.leakage_measured else "not measured"
    columns = ["fold", AT_LABELS, "best epoch", "single-view mIoU", "stopped after"]
    networks = [one for fold in summary.folds for one in networks_of(fold)]
    if all(one.stopped_after is None for one in networks):
        del columns[-1]
    # Of several networks of a fold each has a row, the fold's own figures stand in the first.
    rows = (
        (*own, one.best_epoch, one.validation_miou, one.stopped_after)
        for fold in summary.folds
        for number, one in enumerate(networks_of(fold))
        for own in [("", "") if number else (fold.fold, fold.miou)]
    )
    folds = table(
        f"{AT_LABELS} {oof.miou:.4f}, pixel accuracy {oof.pixel_acc:.4f} at "
        f"T = {oof.temperature:g}; leakage {leakage}",
        columns,
        (row[: len(columns)] for row in rows),
        text=0,
    )
    if summary.leakage_content:
        folds.caption = f"leakage by content {summary.leakage_content.told()}"
    classes = table("IoU by class", ("class", "IoU"), oof.iou.items())
    return [folds, temperature_table(temperature), classes, seconds_table(summary.seconds)]


def temperature_table(choice: TemperatureChoice) -> Table:
    """What each temperature reaches: scores, and calibration if it was measured."""
    found = choice.calibration
    rows = [
        (
            f"{s.temperature:g}",
            s.miou,
            s.pixel_acc,
            one.nll if one else None,
            one.ece if one else None,
        )
        for s in choice.scores
        for one in [found.at(s.temperature) if found else None]
    ]
    columns = ("T", AT_LABELS, "pixel accuracy", "NLL", "ECE")
    drawn = table("temperatures", columns, rows, text=0)
    drawn.caption = "NLL and ECE are not measured"
    if found:
        drawn.caption = f"NLL, ECE: of {found.pixels} pixels; lowest NLL at T = {found.best_nll:g}"
    return drawn


def blend_tables(blend: "Blend", summary: Summary) -> list[Table]:
    """Members and blend, classes and seconds."""
    leakage, runs = f"{blend.leakage:.1%}", [member.run for member in blend.members]
    rows: list[Row] = []
    for run in blend.members:
        weight = "by class" if isinstance(run.weight, dict) else run.weight
        rows.append((run.run, run.miou, run.pixel_acc, f"{run.temperature:g}", weight, leakage))
    gains = (("blend", blend.oof, blend.gain), ("blend, honest", blend.honest, blend.honest.gain))
    for name, scores, gain in gains:
        rows.append((name, scores.miou, scores.pixel_acc, "", "", leakage, str(gain)))
    if plain := blend.plain_slsqp:
        weights = " ".join(f"{weight:.4f}" for weight in plain.weights)
        name = f"plain SLSQP, {plain.evaluations} passes"
        rows.append((name, plain.miou, "", "", weights, leakage))
    columns = ("run", AT_STORE, "pixel accuracy", "T", "weight", "leakage")
    systems = table(
        f"blend ({blend.method}): {AT_STORE} {blend.oof.miou:.4f}, "
        f"{blend.gain.difference:+.4f} on the best run; leakage {leakage}",
        (*columns, "on the best run, 95 % interval"),
        rows,
    )
    systems.caption = (
        "blend: weights found on the frames that it is scored on; honest: each fold scored "
        "with the weights found without it; the blend's "
    )
    if found := blend.calibration:
        (one,) = found.temperatures
        systems.caption += f"NLL {one.nll:.4f}, ECE {one.ece:.4f}, of {found.pixels} pixels"
    else:
        systems.caption += "NLL and ECE are not measured"
    ious = ((name, *iou.members, iou.blend) for name, iou in blend.iou.items())
    classes = table("IoU by class", ("class", *runs, "blend"), ious)
    return [systems, classes, seconds_table(summary.seconds)]


def test_table(test: SubmissionScores) -> Table:
    """The submission's IoU by class on labelled test frames."""
    title = f"{test.frames} labelled test frames: mIoU {test.miou:.4f}, pixel accuracy "
    return table(f"{title}{test.pixel_acc:.4f}", ("class", "IoU"), test.iou.items())


def atlas_tables(atlas: Atlas) -> list[Table]:
    """Classes, parts, confusions and worst frames."""
    reach = f"(within {atlas.boundary_reach_px} px of another class)"
    title = f"{AT_STORE} {shown(atlas.miou)}, boundary mIoU {shown(atlas.boundary_miou)} {reach}"
    figures = ((name, c.boundary_iou, c.recall, c.precision) for name, c in atlas.classes.items())
    by_class = table(title, ("class", "boundary IoU", "recall", "precision"), figures)
    without = "" if atlas.depth else "; no depth maps, so nothing by depth"
    rows = [_part(size, objects=str(size.objects)) for size in atlas.object_size]
    rows += [(), *map(_part, atlas.edge), ()]
    rows += [_part(depth, "depth ") for depth in atlas.depth or ()]
    columns = ("part", "objects", "pixels", "pixel accuracy", "mIoU")
    parts = table(f"pixels by object size, edges and depth{without}", columns, rows)
    pairs = ((pair.truth, pair.prediction, f"{pair.share:.1%}") for pair in atlas.confusions)
    taken = table("what is taken for what", ("truth", "prediction", "of the truth"), pairs, text=2)
    frames = ((frame.stem, frame.fold, frame.miou, frame.pixel_acc) for frame in atlas.worst_frames)
    worst = table("worst frames (worst.png)", ("frame", "fold", "mIoU", "pixel accuracy"), frames)
    return [by_class, parts, taken, worst]


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """The time of each stage."""
    rows = ((stage, duration(value)) for stage, value in seconds.items())
    return table("time by stage", ("stage", "time"), rows)


def _part(part: PartErrors, prefix: str = "", objects: str = "") -> tuple[Cell, ...]:
    return prefix + part.name, objects, f"{part.share:.1%}", part.pixel_acc, part.miou
