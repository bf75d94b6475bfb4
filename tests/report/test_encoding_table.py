"""What is said of a copy that decodes faster, and of one that does not."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from engine.frames.encode import Group, Outcome
from engine.frames.recode import FORMS
from engine.report.encoding_table import encoding_table, verdict

OUT = Path("copy")
MIB = 1 << 20
JPEG = Outcome(Group("image", "JPEG"), None, 10, 0, 4 * MIB, 4 * MIB, 1e-3, 1e-3)
DEPTH = Outcome(Group("depth", "16-bit grey PNG"), FORMS[1], 10, 2, 3 * MIB, MIB, 1e-3, 0.25e-3)


def test_bytes_and_times_are_shown_by_sort_and_in_all() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(encoding_table(OUT, [JPEG, DEPTH]))
    rows = [" ".join(line.replace("│", " ").split()) for line in capture.get().splitlines()]
    assert "image JPEG as it is 10 4.0 4.0 1.000 1.000 1.00" in rows
    depth = "depth 16-bit grey PNG no filter, level 9 (2 as they are) 10 3.0 1.0 1.000 0.250 4.00"
    assert depth in rows
    # 10 + 10 ms before; 10 ms of JPEGs, 8 of 0.25 ms and 2 that stayed as they were after.
    assert "all 20 7.0 5.0 1.000 0.700 1.43" in rows


def test_a_copy_that_gains_too_little_is_said_not_to_be_worth_it() -> None:
    assert verdict(OUT, [JPEG, DEPTH]) == (
        "copy decodes 1.43 x as fast as its original, pixels are the same; use it by "
        "--data.root copy"
    )
    hardly = replace(DEPTH, kept=0, seconds_after=0.81e-3)
    assert verdict(OUT, [JPEG, hardly]) == (
        "copy saves 9.5 % of the time to decode, less than 10 %: the copy is not worth it, delete "
        "it"
    )
    assert "decodes 1.12 x" in verdict(OUT, [JPEG, replace(hardly, seconds_after=0.79e-3)])
