"""Training of one fold, from its first step or from wherever it was stopped."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import Config
from engine.data.augment import Draws, draw, epoch_order
from engine.data.resident_source import ResidentFrames, ResidentSource
from engine.data.sources import Source, make_source
from engine.frames.index import Dataset
from engine.model.network import Network, Prediction, build_network, input_normalisation
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import Advance, track
from engine.training import checkpoint
from engine.training.checkpoint import Position
from engine.training.ema import Ema
from engine.training.epoch_table import best_line, epoch_row
from engine.training.optim import learning_rate, make_optimizer
from engine.training.step import Statistics, TrainStep, step_seed
from engine.training.validation import validate
from kernels.confusion import mean_iou, pixel_accuracy

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldTask:
    """One fold to train: which samples, where to, under which identity.

    Attributes:
        fold: its number.
        training: (n,) int64 positions in `dataset.train.samples` to train on.
        validation: (m,) int64 positions to validate on.
        config_hash: what the checkpoint must have been made from to be continued.
    """

    config: Config
    dataset: Dataset
    run: RunDir
    fold: int
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    config_hash: str

    @property
    def batch_size(self) -> int:
        """Samples a step; a fold smaller than a batch is one batch."""
        return min(self.config.training.batch_size, len(self.training))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: static shapes, and no batch statistics over a lone sample."""
        return len(self.training) // self.batch_size


def is_complete(run: RunDir, fold: int, epochs: int, config_hash: str) -> bool:
    """Whether the fold has been trained to its last epoch."""
    state = checkpoint.load_last(run, fold, config_hash)
    return state is not None and state["epoch"] == epochs


def stopped_at(run: RunDir, fold: int, config_hash: str) -> Position | None:
    """Where an earlier call left the fold; None if it never saved."""
    state = checkpoint.load_last(run, fold, config_hash)
    if state is None:
        return None
    return Position(state["epoch"], state["step"], state["elapsed_s"])


def train_fold(task: FoldTask, policy: DevicePolicy) -> None:
    """Train the fold to its last epoch, continuing from `last.pt` if there is one.

    Writes `metrics.jsonl`, `last.pt` and `best.safetensors` of the fold. What it writes depends
    only on the task, not on where an earlier call was stopped.

    Raises:
        RuntimeError: a loss or gradient is not finite, or a file cannot be read.
    """
    FoldTraining(task, policy).run()


class FoldTraining:
    """A fold in training: its network, average, optimiser, step and position."""

    def __init__(self, task: FoldTask, policy: DevicePolicy) -> None:
        self.task, self.policy, self.config = task, policy, task.config
        state = checkpoint.load_last(task.run, task.fold, task.config_hash)
        torch.manual_seed(step_seed(self.config.training.seed, task.fold, -1))
        self.network: Network = build_network(
            self.config.model.of_fold(task.fold),
            len(self.config.data.classes),
            initial_weights=state is None,
        )
        self.network.to(policy.device).to(memory_format=torch.channels_last)
        training = self.config.training
        self.ema = Ema(self.network, training.ema_decay, warmup=training.ema_warmup)
        self.optimizer = make_optimizer(self.network, training)
        self.statistics = Statistics(policy.device)
        self.position = Position()
        if state is not None:
            self.position = checkpoint.restore(state, self.network, self.ema, self.optimizer)
            self.statistics.sums.copy_(state["sums"])
            _log.info(
                "fold %d continues at epoch %d, step %d",
                task.fold,
                self.position.epoch + 1,
                self.position.step,
            )
        self.network.train()
        self.step = TrainStep(
            self.network, self.optimizer, self.ema, self.config, policy, task.fold
        )
        self.evaluate: Callable[[Tensor], Prediction] = policy.evaluation(self.ema.network)
        self.normalisation = input_normalisation(self.config.model)
        self.resident: ResidentFrames | None = None
        self.metrics = checkpoint.read_metrics(task.run.metrics(task.fold), self.position.epoch)

    def run(self) -> None:
        """Train to the last epoch."""
        if not self.config.training.epochs:
            self._adopt()
            return
        source = self.open_source()
        while self.position.epoch < self.config.training.epochs:
            self._train_epoch(source)
            self._finish_epoch()

    def open_source(self) -> Source:
        """Where batches come from; validation frames too, where it keeps decoded frames."""
        task, data, runtime = self.task, self.config.data, self.config.runtime
        source = make_source(
            runtime.source,
            task.dataset.train.samples,
            data.crop_hw,
            self.normalisation,
            self.config.model.in_channels,
            self.policy.device,
            runtime.workers,
            cache=runtime.cache,
            crop=self.policy.operations.crop_resize,
        )
        if isinstance(source, ResidentSource):
            self.resident = source.resident
        return source

    def _train_epoch(self, source: Source) -> None:
        task, training, position = self.task, self.config.training, self.position
        order = epoch_order(training.seed, position.epoch, task.training)
        before_s, start_s = position.elapsed_s, time.monotonic()
        title = f"fold {task.fold} epoch {position.epoch + 1}/{training.epochs}"
        batches = source.batches(self.draws(order, position.epoch, position.step))
        with track(title, task.steps_per_epoch, position.step) as advance:
            for batch in batches:
                global_step = position.epoch * task.steps_per_epoch + position.step
                lr = learning_rate(training, global_step, task.steps_per_epoch)
                self.step(batch, lr, position.step, global_step, self.statistics)
                position.step += 1
                position.elapsed_s = before_s + time.monotonic() - start_s
                self._after_step(order, global_step + 1, advance)
        self._check_finite(order)

    def _after_step(self, order: NDArray[np.int64], steps_done: int, advance: Advance) -> None:
        runtime = self.config.runtime
        if steps_done % runtime.log_every == 0:
            self._check_finite(order)
            advance(1, f"loss {self.statistics.means()['loss']:.3f}")
        else:
            advance(1)
        # The end of an epoch saves by itself.
        if steps_done % runtime.save_every == 0 and self.position.step < self.task.steps_per_epoch:
            self._check_finite(order)
            self.save()

    def _finish_epoch(self) -> None:
        task, training, position = self.task, self.config.training, self.position
        epoch, train_s, start_s = position.epoch, position.elapsed_s, time.monotonic()
        last_step = (epoch + 1) * task.steps_per_epoch - 1
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "lr": learning_rate(training, last_step, task.steps_per_epoch),
            **self.statistics.means(),
        }
        if (epoch + 1) % training.validate_every == 0 or epoch + 1 == training.epochs:
            line |= self.validate(epoch + 1)
        line["train_s"] = round(train_s, 3)
        line["validation_s"] = round(time.monotonic() - start_s, 3)
        self.metrics.append(line)
        checkpoint.write_metrics(task.run.metrics(task.fold), self.metrics)
        self.position = Position(epoch + 1)
        self.statistics = Statistics(self.policy.device)
        self.save()
        _log.info("%s", epoch_row(task.fold, self.metrics, training.epochs))

    def _adopt(self) -> None:
        """Make the starting weights the fold's, validated as after an epoch of training."""
        start_s = time.monotonic()
        scores = self.validate(0)
        spent_s = round(time.monotonic() - start_s, 3)
        line = {"epoch": 0, **scores, "train_s": 0.0, "validation_s": spent_s}
        checkpoint.write_metrics(self.task.run.metrics(self.task.fold), [line])
        self.save()
        _log.warning(
            "fold %d: the weights of %s as they are, mIoU %.4f on its validation frames; whether "
            "they were trained on those frames cannot be told here",
            self.task.fold,
            self.config.model.of_fold(self.task.fold).weights,
            scores["miou"],
        )

    def validate(self, epoch: int) -> dict[str, float]:
        """Score the average on the validation frames; keep it if no epoch was better."""
        task = self.task
        count_CC = validate(
            self.evaluate,
            [task.dataset.train.samples[i] for i in task.validation],
            self.config,
            self.policy,
            self.normalisation,
            self.network.align_corners,
            self.resident,
        )
        scores = {"miou": mean_iou(count_CC), "pixel_acc": pixel_accuracy(count_CC)}
        if scores["miou"] > best_line(self.metrics).get("miou", -1.0):
            checkpoint.save_best(
                task.run.best(task.fold),
                self.ema.network,
                {
                    "config_hash": task.config_hash,
                    "fold": str(task.fold),
                    "epoch": str(epoch),
                    "mean": self.normalisation.mean,
                    "std": self.normalisation.std,
                },
            )
        return scores

    def draws(self, order: NDArray[np.int64], epoch: int, first: int) -> Iterator[Draws]:
        """How each sample of an epoch's batches is cropped, from step `first` on."""
        task, size = self.task, self.task.batch_size
        hw = np.array([sample.hw for sample in task.dataset.train.samples], dtype=np.int64)
        for step in range(first, task.steps_per_epoch):
            yield draw(
                self.config.data,
                seed=self.config.training.seed,
                epoch=epoch,
                index=order[step * size : (step + 1) * size],
                hw=hw,
                small_pixels=task.dataset.train.small_pixels,
            )

    def _check_finite(self, order: NDArray[np.int64]) -> None:
        """Stop on a loss or gradient that was not finite; the one place that waits for it."""
        step = int(self.statistics.first_bad_step)
        if step < 0:
            return
        size = self.task.batch_size
        samples = self.task.dataset.train.samples
        stems = ", ".join(samples[i].stem for i in order[step * size : (step + 1) * size])
        raise RuntimeError(
            f"fold {self.task.fold}, epoch {self.position.epoch + 1}, step {step + 1}: the loss "
            f"or its gradient is not finite; samples {stems}. Nothing bad was saved: --resume "
            "starts before it. A lower training.lr or training.clip_norm = 1 usually helps"
        )

    def save(self) -> None:
        """Write `last.pt`."""
        checkpoint.save_last(
            self.task.run,
            self.task.fold,
            self.position,
            self.network,
            self.ema,
            self.optimizer,
            self.statistics.sums,
            self.task.config_hash,
        )
