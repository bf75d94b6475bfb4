"""Training of one fold, from its first step or from wherever it was stopped."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import torch
from torch import nn

from engine import interrupts
from engine.config import Config, TrainingConfig
from engine.data.batch import Batch, Draws, Source
from engine.data.inputs import InputSpec, Normalisation, class_mix_draws, draw, epoch_order
from engine.data.sources import FrameReader, ResidentFrames, ResidentSource, make_source
from engine.extended import hashes_before
from engine.frames.samples import hw_of
from engine.model.fused import fuse, fusions_of
from engine.model.network import Network, build_network, input_normalisation
from engine.model.on_cpu import use_kernels
from engine.origin import origin_of
from engine.runtime.device import DevicePolicy
from engine.runtime.forms import PLAIN
from engine.runtime.progress import track
from engine.training import checkpoint, patience, step
from engine.training.background import BackgroundFiles, Files
from engine.training.faults import not_finite
from engine.training.objective import loss_of
from engine.training.records import BestNote, EpochLine, Position
from engine.training.task import FoldTask
from engine.training.time_left import time_left
from engine.training.tracking.tracker import tracked
from engine.views.predictor import FoldNetwork, Predictor
from kernels.compiling import work_s
from kernels.metrics import mean_iou, pixel_accuracy

if TYPE_CHECKING:
    # Not to train in one process.
    from engine.distributed.shards import Shards
    from engine.distributed.world import World

# With what others need to train a fold.
__all__ = ["FoldTask", "FoldTraining"]

_log = logging.getLogger(__name__)


def _average(
    network: nn.Module, config: Config, world: "World | None"
) -> "tuple[step.Ema, Shards | None]":
    """The average, and who keeps which of it, where not every process keeps everything."""
    training = config.training
    if world is None or not config.runtime.shard_optimizer:
        return step.Ema(network, training.ema_decay, warmup=training.ema_warmup), None
    from engine.distributed.shards import Shards
    from engine.training.sharded import ShardedEma

    shards = Shards([*network.parameters()], world)
    return ShardedEma(network, training, shards), shards


def _set_up(network: Network, training: TrainingConfig, policy: DevicePolicy) -> None:
    """Bring a network to where it trains, in the form in which it does."""
    network.to(policy.device).train()
    if training.frozen:
        from engine.training.parts import freeze

        freeze(network, training.frozen)
    if training.frozen_norms:
        from engine.training.parts import freeze_norms

        freeze_norms(network, training.frozen_norms)
    if policy.form != PLAIN:
        fuse(network, fusions_of(policy.form))
    if policy.own_layers:
        use_kernels(network)


def _normalisation(task: FoldTask) -> Normalisation:
    """What the starting weights were trained with; those of a run may be gone by now."""
    origin = origin_of(task.config, task.run)
    begun = origin.folds[task.fold] if origin is not None and origin.folds else None
    return input_normalisation(task.config.model, begun)


class FoldTraining:
    """A fold in training, from its first step or from where `last.pt` left it.

    A `blank` one is begun for its step or its predictor, with no weights: its caller loads some. In
    a `world` of several processes each has one, with the same weights; the first writes and talks.
    """

    def __init__(
        self,
        task: FoldTask,
        policy: DevicePolicy,
        *,
        blank: bool = False,
        world: "World | None" = None,
    ) -> None:
        self.task, self.policy, self.config = task, policy, task.config
        self.world = world
        training, classes = self.config.training, self.config.data.classes
        self.position, self.metrics = Position(), list[EpochLine]()
        saved = None
        if not blank:
            hashes = task.config_hash, hashes_before(task.run)
            saved = checkpoint.load_last(task.run.last(task.fold), *hashes)
        # The generator's state is in no checkpoint: whatever draws is seeded anew by what it is
        # for. Here the new layers, at step -1; in each step its dropout; in each epoch its order.
        torch.manual_seed(step.step_seed(training.seed, task.fold, -1))
        model = self.config.model.of_fold(task.fold)
        initial = saved is None and not blank
        network = build_network(model, len(classes), initial_weights=initial, names=classes)
        _set_up(network, training, policy)
        ema, shards = _average(network, self.config, world)
        one_pass = ema if policy.form.optimizer == "one_pass" else None
        optimizer = step.make_optimizer(network, training, one_pass, policy.form, shards)
        self.learner = step.Learner(network, ema, optimizer, step.EpochSums(policy.device))
        if saved is not None:
            from engine.training.starts import resume

            resume(self, saved)
        loss = loss_of(task, policy)
        exchange = None
        if training.parts > 1:
            from engine.distributed.exchange import open_exchange

            shared = training, task.batch_size, policy.device, world
            exchange = open_exchange(network, *shared, replay=policy.replay)
        if world is not None:
            state = [part.cpu().contiguous() for part in network.state_dict().values()]
            digest = functools.reduce(lambda crc, part: crc32(part.numpy(), crc), state, 0)
            world.check_same(f"fold {task.fold}: starting weights", digest)
        self.step = step.TrainStep(self.learner, loss, policy, task.fold, exchange)
        self.spec = InputSpec.of(self.config, _normalisation(task))
        # The average looks at frames by one view, at their base size.
        inference, workers = self.config.inference, self.config.runtime.workers
        reader = FrameReader(policy.device, inference.batch_size, self.spec.has_depth, workers)
        # A recorded view would look where a sharded average lay the last time.
        looks = policy if shards is None else replace(policy, replay=False)
        average = FoldNetwork(task.fold, looks.evaluation(self.learner.ema.network), self.spec)
        predictor = Predictor([average], inference, self.config.data, policy, reader)
        self.predictor = predictor.single_view()
        on_gpu = policy.device.type == "cuda"
        self.files: Files = BackgroundFiles(policy.device) if on_gpu else checkpoint
        if not self.leads:
            from engine.training.followers import NoFiles

            self.files = NoFiles()
        self._show: Callable[[EpochLine], None] = lambda _: None

    @property
    def leads(self) -> bool:
        """Whether this process writes and talks."""
        return self.world is None or self.world.leads

    def run(self) -> ResidentFrames | None:
        """Train to the task's last epoch; what it writes does not depend on where it was stopped.

        Returns the split's decoded frames, if they were kept on the device. A loss or gradient that
        is not finite, or a file that cannot be read, is a RuntimeError.
        """
        task = self.task
        if task.config.training.teacher and task.unlabelled is None:
            raise ValueError("a fold with a teacher is trained with what that labels: `begin` it")
        try:
            with ExitStack() as shown:
                if self.leads:
                    trackers = tracked(self.config, task.run, task.fold, self.metrics)
                    self._show = shown.enter_context(trackers)
                if not self.config.training.epochs:
                    from engine.training.starts import adopt

                    adopt(self)
                    return None
                source = self.open_source()
                with interrupts.at_checkpoints():
                    while self.position.epoch < task.epochs and not patience.is_over(self.metrics):
                        if self.position.step < task.steps_per_epoch:
                            self._train_epoch(source)
                        self._finish_epoch()
                return self.predictor.reader.resident
        finally:
            self.files.finish()

    def open_source(self) -> Source:
        """Where batches come from; validation frames too, where it keeps decoded frames."""
        samples, data = self.task.dataset.train.samples, self.config.data
        how = data.crop_hw, self.spec, self.policy, self.config.runtime
        source: Source
        if (unlabelled := self.task.unlabelled) is not None:
            from engine.data.unlabelled import mixed_source

            mixed = mixed_source(samples, unlabelled, *how)
            source, labelled = mixed, mixed.labelled
        else:
            source = labelled = make_source(samples, *how)
        if isinstance(labelled, ResidentSource):
            reader = replace(self.predictor.reader, resident=labelled.resident)
            # Validation reads the arrays that training keeps in memory, not the files once more.
            self.predictor = replace(self.predictor, reader=reader)
        return source

    def draws(self, epoch: int, first: int) -> Iterator[Draws]:
        """How each sample of an epoch's batches is cropped, from step `first` on."""
        task, data, seed = self.task, self.config.data, self.config.training.seed
        split, others, steps = task.dataset.train, task.unlabelled, task.steps_per_epoch
        hw, small = hw_of(split.samples), split.small_pixels
        order = epoch_order(seed, epoch, task.training)
        size = task.batch_size if others is None else task.labelled
        # A task that is only measured has labelled frames in the place of a teacher's.
        order = np.resize(order, steps * size)
        for number in range(first, steps):
            index = order[number * size : (number + 1) * size]
            rows = draw(data, seed=seed, epoch=epoch, index=index, hw=hw, small_pixels=small)
            if others is not None:
                from engine.data.unlabelled import with_unlabelled

                count = task.batch_size - size
                before = (epoch * steps + number) * count
                rows = with_unlabelled(rows, data, others, seed=seed, first=before, count=count)
            yield rows

    def validate(self, epoch: int) -> dict[str, float]:
        """The average's `miou`, `pixel_acc` and `validation_loss`, by one view; keeps the best.

        Both scores at the labels' size; the loss is left out where no sampled pixel has a label.
        Where nothing is held out nothing is known, and the last epoch's average is kept.
        """
        if not len(self.task.validation):
            if epoch == self.config.training.epochs:
                with self.learner.ema.whole():
                    self._keep(epoch)
            return {}
        task, samples = self.task, self.task.dataset.train.samples
        validation = [samples[i] for i in task.validation]
        with self.learner.ema.whole():
            count_CC, loss = self.predictor.validate(validation, self.world)
            miou = mean_iou(count_CC)
            best = max((line.miou for line in self.metrics if line.miou is not None), default=-1.0)
            # Kept before the line that says so: killed in between, the epoch is validated again and
            # the same weights are written again.
            if miou > best:
                self._keep(epoch)
        losses = {} if loss is None else {"validation_loss": loss}
        return {**losses, "miou": miou, "pixel_acc": pixel_accuracy(count_CC)}

    def _keep(self, epoch: int) -> None:
        """Write `best.safetensors`."""
        task = self.task
        note = BestNote(task.config_hash, task.fold, epoch, self.spec.normalisation)
        weights = self.learner.ema.network.state_dict()
        self.files.save_best(task.run.best(task.fold), weights, note)

    def save(self) -> None:
        """Write `last.pt`."""
        with self.learner.ema.whole():
            saved = checkpoint.checkpoint_of(self.task.config_hash, self.position, self.learner)
            self.files.save_last(self.task.run.last(self.task.fold), saved)

    def close_epoch(self, line: EpochLine) -> None:
        """Write its line to `metrics.jsonl`, show it to trackers, and go on to the next."""
        # The line before the checkpoint: killed between the two, the epoch's last steps are
        # repeated from the older checkpoint, and the line, which is ahead of it, is not read.
        self.metrics.append(line)
        self.files.write_metrics(self.task.run.metrics(self.task.fold), self.metrics)
        self.files.write_curves(self.task.run)
        self.position = Position(line.epoch)
        self.learner.sums = step.EpochSums(self.policy.device)
        self.save()
        self._show(line)

    def _train_epoch(self, source: Source) -> None:
        task, position, runtime = self.task, self.position, self.config.runtime
        training, steps = self.config.training, task.steps_per_epoch
        before_s, start_s = position.elapsed_s, work_s()
        title = f"{self.config.told(task.fold)} epoch {position.epoch + 1}/{training.epochs}"
        # An epoch that was broken off goes on in its order, after the last step that was saved.
        exchange = self.step.exchange
        draws = self.draws(position.epoch, position.step)
        if exchange is not None:
            draws = (rows.at(exchange.rows) for rows in draws)
        batches = source.batches(draws)
        with track(title, steps, position.step) as advance:
            for batch in batches:
                if self.config.data.class_mix:
                    self._mix(batch)
                number = position.epoch * steps + position.step
                self.step(batch, step.learning_rate(training, number, steps), position.step, number)
                position.step += 1
                position.elapsed_s = before_s + work_s() - start_s
                logs = (number + 1) % runtime.log_every == 0
                # The end of an epoch saves by itself.
                saves = (number + 1) % runtime.save_every == 0 and position.step < steps
                stops = interrupts.is_asked() if exchange is None else exchange.is_asked
                saves |= stops
                if logs or saves:
                    self._check_finite()
                advance(1, f"loss {self.learner.sums.means().loss:.3f}" if logs else "")
                if saves:
                    self.save()
                if stops:
                    self._meet()
                    interrupts.checkpoint()
                    interrupts.stop()  # it is another process that was asked
        self._check_finite()

    def _mix(self, batch: Batch) -> None:
        """Paste classes from row to row; a lone row stays as it is."""
        from engine.data.class_mix import mix_classes

        classes, epoch = len(self.config.data.classes), self.position.epoch
        keyed = {"seed": self.config.training.seed, "epoch": epoch, "classes": classes}
        if len(batch.index) > 1:
            p = self.config.data.class_mix
            mix_classes(batch, *class_mix_draws(p, index=batch.index, **keyed))

    def _meet(self) -> None:
        """Where there are other processes, wait until the first one has written what it saved."""
        if self.world is not None:
            self.files.finish()
            self.world.any(here=True)

    def _finish_epoch(self) -> None:
        task, training, position = self.task, self.config.training, self.position
        done, start_s = position.epoch + 1, work_s()
        scores = {}
        if done % training.validate_every == 0 or done == training.epochs:
            try:
                scores = self.validate(done)
            except interrupts.Stopped:
                self.save()  # after the epoch's last step: only the validation is done again
                self._meet()
                raise
        line = EpochLine(
            epoch=done,
            lr=step.learning_rate(training, done * task.steps_per_epoch - 1, task.steps_per_epoch),
            **self.learner.sums.means()._asdict(),
            **scores,
            train_s=round(position.elapsed_s, 3),
            validation_s=round(work_s() - start_s, 3),
            **patience.end_of(training, self.metrics, scores, done),
        )
        self.close_epoch(line)
        left = time_left(self.metrics, task)
        _log.info("%s", checkpoint.epoch_row(task.fold, line, training.epochs, left))
        patience.tell_end(task.fold, training, self.metrics)

    def _check_finite(self) -> None:
        """Stop on a loss or gradient that was not finite; the one place that waits for it."""
        bad_step, epoch = int(self.learner.sums.first_bad_step), self.position.epoch
        if bad_step >= 0:
            where = f"fold {self.task.fold}, epoch {epoch + 1}, step {bad_step + 1}"
            rows = next(self.draws(epoch, bad_step))
            raise not_finite(where, self.task.stems(rows.index))
