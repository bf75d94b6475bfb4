"""A step of the recipe under Lightning, whose Trainer owns the loop."""

import queue
import threading
from collections.abc import Iterator

from torch import Tensor

from benchmarks.figures import Facts
from benchmarks.plain.lightning_fold import FoldModule, fit
from benchmarks.plain.model import build_model
from benchmarks.plain.recipe import Recipe
from benchmarks.sides import Prepared
from benchmarks.subset import STEPS_PER_EPOCH, Job

Batch = tuple[Tensor, Tensor, Tensor]


def train_step(job: Job, recipe: Recipe) -> Prepared:
    """One step of a Trainer's loop on a batch that is there."""
    model = build_model(job.config, recipe, job.start())
    module = _Stepped(model, job.config, recipe, STEPS_PER_EPOCH, job.folder / "best0.pt")
    batch = job.batch()

    def step() -> Facts:
        module.asked.put(batch)
        loss = module.done.get()
        if isinstance(loss, BaseException):
            raise loss
        return Facts(len(batch[0]), loss=loss)

    def loop() -> None:
        try:
            fit(module, _Asked(module.asked), None, job.folder)
        except BaseException as error:  # noqa: BLE001 - whatever it is, `step` raises it
            module.done.put(error)

    # In a thread of its own the loop waits for each batch.
    threading.Thread(target=loop, daemon=True).start()
    return Prepared(step)


class _Stepped(FoldModule):
    """Tells the loss of each step when all of the step is done."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.asked = queue.SimpleQueue[Batch]()
        self.done = queue.SimpleQueue[float | BaseException]()

    def on_train_batch_end(self, outputs: dict[str, Tensor], *others: object) -> None:
        super().on_train_batch_end(outputs, *others)
        self.done.put(self.last_loss)


class _Asked:
    """An epoch without an end, of batches that are asked for."""

    def __init__(self, asked: queue.SimpleQueue[Batch]) -> None:
        self._asked = asked

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._asked.get()

    def __len__(self) -> int:
        # Of a loader that has a length the Trainer fetches no batch ahead.
        return 1 << 40
