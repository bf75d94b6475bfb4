"""From frames to the submission of a blend: two runs, each trained, predicted and scored."""

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rows.epoch import epoch_work
from benchmarks.rows.job import Job, with_section
from benchmarks.rows.work import counting_flops, inference_flops
from benchmarks.sides import Prepared
from benchmarks.timing import Work
from engine.config import Config

if TYPE_CHECKING:
    from benchmarks.plain.recipe import Recipe
    from engine.rundir import RunDir

_FOLDS, _EPOCHS, _RUNS = 2, 3, 2


def configure(config: Config) -> Config:
    """Two folds of three epochs, validated after the last."""
    config = with_section(config, "data", folds=_FOLDS)
    return with_section(config, "training", epochs=_EPOCHS, validate_every=_EPOCHS)


def ours(job: Job) -> Prepared:
    """`engine.train` twice, with other seeds, then the blend; the frame cache starts empty."""
    from engine.rundir import RunDir, read_json
    from engine.train import train

    def run() -> dict[str, Any]:
        runs = []
        for number, config in enumerate(_configs(job)):
            runtime = config.runtime.model_copy(update={"cache": str(job.folder / "cache")})
            runs.append(RunDir(job.folder / str(number)))
            train(config.model_copy(update={"runtime": runtime}), runs[-1], range(_FOLDS))
        weights, miou = blend(job, runs)
        single = [read_json(run.summary)["oof"]["miou"] for run in runs]
        return _facts(job, single, miou, weights)

    return Prepared(run, lambda: shutil.rmtree(job.folder, ignore_errors=True))


def plain(job: Job, recipe: "Recipe") -> Prepared:
    """The recipe, twice, and its blend."""
    from benchmarks.plain import run as recipe_run

    def run() -> dict[str, Any]:
        runs = [
            recipe_run.run(config, job.dataset, job.folds, job.folder / str(number), recipe)
            for number, config in enumerate(_configs(job))
        ]
        file = job.folder / "submission.npy"
        weight_M, miou = recipe_run.blend(runs, job.dataset, file, recipe)
        return _facts(job, [max(run.miou_T) for run in runs], miou, weight_M.tolist())

    return Prepared(run, lambda: shutil.rmtree(job.folder, ignore_errors=True))


def blend(job: Job, runs: "list[RunDir]") -> tuple[list[float], float]:
    """Our weights on the runs' stores, and the submission of their blend."""
    from benchmarks.rows.blend import search
    from benchmarks.rows.shared_files import read_labels
    from engine.rundir import read_json, whole_file
    from engine.runtime.device import choose_device
    from engine.views.masks import BlendMember, blend_masks
    from engine.views.networks import load_folds
    from engine.views.store import open_store

    stores_M = [open_store(run.oof).prob_NChw for run in runs]
    weight_M, miou = search(stores_M, read_labels(job.dataset.train.samples))
    config, policy = job.config, choose_device(job.config.runtime)
    members = [
        BlendMember(
            load_folds(config, run, range(_FOLDS), policy),
            config,
            read_json(run.temperature)["best"],
            np.full(len(config.data.classes), weight),
        )
        for weight, run in zip(weight_M, runs, strict=True)
    ]
    masks = [mask_BHW for _, mask_BHW in blend_masks(members, job.dataset.test.samples, policy)]
    if masks:
        with whole_file(job.folder / "submission.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(masks))
    return weight_M.tolist(), miou


def work(job: Job) -> Work:
    """Of two runs: epochs, views of every frame, their own submissions; then the blend's."""
    config, samples, test = job.config, job.dataset.train.samples, job.dataset.test.samples
    epoch = epoch_work(job)
    hw, classes = samples[0].hw, len(config.data.classes)
    scales, temperatures = config.inference.scales, len(config.inference.temperatures)
    oof = inference_flops(config, len(samples), hw, scales, temperatures)
    oof += counting_flops(len(samples), hw, classes, temperatures)
    # Each fold of each run sees every test frame, once for its own and once for the blend.
    submissions = 2 * _FOLDS * inference_flops(config, len(test), hw, scales, 1)
    flops = _RUNS * (_FOLDS * _EPOCHS * epoch.flops + oof + submissions)
    flops += counting_flops(len(samples), hw, classes, _RUNS)
    return Work(_RUNS * _FOLDS * _EPOCHS * epoch.bytes, flops, epoch.threads)


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both blends score as well as their own runs, but for the maps' half size."""
    assert ours["frames"] == theirs["frames"], f"frames: {ours['frames']} and {theirs['frames']}"
    for name, facts in (("ours", ours), ("plain", theirs)):
        gap = max(facts["single"]) - facts["miou"]
        assert gap < 0.05, f"{name}: the blend scores {gap:.4f} less than the best run"


def _configs(job: Job) -> list[Config]:
    seed = job.config.training.seed
    return [with_section(job.config, "training", seed=seed + number) for number in range(_RUNS)]


def _facts(job: Job, single: list[float], miou: float, weights: list[float]) -> dict[str, Any]:
    return {
        "frames": len(job.dataset.train.samples),
        "single": single,
        "miou": miou,
        "weights": weights,
    }
