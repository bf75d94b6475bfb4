"""Out-of-fold prediction: every training frame by the fold that never saw it.

Axes: B batch, T temperature, C class, h w stored pixels.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from engine.config import Config
from engine.data.folds import Folds
from engine.frames.decode import Sample
from engine.runtime.progress import track
from engine.views.predictor import Predictor
from engine.views.store import FoldState, ProbStoreWriter, StoreLayout


def store_hw(base_hw: tuple[int, int] | None, samples: Sequence[Sample]) -> tuple[int, int]:
    """Half the base size; with frames at their own size, half the largest frame."""
    if base_hw is None:
        base_hw = max(s.hw[0] for s in samples), max(s.hw[1] for s in samples)
    return base_hw[0] // 2, base_hw[1] // 2


def oof_layout(config: Config, samples: Sequence[Sample], folds: Folds, key: str) -> StoreLayout:
    """Layout of the store of every training frame's probabilities; `key` is what made them."""
    return StoreLayout(
        stems=tuple(sample.stem for sample in samples),
        fold_of=folds.fold_of,
        classes=config.data.classes,
        hw=store_hw(config.inference.base_hw, samples),
        temperatures=config.inference.temperatures,
        key=key,
    )


def predict_fold(
    load: Callable[[], Predictor],
    fold: int,
    weights: str,
    samples: Sequence[Sample],
    writer: ProbStoreWriter,
) -> FoldState:
    """Predict the validation frames of `fold` into the store and count them, resuming.

    Args:
        load: gives a predictor of the fold; not called if the fold is already predicted.
        fold: number of the fold.
        weights: hash of its weights; what other weights predicted is predicted again.
        samples: every training sample of the dataset.
        writer: the store in progress.

    Returns:
        The fold's state, all frames done, as the store has noted it.
    """
    validation = np.flatnonzero(writer.layout.fold_of == fold).tolist()
    state = writer.state(fold, weights)
    if state is not None and state.done == len(validation):
        return state
    predictor, (_, C, *hw) = load(), writer.layout.shape
    done, before_s, start_s = 0, 0.0, time.monotonic()
    count_TCC = np.zeros((len(writer.layout.temperatures), C, C), np.int64)
    if state is not None:
        done, before_s, count_TCC = state.done, state.elapsed_s, state.counts()
    frames_of_fold = [samples[index] for index in validation]
    with track(f"fold {fold} out-of-fold", len(validation), done) as advance:
        for frames, prob_BTCHW in predictor.predict(frames_of_fold, done, label=True):
            assert frames.label_BHW is not None, "a training frame has labels"
            count_TCC += (
                torch.stack(
                    [
                        predictor.policy.operations.probability_confusion(
                            prob_BCHW, frames.label_BHW
                        )
                        for prob_BCHW in prob_BTCHW.unbind(1)
                    ]
                )
                .cpu()
                .numpy()
            )
            for index, prob_TCHW in zip(validation[done:], prob_BTCHW, strict=False):
                prob_TChw = F.interpolate(prob_TCHW, size=hw, mode="bilinear", align_corners=False)
                writer.write(index, prob_TChw.cpu().numpy(), fold)
            done += len(frames)
            state = FoldState(
                weights=weights,
                done=done,
                elapsed_s=round(before_s + time.monotonic() - start_s, 3),
                confusion=count_TCC.tolist(),
            )
            writer.commit(fold, state)
            advance(len(frames))
    assert state is not None, "a fold validates at least one frame"
    return state
