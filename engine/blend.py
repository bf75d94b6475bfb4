"""python -m engine.blend: several runs -> weights -> blended submission."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.command import run_main
from engine.lease import hold, look
from engine.mistakes import ConfigError, validate
from engine.run_log import logged
from engine.rundir import RunDir
from engine.suggest import Parser
from engine.verbs import program
from kernels.compiling import work_s

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.config import Config
    from engine.frames.index import Dataset
    from engine.runtime.device import DevicePolicy
    from engine.selection.members import Member

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.blend")


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        runs: finished runs.
        out: the folder of the blend; created, or continued if it holds the same blend.
        method: how the weights are found.
        per_class: weight each class of each run.
        compare: run the plain SLSQP as well.
        submission: predict the test frames.
        data: dataset folder; None = the first run's.
        device: for the submission; None = the first run's.
        runtime: what runs the networks; None = each run's.
        allow_code: import plug-ins that the runs name, to predict the test frames.
    """

    runs: Sequence[Path]
    out: Path
    method: Literal["exact", "slsqp", "equal"] = "exact"
    per_class: bool = False
    compare: bool = False
    submission: bool = True
    data: Path | None = None
    device: str | None = None
    runtime: str | None = None
    allow_code: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and blend; returns the exit code."""
    parser = Parser(
        prog=program("blend"),
        description="Find the weights with which several finished runs, trained on the same folds, "
        "have the best OOF mIoU at store resolution together, and write the blended submission.",
    )
    add, on = parser.add_argument, "store_true"
    add("runs", type=Path, nargs="+", metavar="RUN", help="run folders of engine.train")
    add("--out", type=Path, required=True, help="folder of the blend")
    add(
        "--method",
        choices=("exact", "slsqp", "equal"),
        default="exact",
        help="exact: the optimum for two runs, exact line searches from several starts for more; "
        "slsqp: those searches start at the maximum of the soft mIoU; equal: no search",
    )
    add("--per-class", action=on, help="then weight each class of each run")
    add(
        "--compare",
        action=on,
        help="also run SciPy's SLSQP on the mIoU itself, as the published ensemble did",
    )
    add(
        "--no-submission",
        dest="submission",
        action="store_false",
        help="leave the test frames for a later call",
    )
    add("--data", type=Path, help="dataset folder (default: the first run's)")
    add("--device", help="auto | cpu | cuda | cuda:N (default: the first run's)")
    add(
        "--runtime",
        choices=("torch", "openvino", "openvino-int8"),
        help="what runs the networks on the test frames (default: each run's)",
    )
    code = "let plug-ins that the runs name be imported, to predict the test frames"
    add("--allow-code", action=on, help=code)
    options = Options(**vars(parser.parse_args(arguments)))
    blend(options)
    from engine.report.show import show

    show(RunDir(options.out))
    return 0


def blend(options: Options) -> None:
    """Run every stage that is not done yet.

    Raises:
        ConfigError: `options.out` holds something else.
        ValueError: the runs do not fit together, or the dataset is not theirs.
        DamageError: a file of a run, or `blend.json`, is damaged.
        FileNotFoundError: a run has no finished store.
        HeldError: another process makes a blend there.
    """
    with logged(RunDir(options.out)):
        _blend(options)


def _blend(options: Options) -> None:
    look(RunDir(options.out).results)
    _check(options)
    from engine.report.mend import mend
    from engine.report.page.write import report_at_the_end
    from engine.selection.blend_search import Blend, BlendSearch, search_blend
    from engine.selection.members import open_members
    from engine.views.store import adopt_progress
    from engine.views.submission import is_submission_begun, is_submitted
    from engine.whole import discard

    start_s, out = work_s(), RunDir(options.out)
    members = open_members(options.runs)
    search = BlendSearch(options.method, options.per_class, options.compare)
    if out.blend.exists() and Blend.read(out.blend).key != search.key(members):
        raise ConfigError(
            f"{out.root} holds another blend: of other runs, or found in another way; choose "
            "another --out, which leaves it as it is"
        )
    results = [out.blend, out.summary, out.atlas, out.frame_counts, out.worst_frames]
    with hold(out.results):
        mend(out)
        adopt_progress(out)
        # Where a submission was stopped on its way, the summary is of an earlier call without one.
        stopped = options.submission and (is_submission_begun(out) or not is_submitted(out))
        if all(path.exists() for path in results) and not stopped:
            _log.info("%s is complete; nothing to do", out.root)
        else:
            dataset, policy = _open_data(members, options)
            if not out.blend.exists():
                _log.info("the sweep runs on the CPU, from the stores' memory maps")
                prepare_s = round(work_s() - start_s, 3)
                search_blend(members, dataset, search, prepare_s).write(out.blend)
            _finish(members, dataset, policy, options)
            discard(out.report)
        if members[0].config.report.page and not out.report.exists():
            report_at_the_end(out, options.data)


def _check(options: Options) -> None:
    """Refuse what the runs' small files show, before anything is loaded that takes long."""
    from engine.early import check_blend, check_int8
    from engine.selection.members import check_members

    told = check_members(options.runs)
    if options.submission:
        from engine.plug_ins import refuse_code

        codes = {str(one.run.root): one.config for one in told}
        refuse_code(codes, allow=options.allow_code)
    merged = _merged([one.config for one in told], options)
    runtimes = [options.runtime or one.config.runtime.inference for one in told]
    check_blend(merged, runtimes, RunDir(options.out))
    for one, runtime in zip(told, runtimes, strict=True):
        if runtime == "openvino-int8" and options.submission:
            check_int8(one.config, one.run)


def _merged(configs: Sequence["Config"], options: Options) -> "Config":
    """The first run's config, on the data and the device that are asked for."""
    config = configs[0].model_dump()
    # Whatever a member needs has to be there for all.
    for other in configs:
        if other.needs_depth:
            config["model"]["input"] = next(seen for seen in other.inputs if seen != "rgb")
            for key in ("depth_scale", "depth_invalid"):
                config["data"][key] = getattr(other.data, key)
    if options.data is not None:
        config["data"]["root"] = str(options.data)
    if options.device is not None:
        config["runtime"]["device"] = options.device
    return validate(config, [("command line", config)])


def _open_data(members: Sequence["Member"], options: Options) -> tuple["Dataset", "DevicePolicy"]:
    """The checked dataset and the device, by the first run's config."""
    from engine.data.checked import read_dataset
    from engine.rehearsal import check_views
    from engine.runtime.device import set_up_device
    from engine.selection.members import check_dataset
    from engine.views.openvino_pass import check_openvino

    merged = _merged([member.config for member in members], options)
    policy = set_up_device(merged.runtime)
    for member in members:
        if (config := member.predicting(options.runtime)).openvino:
            check_openvino(policy.device, config.runtime.inference)
    dataset = read_dataset(merged)
    check_dataset(members, dataset)
    for member in members if options.submission else ():
        check_views(member.config, dataset.test.samples, policy.device)
    return dataset, policy


def _finish(
    members: Sequence["Member"], dataset: "Dataset", policy: "DevicePolicy", options: Options
) -> None:
    """Predict the test frames, if asked, map the errors and write the summary."""
    from engine.report.atlas import MaskOf, complete_atlas, stored_masks
    from engine.report.atlas_report import AtlasFrames
    from engine.report.finish import finish
    from engine.report.submission_scores import score_submission
    from engine.report.summary import Summary
    from engine.selection.blend_search import Blend
    from engine.views.masks import masks
    from engine.views.mixture import Mixture
    from engine.views.predictor import open_predictor
    from engine.views.submission import write_submission

    out, test = RunDir(options.out), dataset.test.samples
    found, first = Blend.read(out.blend), members[0].manifest
    weight_MC = found.weights_of(first.classes)

    def predict(start: int) -> Iterator[tuple[int, "NDArray[np.uint8]"]]:
        predictors = []
        for member in members:
            config = member.predicting(options.runtime)
            predictor = open_predictor(config, member.run, range(config.networks), policy)
            predictors.append(predictor.at(member.manifest.temperature))
        return masks(Mixture(predictors, weight_MC), test, start)

    def open_masks() -> MaskOf:
        return stored_masks([member.prob_NChw for member in members], weight_MC, policy)

    summary = Summary(
        key=found.key, **dict(found.summary), seconds=found.seconds, leakage=found.leakage
    )
    frames = AtlasFrames(dataset.train.samples, first.folds, first.classes)
    submission_s = write_submission(predict, test, out, found.key) if options.submission else None
    finish(out, summary, submission_s, complete_atlas(out, found.key, frames, open_masks).elapsed_s)
    score_submission(out, test if options.submission else (), first.classes)


if __name__ == "__main__":
    run_main(main)
