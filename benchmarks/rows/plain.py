"""The recipe's side of every row; of the engine only what the recipe itself reads is imported."""

import shutil

import torch
from safetensors.torch import load_file

from benchmarks.figures import Facts
from benchmarks.plain.data import crop_loader
from benchmarks.plain.model import build_model
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.run import Predictor, Stepper, blend, out_of_fold, run, train_fold
from benchmarks.plain.selection import mean_iou
from benchmarks.rows.light import first_epoch, validating
from benchmarks.sides import Prepared
from benchmarks.subset import STEPS_PER_EPOCH, Job, reseeded


def data_cached(job: Job, recipe: Recipe) -> Prepared:
    """A DataLoader whose workers run already; the system keeps the files' pages."""
    samples, seed = job.dataset.train.samples, job.config.training.seed
    loader = crop_loader(samples, job.config, recipe, seed)
    return Prepared(lambda: Facts(sum(len(batch[0]) for batch in loader)))


def data_cold(job: Job, recipe: Recipe) -> Prepared:
    """A new DataLoader, on files that the system has to read again."""
    return first_epoch(job, lambda: data_cached(job, recipe))


def train_step(job: Job, recipe: Recipe) -> Prepared:
    """One step on a batch that is there: forward, loss, backward, update, average."""
    if recipe.lightning:
        from benchmarks.rows import lightning

        return lightning.train_step(job, recipe)
    # Not above: it brings the engine's step, whose memory is not the recipe's.
    from engine.training.phases import PhaseClock

    clock = PhaseClock(torch.device(recipe.device))
    model = build_model(job.config, recipe, job.start())
    stepper = Stepper(model, job.config, recipe, STEPS_PER_EPOCH)
    stepper.mark = clock.mark
    image, depth, label = job.batch()

    def step() -> Facts:
        clock.start()
        loss = stepper(image, depth, label)["loss"]
        clock.mark("other")
        return Facts(len(image), loss=loss, phases=clock.seconds)

    return Prepared(step)


def epoch(job: Job, recipe: Recipe) -> Prepared:
    """Fold 0 from starting weights to the file of its best epoch; one epoch, validated."""
    best, train_one = job.folder / "best0.pt", train_fold
    if recipe.lightning:
        from benchmarks.plain import lightning_fold

        train_one = lightning_fold.train_fold

    def train() -> Facts:
        train_one(job.config, job.training, job.validation, 0, best, recipe)
        return Facts(len(job.dataset.train.samples))

    return Prepared(train, lambda: best.unlink(missing_ok=True))


def validation(job: Job, recipe: Recipe) -> Prepared:
    """Validation of a trained network by one view."""
    return validating(job, _trained(job, recipe).validate, mean_iou)


def oof(job: Job, recipe: Recipe) -> Prepared:
    """Probabilities of fold 0 by every view, scored at every temperature and stored."""
    fold = [(_trained(job, recipe), job.folds.validation(0))]

    def predict() -> Facts:
        found = out_of_fold(job.config, job.dataset, job.folder, fold)
        return Facts(len(job.validation), mious=found.miou_T, pixels=found.pixels)

    return Prepared(predict)


def chain(job: Job, recipe: Recipe) -> Prepared:
    """The recipe, twice, with other seeds, and its blend."""

    def whole() -> Facts:
        runs = []
        for number in range(2):
            config, folder = reseeded(job.config, number), job.folder / str(number)
            runs.append(run(config, job.dataset, job.folds, folder, recipe))
        _, miou = blend(runs, job.dataset, job.folder / "submission.npy", recipe)
        singles = tuple(max(one.miou_T) for one in runs)
        return Facts(len(job.dataset.train.samples), mious=(miou,), singles=singles)

    return Prepared(whole, lambda: shutil.rmtree(job.folder, ignore_errors=True))


def _trained(job: Job, recipe: Recipe) -> Predictor:
    """A network of `benchmarks.rows.ours.networks`: same tensors, smp's code."""
    state = load_file(job.network(0) / "run" / "fold0" / "best.safetensors")
    model = build_model(job.config, recipe, state).eval()
    if not recipe.onnx:
        return Predictor(model, job.config, recipe)
    from benchmarks.plain.onnx_runtime import OnnxNetwork

    exported = OnnxNetwork(model, job.config.model.in_channels, job.threads)
    return Predictor(exported, job.config, recipe)
