"""A table says every figure in the same way."""

import io

from rich.console import Console

from engine.report.show import seconds_table
from engine.report.tables import table


def test_each_kind_of_cell_has_its_form() -> None:
    row = ("wall", 0.5, None, float("nan"), 7, "1.5%")
    drawn = table("scores of A", ("class", "a", "b", "c", "d", "e"), [row, (), ("tv", 1.0)])
    shown = text_of(drawn)
    assert "scores of A" in shown
    assert "wall | 0.5000 | - | - | 7 | 1.5% |" in shown
    assert shown.index("wall") < shown.index("├") < shown.index("tv | 1.0000")
    assert [column.justify for column in drawn.columns] == ["left", *["right"] * 5]


def test_no_name_is_cut() -> None:
    drawn = table("", ("run", "T"), [("runs/" + "x" * 60, "1")])
    shown = text_of(drawn, width=30)
    assert shown.count("x") == 60
    assert "…" not in shown


def test_seconds_are_told_by_stage() -> None:
    shown = text_of(seconds_table({"training": 7.25, "total": 185.0}))
    assert "training | 7.2 s" in shown
    assert "total | 3 min 05 s" in shown


def text_of(drawn: object, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(drawn)
    return " ".join(stream.getvalue().replace("│", " | ").split())
