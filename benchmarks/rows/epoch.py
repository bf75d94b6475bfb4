"""One epoch of a fold with its validation, and validation by itself."""

import shutil
from typing import TYPE_CHECKING, Any

from benchmarks.rows.job import Job
from benchmarks.rows.work import counting_flops, inference_flops, training_flops
from benchmarks.sides import Prepared
from benchmarks.timing import Work

if TYPE_CHECKING:
    from benchmarks.plain.recipe import Recipe

VALIDATION_TOLERANCE = 0.002
"""mIoU; OpenCV rounds resized images to bytes, the engine does not."""


def ours_epoch(job: Job) -> Prepared:
    """Fold 0 of the engine from starting weights to the file of its best epoch; one epoch."""
    from engine.rundir import RunDir
    from engine.runtime.device import choose_device
    from engine.training.loop import FoldTask, train_fold

    policy = choose_device(job.config.runtime)
    runtime = job.config.runtime.model_copy(update={"cache": str(job.folder / "cache")})
    task = FoldTask(
        config=job.config.model_copy(update={"runtime": runtime}),
        dataset=job.dataset,
        run=RunDir(job.folder / "run"),
        fold=0,
        training=job.folds.training(0),
        validation=job.folds.validation(0),
        config_hash="benchmark",
    )

    def run() -> dict[str, Any]:
        train_fold(task, policy)
        return {"frames": len(job.training) + len(job.validation)}

    return Prepared(run, lambda: shutil.rmtree(task.run.root, ignore_errors=True))


def plain_epoch(job: Job, recipe: "Recipe") -> Prepared:
    """The same by the recipe."""
    from benchmarks.plain.training import train_fold

    best = job.folder / "best0.pt"

    def run() -> dict[str, Any]:
        train_fold(job.config, job.training, job.validation, 0, best, recipe)
        return {"frames": len(job.training) + len(job.validation)}

    return Prepared(run, lambda: best.unlink(missing_ok=True))


def ours_validation(job: Job) -> Prepared:
    """The engine's validation of a trained network."""
    from engine.rundir import RunDir
    from engine.runtime.device import choose_device
    from engine.training.validation import validate
    from engine.views.networks import load_fold
    from kernels.confusion import mean_iou

    policy = choose_device(job.config.runtime)
    network = load_fold(job.config, RunDir(job.networks / "0"), 0, policy)

    def run() -> dict[str, Any]:
        count_CC = validate(
            network.forward,
            job.validation,
            job.config,
            policy,
            network.normalisation,
            network.align_corners,
        )
        return _scored(len(job.validation), mean_iou(count_CC), int(count_CC.sum()))

    return Prepared(run)


def plain_validation(job: Job, recipe: "Recipe") -> Prepared:
    """The recipe's validation of the same network."""
    from benchmarks.plain.inference import validate
    from benchmarks.plain.selection import mean_iou
    from benchmarks.rows.networks import trained_model

    model = trained_model(job, 0, recipe)

    def run() -> dict[str, Any]:
        count_CC = validate(model, job.validation, job.config, recipe)
        return _scored(len(job.validation), mean_iou(count_CC), int(count_CC.sum()))

    return Prepared(run)


def epoch_work(job: Job) -> Work:
    """The steps of an epoch, and validation."""
    flops, parameters = training_flops(job.config)
    steps = max(1, len(job.training) // job.config.training.batch_size)
    validation = validation_work(job)
    return Work(
        steps * parameters * 4 * 10 + validation.bytes,
        steps * flops + validation.flops,
        job.threads,
    )


def validation_work(job: Job) -> Work:
    """A pass a frame, softmax, resizing and counting; labels and images are read."""
    frames, hw = len(job.validation), job.validation[0].hw
    flops = inference_flops(job.config, frames, hw, (1.0,), 1)
    if job.config.inference.flip:
        flops //= 2  # Validation sees no mirrored view.
    flops += counting_flops(frames, hw, len(job.config.data.classes), 1)
    return Work(frames * hw[0] * hw[1] * (3 + 1), flops, job.threads)


def check_epoch(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both went through the same frames."""
    assert ours["frames"] == theirs["frames"], f"frames: {ours['frames']} and {theirs['frames']}"


def check_scores(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same pixels are counted and score alike, at every temperature."""
    assert ours["pixels"] == theirs["pixels"], f"pixels: {ours['pixels']} and {theirs['pixels']}"
    gaps = [abs(a - b) for a, b in zip(ours["mious"], theirs["mious"], strict=True)]
    assert max(gaps) < VALIDATION_TOLERANCE, f"mIoU: {ours['mious']} and {theirs['mious']}"


def _scored(frames: int, miou: float, pixels: int) -> dict[str, Any]:
    return {"frames": frames, "miou": miou, "mious": [miou], "pixels": pixels}
