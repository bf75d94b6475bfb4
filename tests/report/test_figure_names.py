"""The two counts of out-of-fold mIoU have one name each, wherever a figure is shown."""

import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.report.atlas_report import Atlas
from engine.report.show import atlas_tables, summary_tables
from engine.report.summary import Summary
from engine.selection.records import AT_LABELS, AT_STORE, TemperatureChoice

ROOT = Path(__file__).resolve().parents[2]
FinishedRun = Any  # defined in conftest.py, which cannot be imported

# What a report wrote of its own run, quoted as it calls it.
QUOTED = re.compile(r"The report's figures .*?leaderboard \d\.\d+", re.DOTALL)


def test_a_finished_run_shows_both_figures_by_their_names(finished_run: FinishedRun) -> None:
    run, stream = finished_run.dir, io.StringIO()
    summary, atlas = Summary.read(run.summary), Atlas.read(run.atlas)
    for drawn in (
        *summary_tables(summary, TemperatureChoice.read(run.temperature)),
        *atlas_tables(atlas),
    ):
        Console(file=stream, width=120).print(drawn)
    assert f"{AT_LABELS} {summary.oof.miou:.4f}, pixel" in stream.getvalue()
    assert f"{AT_STORE} {atlas.miou:.4f}, boundary" in stream.getvalue()


def test_no_text_names_the_figure_without_saying_which() -> None:
    texts = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "configs").glob("*.toml")]
    texts += [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    seen = set()
    for path in texts:
        text = QUOTED.sub("", path.read_text(encoding="utf-8")).replace("\n#", " ")
        for match in re.finditer(r"OOF\*{0,2}\s+mIoU(?P<which>(\s+\S+){3})", text):
            name = " ".join(match["which"].split()).rstrip(",.*:;\"'`")
            assert name in ("at label resolution", "at store resolution"), (path.name, match[0])
            seen.add(name)
    assert len(seen) == 2
