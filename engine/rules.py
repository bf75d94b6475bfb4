"""What has to hold within [training], and between it and other sections.

Each function refuses by a ValueError that says what to type.
"""

from collections.abc import Sequence

from engine.settings import TrainingConfig

FIRST, EARLIER = "first", "earlier"
"""`training.teacher` where networks of a fold label frames for its others: the first for all of
them, or for each those that were trained before it."""


def check_teacher(training: TrainingConfig) -> None:
    """Refuse what nobody can learn from a teacher by."""
    told = f"training.teacher = {training.teacher!r}"
    if training.teacher in {FIRST, EARLIER}:
        if training.frames == "all":
            raise ValueError(f'{told} is of folds, and training.frames = "all"; name a run:RUN')
        if training.members < 2:
            raise ValueError(f"{told} teaches others of its fold; type training.members=2 or more")
    elif training.teacher and not training.teacher.startswith("run:"):
        raise ValueError(
            f"{told} names no run; type training.teacher=run:{training.teacher}, or first or "
            "earlier, for the first network of each fold, or all that are trained before"
        )
    if training.teacher and not training.epochs:
        raise ValueError(f"{told}, and training.epochs = 0 learns nothing; give it epochs")
    if training.teacher and training.batch_size < 2:
        raise ValueError(f"{told} labels a part of a batch; type training.batch_size=2 or more")


def check_patience(training: TrainingConfig, *, holds_out: bool) -> None:
    """Refuse patience that ends no fold: the first validation is always the best so far."""
    if not training.patience:
        return
    told, every = f"training.patience = {training.patience}", training.validate_every
    if not holds_out:
        raise ValueError(
            f'{told} counts validations, and training.frames = "all" has none; type '
            "training.patience=0"
        )
    if (earliest := (training.patience + 1) * every) >= training.epochs:
        raise ValueError(
            f"{told} with training.validate_every = {every} ends a fold after epoch {earliest} "
            f"at the earliest, and training.epochs = {training.epochs}; type less patience, "
            "or training.patience=0"
        )


def check_batch(training: TrainingConfig, decoder: str) -> None:
    """Refuse a batch that cannot be cut as it is asked for."""
    batch, parts, passes = training.batch_size, training.parts, training.accumulate
    if batch < parts:
        raise ValueError(
            f"training.batch_size {batch} must be at least training.parts {parts}: the batch "
            "is cut into so many parts"
        )
    if batch % passes:
        raise ValueError(
            f"training.batch_size {batch} must be a multiple of training.accumulate {passes}"
        )
    together = batch // parts // passes
    if not together:
        raise ValueError(
            f"training.batch_size {batch} must be at least training.parts {parts} x "
            f"training.accumulate {passes}: each part is cut into so many"
        )
    if decoder == "deeplabv3plus" and together < 2:
        cut = f"training.parts {parts} and " if parts > 1 else ""
        raise ValueError(
            "deeplabv3plus normalises each image's mean over the batch, so at least 2 samples "
            f"must pass the network together; training.batch_size {batch} in {cut}"
            f"training.accumulate {passes} leaves {together}"
        )


def check_depth_start(share: float, weights: str, inputs: Sequence[str]) -> None:
    """Refuse a start of channels that no network has, or that weights do not leave open.

    Weights of a file may have all channels too, which is found when they are loaded.
    """
    if share == 1:
        return
    told = f"model.depth_start = {share:g} is of channels behind RGB, and"
    if {*inputs} == {"rgb"}:
        raise ValueError(
            f"{told} model.input = 'rgb' has none; type model.depth_start=1, or model.input=rgbd"
        )
    if weights == "none":
        raise ValueError(
            f"{told} model.weights = 'none' draws all; type model.depth_start=1, or name weights"
        )
    if weights.startswith("run:"):
        raise ValueError(
            f"{told} those that a run lacks start at zero whatever it is; type model.depth_start=1"
        )
