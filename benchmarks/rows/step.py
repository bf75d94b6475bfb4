"""One training step on a batch that is there: forward, loss, backward, update, average."""

from typing import TYPE_CHECKING, Any

from benchmarks.rows.job import Job, with_section
from benchmarks.rows.work import training_flops
from benchmarks.sides import Prepared
from benchmarks.timing import Work
from engine.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.plain.recipe import Recipe

_STEPS_PER_EPOCH = 100
"""Of the schedule that the steps are taken from."""

_TOLERANCE = 0.01


def configure(config: Config) -> Config:
    """Without dropout, so that the first loss of both sides is the same number."""
    return with_section(config, "model", dropout=0.0, drop_path=0.0)


def ours(job: Job) -> Prepared:
    """The engine's step."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from engine.data.batch import Batch
    from engine.model.network import build_network
    from engine.runtime.device import choose_device
    from engine.training.ema import Ema
    from engine.training.optim import learning_rate, make_optimizer
    from engine.training.phases import PhaseClock
    from engine.training.step import Statistics, TrainStep

    config, training = job.config, job.config.training
    policy = choose_device(job.config.runtime)
    network = build_network(config.model, len(config.data.classes), initial_weights=False)
    network.load_state_dict(load_file(job.shared / "start.safetensors"))
    network.to(policy.device).to(memory_format=torch.channels_last).train()
    ema = Ema(network, training.ema_decay, warmup=training.ema_warmup)
    optimizer = make_optimizer(network, training)
    step = TrainStep(network, optimizer, ema, config, policy, fold=0)
    image, depth, label = (part.to(policy.device) for part in _batch(job))
    image = image.contiguous(memory_format=torch.channels_last)
    batch = Batch(image, depth, label, np.arange(len(image)))
    clock = PhaseClock(policy.device)
    clock.watch_step(step)
    done = iter(range(1 << 30))

    def run() -> dict[str, Any]:
        clock.start()
        statistics, number = Statistics(policy.device), next(done)
        step(batch, learning_rate(training, 0, _STEPS_PER_EPOCH), 0, number, statistics)
        loss = statistics.means()["loss"]
        clock.mark("other")
        return {"frames": len(image), "loss": loss, "phases": clock.seconds}

    return Prepared(run)


def plain(job: Job, recipe: "Recipe") -> Prepared:
    """The recipe's step."""
    import torch
    from safetensors.torch import load_file

    from benchmarks.plain.model import DepthFpn, to_device
    from benchmarks.plain.training import Stepper
    from engine.training.phases import PhaseClock

    config = job.config
    model = DepthFpn(config.model, len(config.data.classes))
    model.load_state_dict(load_file(job.shared / "start.safetensors"))
    stepper = Stepper(to_device(model, recipe), config, recipe, _STEPS_PER_EPOCH)
    image, depth, label = _batch(job)
    clock = PhaseClock(torch.device(recipe.device))
    model.register_forward_pre_hook(lambda *_: clock.mark("other"))
    model.register_forward_hook(lambda _model, _image, prediction: clock.watch(prediction))
    clock.watch_optimizer(stepper.optimizer)
    average = stepper.average
    average.update = clock.around("average", average.update)  # type: ignore[method-assign]

    def run() -> dict[str, Any]:
        clock.start()
        loss = stepper(image, depth, label)["loss"]
        clock.mark("other")
        return {"frames": len(image), "loss": loss, "phases": clock.seconds}

    return Prepared(run)


def work(job: Job) -> Work:
    """The network forward and backward; weights, moments and average read and written."""
    flops, parameters = training_flops(job.config)
    # AdamW reads weight, gradient and two moments and writes three; the average reads two,
    # writes one.
    return Work(parameters * 4 * 10, flops, job.threads)


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The first losses are equal: same batch, same weights; half precision rounds."""
    gap = abs(ours["loss"] - theirs["loss"])
    assert gap < _TOLERANCE * ours["loss"], f"first losses are {ours['loss']} and {theirs['loss']}"


def _batch(job: Job) -> "tuple[Tensor, Tensor, Tensor]":
    from safetensors.torch import load_file

    parts = load_file(job.shared / "batch.safetensors")
    return parts["image"], parts["depth"], parts["label"]
