"""A finished run or blend on the terminal; reads its small files only."""

from rich.console import Console

from engine.report.atlas_report import Atlas
from engine.report.atlas_tables import atlas_tables
from engine.report.summary import Summary, summary_tables
from engine.rundir import RunDir
from engine.selection.scores import TemperatureChoice


def show(run: RunDir) -> None:
    """Print the tables of a finished run or blend."""
    console, summary = Console(), Summary.read(run.summary)
    if run.blend.exists():
        from engine.report.blend_report import blend_tables
        from engine.selection.blend_search import Blend

        # A log has no width of its own, and the names of runs are long.
        console = Console(width=None if console.is_terminal else 120)
        tables = blend_tables(Blend.read(run.blend), summary)
    else:
        tables = summary_tables(summary, TemperatureChoice.read(run.temperature))
    for table in [*tables, *atlas_tables(Atlas.read(run.atlas))]:
        console.print(table)
    console.print(f"written to {run.root}", highlight=False)
