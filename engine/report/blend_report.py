"""A blend on the terminal."""

from rich.table import Table

from engine.report.summary import Summary
from engine.report.tables import Cell, seconds_table, table
from engine.selection.blend_search import Blend


def blend_tables(blend: Blend, summary: Summary) -> list[Table]:
    """Members and blend, classes and seconds."""
    leakage = f"{blend.leakage:.1%}"
    rows: list[tuple[Cell, ...]] = [
        (
            *(member.run, member.miou, member.pixel_acc, f"{member.temperature:g}"),
            "by class" if isinstance(member.weight, dict) else member.weight,
            leakage,
        )
        for member in blend.members
    ]
    for name, scores, gain in (
        ("blend", blend.oof, blend.gain),
        ("blend, honest", blend.honest, blend.honest.gain),
    ):
        rows.append((name, scores.miou, scores.pixel_acc, "", "", leakage, str(gain)))
    plain = blend.plain_slsqp
    if plain:
        weights = " ".join(f"{weight:.4f}" for weight in plain.weights)
        name = f"plain SLSQP, {plain.evaluations} passes"
        rows.append((name, plain.miou, "", "", weights, leakage))
    systems = table(
        f"blend ({blend.method}): OOF mIoU {blend.oof.miou:.4f}, "
        f"{blend.gain.difference:+.4f} on the best run; leakage {leakage}",
        (
            *("run", "OOF mIoU", "pixel accuracy", "T", "weight", "leakage"),
            "on the best run, 95 % interval",
        ),
        rows,
        caption="blend: weights found on the frames that it is scored on; honest: each fold scored "
        "with the weights found without it",
    )
    classes = table(
        "IoU by class",
        ("class", *(member.run for member in blend.members), "blend"),
        ((name, *iou.members, iou.blend) for name, iou in blend.iou.items()),
    )
    return [systems, classes, seconds_table(summary.seconds)]
