"""`README.md` of an exported folder: the model card, with the metadata that the Hub reads.

Every figure in it stands in a file of the run; what was not measured has no sentence.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timm

from engine.config import Config
from engine.data.folds import FoldsFile
from engine.export.examples import example
from engine.export.form import FORMS
from engine.export.records import Export
from engine.model.sources import PACKAGE_PREFIX
from engine.report.page.contents import read_counted
from engine.report.summary import Summary
from engine.rundir import NOT_MEASURED, RunDir, load_run
from engine.trained import TrainedRun

_LOW = 0.3
"""IoU below which a class is named among the limits."""


_UNSCORED = f"{NOT_MEASURED.capitalize()}."


class Licence(NamedTuple):
    """What is known of the licence of starting weights."""

    name: str | None
    told: str


def model_card(
    root: Path, chosen: Sequence[TrainedRun], export: Export, *, fold: int | None
) -> str:
    """The text of the card.

    Args:
        root: the run's or the blend's folder, whose figures are told.
        chosen: what looks.
        export: what the folder holds so far.
        fold: the one whose networks alone look, if so.

    Raises as `read_counted`.
    """
    name, told = root.resolve().name, export.told
    scored = chosen[0].config.holds_out
    licences = {each.told: each for one in chosen for each in [_licence(one)]}
    named = {each.name for each in licences.values()}
    config = chosen[0].config
    folds = FoldsFile.read(chosen[0].run.folds)
    data = config.data.root.rstrip("/").rpartition("/")[2] or config.data.root
    lines = ["---"]
    if len(named) == 1 and (licence := named.pop()):
        lines.append(f"license: {licence}")
    lines += ["pipeline_tag: image-segmentation", "tags:", "- semantic-segmentation"]
    lines += ["- rgb-d"] if told["depth"] else []
    lines += [f"- {form}" for form in sorted(export.forms)]
    lines += _model_index(name, data, root) if scored else []
    lines += [
        "---",
        "",
        f"# {name}",
        "",
        f"Semantic segmentation of {'RGB-D' if told['depth'] else 'RGB'} frames into "
        f"{len(told['classes'])} classes: {', '.join(told['classes'])}.",
        "",
        *_graph(export, chosen),
        "",
        "## Files",
        "",
        "| form | files | runs by | equal to the engine's masks | example |",
        "| --- | --- | --- | --- | --- |",
        *(_form(form, export) for form in FORMS if form in export.forms),
        "",
        *(_int8(export)),
        "## Data",
        "",
        f"`{data}`: {len(folds.fold_of)} labelled frames{_folds_told(config, folds)}. Not "
        "carried: the frames.",
        "",
        *(_scores(root, chosen, fold) if scored else ["## Scores", "", _UNSCORED, ""]),
        "## Licence of the starting weights",
        "",
        *(f"- {each}" for each in licences),
        "",
    ]
    return "\n".join(lines)


def _model_index(name: str, data: str, root: Path) -> list[str]:
    """What the Hub reads of the scores."""
    oof = Summary.read(RunDir(root).summary).oof
    return [
        "model-index:",
        f"- name: {_quoted(name)}",
        "  results:",
        "  - task:",
        "      type: image-segmentation",
        "    dataset:",
        f"      name: {_quoted(data)}",
        f"      type: {_quoted(data)}",
        "    metrics:",
        "    - type: mean_iou",
        "      name: out-of-fold mIoU at label resolution",
        f"      value: {oof.miou:.4f}",
        "    - type: accuracy",
        "      name: out-of-fold pixel accuracy",
        f"      value: {oof.pixel_acc:.4f}",
    ]


def _folds_told(config: Config, folds: FoldsFile) -> str:
    return f" in {config.data.folds} folds ({folds.kind})" if config.holds_out else ""


def _scores(root: Path, chosen: Sequence[TrainedRun], fold: int | None) -> list[str]:
    """Scores, leakage and limits."""
    counted = read_counted(RunDir(root))
    summary, interval = counted.summary, counted.intervals.miou
    several = any(one.config.training.members > 1 for one in chosen)
    by = "mean of its fold's networks, which were" if several else "network that was"
    lines = [
        "## Scores",
        "",
        f"Out of fold: each frame is scored by the {by} not trained on it"
        + (", blended." if len(chosen) > 1 else "."),
        "",
        f"- mIoU at label resolution {summary.oof.miou:.4f}, pixel accuracy "
        f"{summary.oof.pixel_acc:.4f}",
        f"- mIoU at store resolution, with its 95 % interval: {interval}",
    ]
    if fold is not None:
        own = next(each for each in summary.folds if each.fold == fold)
        lines.append(f"- of fold {fold} alone, which this is: mIoU {own.miou:.4f}")
    iou = summary.oof.iou
    return [
        *lines,
        "",
        "| class | IoU |",
        "| --- | --- |",
        *(f"| {k} | {'-' if v is None else f'{v:.4f}'} |" for k, v in iou.items()),
        "",
        "## Leakage",
        "",
        _leakage(summary.leakage, measured=summary.leakage_measured),
        "",
        "## Limits",
        "",
        *_limits(chosen, iou, fold),
        "",
    ]


def _graph(export: Export, chosen: Sequence[TrainedRun]) -> list[str]:
    told = export.told
    networks = sum(len(one.folds) for one in chosen)
    what = (
        "frames of any size"
        if told["frame"] == "any size"
        else (f"frames of {told['frame'][0]} x {told['frame'][1]} pixels only")
    )
    views = ", ".join(f"{h} x {w}" for h, w in told["views"])
    mirrored = ", each mirrored too" if told["mirrored"] else ""
    lines = [
        f"One graph takes {what} and holds all that is done to them: {networks} "
        f"{'network' if networks == 1 else 'networks'}, views of {views}{mirrored}, the mean, "
        "the temperature and the choice of the class.",
        "",
        "- `image`: (1, H, W, 3) uint8, RGB, upright",
    ]
    if told["depth"]:
        missing = ", ".join(map(str, told["depth"]["missing"]))
        lines.append(
            f"- `depth`: (1, H, W) uint16, a unit is {told['depth']['unit_m']:g} m; missing where "
            f"it is {missing}"
        )
    return [
        *lines,
        "- `mask`: (1, H, W) uint8, the index of the class",
        "- `confidence`: (1, H, W) uint8, 255 = certain",
        "",
        *_blended(export),
        f"Made by {told['made_by']}.",
    ]


def _blended(export: Export) -> list[str]:
    """The runs of a blend with their weights."""
    if len(runs := export.told["runs"]) == 1:
        return []
    weights = [one["weight"] for one in runs]
    shown = ["by class" if isinstance(w, dict) else f"{w:.4f}" for w in weights]
    rows = [
        f"| {one['name']} | {w} | {one['temperature']:g} |"
        for one, w in zip(runs, shown, strict=True)
    ]
    return ["| run | weight | temperature |", "| --- | --- | --- |", *rows, ""]


def _form(form: str, export: Export) -> str:
    found = export.forms[form]
    seen = found.agreement
    files = ", ".join(f"`{name}`" for name in found.files)
    file, _ = example(form, depth=bool(export.told["depth"]))
    tied = f", on {found.processor} alone" if found.processor else ""
    share = f"{100 * seen.share:.3f} % of {seen.pixels:,} pixels, {seen.frames} frames"
    return f"| {form} | {files} | {FORMS[form].run_by}{tied} | {share} | `{file}` |"


def _int8(export: Export) -> list[str]:
    note = export.forms["openvino-int8"].int8 if "openvino-int8" in export.forms else None
    if note is None:
        return []
    seen = "held out" if note.held_out else "that networks were trained on"
    return [
        f"INT8: mIoU {note.miou:.4f} for {note.miou_float32:.4f} in float32, on {note.scored} "
        f"frames {seen}; scales chosen on {len(note.calibrated)} training frames.",
        "",
    ]


def _leakage(share: float, *, measured: bool) -> str:
    if not measured:
        return "Not measured: the names of the frames have no numbers in a row."
    return (
        f"{100 * share:.1f} % of the validation frames have a neighbour, by number, among the "
        "training frames of their fold."
    )


def _limits(
    chosen: Sequence[TrainedRun],
    iou: dict[str, float | None],
    fold: int | None,
) -> list[str]:
    lines = ["- The scores are of frames of the data set above, and of no others."]
    if fold is None and sum(len(one.folds) for one in chosen) > 1:
        lines.append(
            "- The graph is the mean of all folds' networks, and some of them were trained on each "
            "frame of the data: the scores are of each fold's alone, not of that mean."
        )
    scored = load_run(chosen[0].run).inference
    looks = chosen[0].config.inference
    if (looks.scales, looks.flip) != (scored.scales, scored.flip):
        lines.append("- The scores are by other views than this graph's.")
    if low := [f"{name} ({value:.2f})" for name, value in iou.items() if value and value < _LOW]:
        lines.append(f"- Classes of an IoU below {_LOW}: {', '.join(low)}.")
    if none := [name for name, value in iou.items() if value == 0]:
        lines.append(f"- Never found right: {', '.join(none)}.")
    return lines


def _licence(one: TrainedRun) -> Licence:
    """Of what a run's weights were before its training, as their source says."""
    model, name = one.config.model, one.run.root.resolve().name
    if model.weights == "none":
        return Licence(None, f"`{name}`: none, it began with random weights")
    if model.weights == "timm":
        found = timm.get_pretrained_cfg(model.encoder)
        licence = (found.license or None) if found is not None else None
        told = licence or "not said by timm"
        return Licence(licence, f"`{name}`: timm's `{model.encoder}`, {told}")
    if model.weights.startswith(PACKAGE_PREFIX):
        package = model.weights.removeprefix(PACKAGE_PREFIX).replace("_", "-")
        return Licence(None, f"`{name}`: the package `{package}`, {_of_package(package)}")
    file = Path(model.weights).name
    return Licence(None, f"`{name}`: `{file}`, of which no licence is known here")


def _of_package(package: str) -> str:
    try:
        said = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return "which is not installed here: its licence is not known"
    licence = next((said[k] for k in ("License-Expression", "License") if k in said), None)
    if licence in (None, "", "UNKNOWN"):
        return "whose metadata name no licence"
    return str(licence)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
