"""An `atlas.json` on the terminal."""

from rich.table import Table

from engine.report.atlas_report import Atlas, PartErrors
from engine.report.tables import Cell, shown, table


def atlas_tables(atlas: Atlas) -> list[Table]:
    """Classes, parts, confusions and worst frames."""
    reach = f"(within {atlas.boundary_reach_px} px of another class)"
    by_class = table(
        f"boundary mIoU {shown(atlas.boundary_miou)} {reach}",
        ("class", "boundary IoU", "recall", "precision"),
        ((name, c.boundary_iou, c.recall, c.precision) for name, c in atlas.classes.items()),
    )
    without = "" if atlas.depth else "; no depth maps, so nothing by depth"
    parts = table(
        f"pixels by object size, edges and depth{without}",
        ("part", "objects", "pixels", "pixel accuracy", "mIoU"),
        [
            *(_part(size, objects=str(size.objects)) for size in atlas.object_size),
            (),
            *(_part(edge) for edge in atlas.edge),
            (),
            *(_part(depth, "depth ") for depth in atlas.depth or ()),
        ],
    )
    confusions = table(
        "what is taken for what",
        ("truth", "prediction", "of the truth"),
        ((pair.truth, pair.prediction, f"{pair.share:.1%}") for pair in atlas.confusions),
        text=2,
    )
    worst = table(
        "worst frames (worst.png)",
        ("frame", "fold", "mIoU", "pixel accuracy"),
        ((frame.stem, frame.fold, frame.miou, frame.pixel_acc) for frame in atlas.worst_frames),
    )
    return [by_class, parts, confusions, worst]


def _part(part: PartErrors, prefix: str = "", objects: str = "") -> tuple[Cell, ...]:
    return prefix + part.name, objects, f"{part.share:.1%}", part.pixel_acc, part.miou
