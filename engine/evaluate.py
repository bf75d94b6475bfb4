"""python -m engine.evaluate: trained runs and a labelled folder -> scores, intervals, errors."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.command import run_main
from engine.lease import Place, hold, look
from engine.rundir import RunDir
from engine.suggest import Parser
from engine.trained import Sight, TrainedRun, add_sight, choose_runs, read_sight
from engine.verbs import program

if TYPE_CHECKING:
    from engine.frames.decode import Sample
    from engine.report.evaluation import Evaluation, Seen, Subject

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, evaluate and print tables; returns the exit code."""
    parser = Parser(
        prog=program("evaluate"),
        description="Score all folds of a trained run, several runs that count alike, or a blend, "
        "on labelled frames: mIoU and pixel accuracy with intervals, IoU and boundary IoU by "
        "class, calibration, confusion, the worst frames.",
    )
    add = parser.add_argument
    runs = "run folders of engine.train, or one of engine.blend"
    add("runs", type=Path, nargs="+", metavar="RUN", help=runs)
    what = "a folder with image, label and perhaps depth, or a dataset: its test, if that has "
    add("data", type=Path, metavar="DATA", help=f"{what}labels, else its train")
    maps = "folder of depth maps in the run's unit, joined by stem (default: depth, beside label)"
    add("--depth", type=Path, help=maps)
    add("--out", type=Path, help="folder for the files (default: RUN/evaluations/ + DATA's name)")
    add_sight(parser)
    options = parser.parse_args(arguments)
    roots, data = options.runs, options.data
    sight = read_sight(options)
    chosen = choose_runs(roots, sight, options.fold)
    evaluation, out = evaluate(chosen, sight, data, options.depth, options.out, roots)
    from rich.console import Console

    from engine.report.evaluation_tables import evaluation_tables

    console = Console()
    for drawn in evaluation_tables(evaluation):
        console.print(drawn)
    console.print(f"written to {out}", highlight=False)
    return 0


def evaluate(
    chosen: Sequence[TrainedRun],
    sight: Sight,
    data: Path,
    depth: Path | None = None,
    out: Path | None = None,
    roots: Sequence[Path] = (),
) -> tuple["Evaluation", Path]:
    """Score runs on labelled frames; returns what `evaluation.json` says, and its folder.

    Args:
        chosen: what looks at the frames, of `choose_runs`.
        sight: how.
        data: a folder with `image` and `label`, or a dataset.
        depth: where depth maps are; None = in `depth` beside the labels.
        out: the folder that is written into; None = in the first run's, or the blend's.
        roots: the folders that `chosen` was opened from: of the runs themselves if left out.

    Raises:
        ConfigError: there are no labelled frames or no depth maps, or memory holds no such view.
        DatasetError: naming every file that cannot be used.
    """
    from engine.early import check_out
    from engine.frames.asked import list_labelled
    from engine.frames.faults import DatasetError

    roots = roots or [one.run.root for one in chosen]
    asked = list_labelled(data, depth, need_depth=any(one.config.needs_depth for one in chosen))
    out = out or roots[0] / "evaluations" / _name(asked.shown)
    check_out(out)
    place = Place(out, "evaluation", str(out), (out,))
    look(place)
    if asked.faults or not asked.frames:
        raise DatasetError(asked.root, asked.faults)
    from engine.frames.index import load_frames
    from engine.frames.reading import Reading
    from engine.rehearsal import check_views
    from engine.report.evaluation import Labelled, evaluate_frames
    from engine.runtime.device import set_up_device
    from engine.runtime.progress import track_total
    from engine.trained import open_system, seen_config

    first = next((one for one in chosen if one.config.needs_depth), chosen[0]).config
    classes = first.data.classes
    with track_total("checking files") as progress:
        samples = load_frames(
            asked,
            classes=classes,
            reading=Reading.of(first.data),
            workers=first.runtime.workers,
            progress=progress,
        )
    seen = _seen(chosen, samples)
    policy = set_up_device(first.runtime)
    for one in chosen:
        check_views(seen_config(one, sight), samples, policy.device)
    system = open_system(chosen, sight, policy)
    with hold(place):
        frames = Labelled(str(asked.shown), samples, classes, seen)
        subject, page = _subject(chosen, sight, roots), first.report.page
        return evaluate_frames(system, subject, frames, RunDir(out), page=page), out


def _seen(chosen: Sequence[TrainedRun], samples: Sequence["Sample"]) -> "Seen":
    """How many frames are not held out, told in a line where that is any."""
    from engine.report.evaluation import Seen
    from engine.report.seen import seen_stems

    seen, unknown = set[str](), []
    for one in chosen:
        found = seen_stems(one.config, one.run, one.folds, samples)
        if found is None:
            unknown.append(str(one.run.root))
        else:
            seen |= found
    if seen:
        _log.warning(
            "%d of %d frames are not held out: networks were trained on these images; what is "
            "found is too good for new frames%s",
            *(len(seen), len(samples)),
            ""
            if len(chosen) > 1 or chosen[0].fold is not None
            else " (--fold K looks by one fold)",
        )
    if unknown:
        _log.warning(
            "whether %s was trained on some of these frames is not known: its training images are "
            "not where they were",
            ", ".join(unknown),
        )
    return Seen(frames=len(seen), unknown=unknown)


def _subject(chosen: Sequence[TrainedRun], sight: Sight, roots: Sequence[Path]) -> "Subject":
    from engine.report.evaluation import Subject
    from engine.trained import tile_hw

    views = chosen[0].config.inference.model_dump(
        mode="json", include={"base_hw", "scales", "flip"}
    )
    if sight.tile is not None:
        views |= {"tile": list(tile_hw(chosen[0].config, sight)), "overlap": sight.overlap}
    alone = {"fold": chosen[0].fold} if None not in {one.fold for one in chosen} else {}
    return Subject(
        runs=[str(root) for root in roots],
        temperatures=[one.temperature for one in chosen],
        views=views,
        **alone,
    )


def _name(data: Path) -> str:
    """Of the evaluation of a folder: `nyuv2-test` of `nyuv2/test`."""
    resolved = data.resolve()
    if resolved.name in ("train", "test"):
        return f"{resolved.parent.name}-{resolved.name}"
    return resolved.name


if __name__ == "__main__":
    run_main(main)
