"""The page of a run whose networks train on all frames: no score of it is out-of-fold."""

import shlex

from engine.cli import to_toml
from engine.report.environment import told_apart
from engine.report.page.blocks import KeyFigure, stages
from engine.report.page.contents import changed_fields, curves_of
from engine.report.page.render import render
from engine.report.page.run_page import curve_plots, environment_rows, losses_told, memory_told
from engine.report.summary import Summary
from engine.rundir import NOT_MEASURED, RunDir, load_run, refuse_unfinished
from engine.runtime.progress import duration
from engine.runtime.recorded import Environment
from engine.selection.records import TemperatureChoice

_SECTIONS = (
    ("what", "What was run"),
    ("training", "Training"),
    ("cost", "Time and memory"),
    ("commands", "Commands"),
)


def unscored_page(run: RunDir) -> str:
    """The HTML of such a run, finished.

    Raises:
        ConfigError: it is not.
        ValueError: a file is damaged.
    """
    refuse_unfinished(run, run.summary, run.environment, run.temperature)
    config, summary = load_run(run), Summary.read(run.summary)
    environment, root = Environment.read(run.environment), shlex.quote(str(run.root))
    networks, curves = config.networks, curves_of(run, config)
    several = f"{networks} networks" if networks > 1 else "One network"
    return render(
        "unscored.html",
        title=run.root.resolve().name,
        eyebrow="Roomsmith run",
        lead=f"{config.model.encoder} + {config.model.decoder}. {several} trained on all frames "
        f"of {config.data.root}, for as many steps as a fold of {config.data.folds} has. "
        f"{NOT_MEASURED.capitalize()}.",
        sections=_SECTIONS,
        figures=_figures(summary, TemperatureChoice.read(run.temperature)),
        data_told=f"Fingerprint of the data {environment.dataset_fingerprint[:16]}.",
        zoom_told=summary.zoom_gap.told() if summary.zoom_gap else "",
        changed=changed_fields(config),
        toml=to_toml(config),
        environment=environment_rows(environment, told_apart(run, networks)),
        training_told="Of each network the average of the last epoch is kept: no frame is held "
        "out, by which an epoch could be chosen.",
        plots=curve_plots(curves, ""),
        losses_told=losses_told(curves),
        stages=stages(summary.seconds),
        memory_told=memory_told(summary),
        commands=[("Predict other images", f"python -m engine.predict {root} IMAGES")],
    )


def _figures(summary: Summary, choice: TemperatureChoice) -> list[KeyFigure]:
    figures = [KeyFigure("out-of-fold mIoU", "not measured", "all frames are trained on")]
    if summary.test is not None:
        test = f"submission, {summary.test.frames} labelled test frames"
        figures.append(KeyFigure("test mIoU", f"{summary.test.miou:.4f}", test))
    figures.append(KeyFigure("temperature", f"{choice.best:g}", "set"))
    seconds = summary.seconds.get("total")
    if seconds is not None:
        figures.append(KeyFigure("time", duration(seconds), "all stages"))
    return figures
