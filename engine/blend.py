"""python -m engine.blend: several runs -> weights -> blended submission."""

import argparse
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.cli import ConfigError, run_main
from engine.rundir import RunDir, read_json, write_json

if TYPE_CHECKING:
    from engine.frames.index import Dataset
    from engine.runtime.device import DevicePolicy
    from engine.selection.members import Member

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.blend")


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        method: how the weights are found.
        per_class: weight each class of each run.
        compare: run the plain SLSQP as well.
        submission: predict the test frames.
        data: dataset folder; None = the first run's.
        device: for the submission; None = the first run's.
    """

    method: Literal["exact", "slsqp", "equal"] = "exact"
    per_class: bool = False
    compare: bool = False
    submission: bool = True
    data: Path | None = None
    device: str | None = None
    runtime: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and blend; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.blend",
        description="Find the weights with which several finished runs, trained on the same folds, "
        "have the best out-of-fold mIoU together, and write the blended submission.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders of engine.train"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the blend")
    parser.add_argument(
        "--method",
        choices=("exact", "slsqp", "equal"),
        default="exact",
        help="exact: the optimum for two runs, exact line searches from several starts for more; "
        "slsqp: those searches start at the maximum of the soft mIoU; equal: no search",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="then weight each class of each run"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also run SciPy's SLSQP on the mIoU itself, as the published ensemble did",
    )
    parser.add_argument(
        "--no-submission", action="store_true", help="leave the test frames for a later call"
    )
    parser.add_argument("--data", type=Path, help="dataset folder (default: the first run's)")
    parser.add_argument("--device", help="auto | cpu | cuda | cuda:N (default: the first run's)")
    parser.add_argument(
        "--runtime",
        choices=("torch", "openvino"),
        help="what runs the networks on the test frames (default: each run's)",
    )
    given = parser.parse_args(arguments)
    options = Options(
        given.method,
        given.per_class,
        given.compare,
        not given.no_submission,
        given.data,
        given.device,
        given.runtime,
    )
    return blend(given.runs, RunDir(given.out), options)


def blend(roots: Sequence[Path], out: RunDir, options: Options) -> int:
    """Run every stage that is not done yet.

    Args:
        roots: finished runs.
        out: the folder of the blend; created, or continued if it holds the same blend.
        options: the command's.

    Returns:
        0.

    Raises:
        ConfigError: `out` holds something else.
        ValueError: the runs do not fit together, or the dataset is not theirs.
        FileNotFoundError: a run has no finished store.
    """
    from engine.report.blend_search import search_blend
    from engine.selection.members import open_members, open_pixels
    from engine.selection.statistics import group_of

    start_s = time.monotonic()
    members = open_members(roots)
    key = _key(members, options)
    _check_out(out, key)
    if (
        out.blend.exists()
        and out.summary.exists()
        and out.atlas.exists()
        and (out.submission_zip.exists() or not options.submission)
    ):
        _log.info("%s is complete; nothing to do", out.root)
        _show(out)
        return 0
    dataset, policy = _open_data(members, options)
    opened_s = round(time.monotonic() - start_s, 3)
    if not out.blend.exists():
        _log.info("the sweep runs on the CPU, from the stores' memory maps")
        found = search_blend(
            open_pixels(members, dataset),
            members[0].config.data.classes,
            [(str(member.run.root), member.temperature) for member in members],
            group_of(dataset.train.samples),
            options.method,
            per_class=options.per_class,
            compare=options.compare,
        )
        found["seconds"] = {"prepare": opened_s, **found["seconds"]}
        write_json(out.blend, {"key": key, "leakage": members[0].leakage, **found})
    _finish(members, dataset, policy, options, out, key)
    return 0


def _key(members: Sequence["Member"], options: Options) -> str:
    """Hash of everything that the blend is made from."""
    parts = [options.method, str(options.per_class), str(options.compare)]
    return hashlib.sha256("\n".join([*(m.key for m in members), *parts]).encode()).hexdigest()


def _check_out(out: RunDir, key: str) -> None:
    if out.config.exists():
        raise ConfigError(f"{out.root} is a run of engine.train; choose another --out")
    if out.blend.exists() and read_json(out.blend)["key"] != key:
        raise ConfigError(
            f"{out.root} holds another blend: of other runs, or found in another way; choose "
            "another --out, or delete it"
        )


def _open_data(members: Sequence["Member"], options: Options) -> tuple["Dataset", "DevicePolicy"]:
    """The checked dataset and the device, by the first run's config."""
    from engine.config import Config
    from engine.experiment import read_dataset
    from engine.runtime.device import choose_device
    from engine.selection.members import check_dataset
    from engine.views.networks import check_runtime

    config = members[0].config.model_dump()
    # Whatever a member needs has to be there for all.
    if any(member.config.model.input == "rgbd" for member in members):
        config["model"]["input"] = "rgbd"
    if options.data is not None:
        config["data"]["root"] = str(options.data)
    if options.device is not None:
        config["runtime"]["device"] = options.device
    merged = Config.model_validate(config)
    policy = choose_device(merged.runtime)
    for member in members:
        check_runtime(member.predicting(options.runtime), policy.device)
    dataset = read_dataset(merged)
    check_dataset(members, dataset)
    return dataset, policy


def _finish(
    members: Sequence["Member"],
    dataset: "Dataset",
    policy: "DevicePolicy",
    options: Options,
    out: RunDir,
    key: str,
) -> None:
    """Predict the test frames, if asked, and write the summary."""
    from engine.runtime.environment import peak_memory_mib
    from engine.views.submission import forget_progress

    found = read_json(out.blend)
    seconds = dict(found["seconds"])
    if options.submission:
        submission_s = _submit(members, dataset, policy, options, found, out, key)
        if submission_s is not None:
            seconds["submission"] = submission_s
    seconds["atlas"] = _atlas(members, dataset, policy, found, out, key)
    seconds["total"] = round(sum(seconds.values()), 3)
    summary = {
        "key": key,
        **found["summary"],
        "seconds": seconds,
        "leakage": found["leakage"],
        "peak_memory_mib": round(peak_memory_mib()),
    }
    write_json(out.summary, summary)
    forget_progress(out)
    _show(out)


def _submit(
    members: Sequence["Member"],
    dataset: "Dataset",
    policy: "DevicePolicy",
    options: Options,
    found: dict[str, Any],
    out: RunDir,
    key: str,
) -> float | None:
    from engine.report.blend_report import weights_by_class
    from engine.views.masks import BlendMember, blend_masks
    from engine.views.networks import load_folds
    from engine.views.submission import write_submission

    test = dataset.test.samples
    classes = members[0].config.data.classes
    configs = [member.predicting(options.runtime) for member in members]

    def masks(start: int) -> Any:
        parts = [
            BlendMember(
                load_folds(config, member.run, range(config.data.folds), policy),
                config,
                member.temperature,
                weights_by_class(described["weight"], classes),
            )
            for member, config, described in zip(members, configs, found["members"], strict=True)
        ]
        return blend_masks(parts, test, policy, start)

    return write_submission(masks, test, out, key)


def _atlas(
    members: Sequence["Member"],
    dataset: "Dataset",
    policy: "DevicePolicy",
    found: dict[str, Any],
    out: RunDir,
    key: str,
) -> float:
    """The error atlas of the blend, made unless it stands; the seconds it took."""
    import numpy as np

    from engine.report.atlas import has_atlas, stored_masks, write_atlas
    from engine.report.blend_report import weights_by_class

    if not has_atlas(out, key):
        classes = members[0].config.data.classes
        weights = [weights_by_class(described["weight"], classes) for described in found["members"]]
        masks = stored_masks([m.store.prob_NChw for m in members], np.stack(weights), policy)
        folds = list(members[0].fold_of.values())
        write_atlas(out, key, dataset.train.samples, folds, classes, masks)
    elapsed_s: float = read_json(out.atlas)["elapsed_s"]
    return elapsed_s


def _show(out: RunDir) -> None:
    from rich.console import Console

    from engine.report.atlas_report import atlas_tables
    from engine.report.blend_report import blend_tables

    # A log has no width of its own, and the names of runs are long.
    console = Console(width=None if Console().is_terminal else 120)
    tables = blend_tables(read_json(out.blend), read_json(out.summary))
    for table in [*tables, *atlas_tables(read_json(out.atlas))]:
        console.print(table)
    console.print(f"written to {out.root}", highlight=False)


if __name__ == "__main__":
    run_main(main)
