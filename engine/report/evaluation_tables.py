"""An evaluation on the terminal."""

from rich.table import Table

from engine.report.evaluation import Evaluation
from engine.report.show import atlas_tables
from engine.report.tables import Cell, table
from engine.selection.records import Interval


def evaluation_tables(found: Evaluation) -> list[Table]:
    """The scores with their intervals, IoU by class, calibration, and the atlas."""
    groups = f"{found.miou.groups} {found.miou.groups_of}s"
    looked = found.subject.runs if len(found.subject.runs) > 1 else found.subject.runs[0]
    fold = "" if found.subject.fold is None else f", fold {found.subject.fold}"
    columns = ("", "score", "95 % interval", "groups")
    scores = table(
        f"{len(found.stems)} labelled frames of {found.data}, {groups}\n{looked}{fold}",
        columns,
        [("mIoU", *_cells(found.miou)), ("pixel accuracy", *_cells(found.pixel_acc))],
    )
    if found.seen.frames:
        scores.caption = f"{found.seen.frames} of the frames were trained on: not held out"
    rows = [(name, *_cells(interval)) for name, interval in found.iou.items()]
    tables = [scores, table("IoU by class", ("class", *columns[1:]), rows)]
    if found.calibration is not None:
        (one,) = found.calibration.temperatures
        title = f"NLL {one.nll:.4f}, ECE {one.ece:.4f}, {found.calibration.pixels} sampled pixels"
        bins = (
            (f"{k / len(one.bins):.2f} .. {(k + 1) / len(one.bins):.2f}", *b)
            for k, each in enumerate(one.bins)
            for b in [(str(each.count), each.confidence, each.accuracy)]
        )
        tables.append(table(title, ("confidence", "pixels", "mean", "accuracy"), bins))
    return [*tables, *atlas_tables(found.atlas)]


def _cells(found: Interval | None) -> tuple[Cell, ...]:
    if found is None:
        return None, None, None
    if found.low is None or found.high is None:
        return found.value, "too few groups", str(found.groups)
    return found.value, f"{found.low:.4f} .. {found.high:.4f}", str(found.groups)
