"""Thirty steps of training.reduce = "fast", by one process or several: the rank of `run_ranks`.

    python -m tests.distributed.thirty [--seeds N] [NETWORK ...]

prints how far two processes end from one, and how far one ends from itself if its starting weights
are rounded otherwise. Exit code 1: further than 1e-5 in float64, or in float32 without kinks (the
median over seeds). A cell within rounding of a ReLU's kink has one gradient or another, so with
ReLUs a step's rounding is now and then a thousand times as large: of any number of processes.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.config import Config
from engine.data.batch import Batch
from engine.distributed.exchange import open_exchange
from engine.distributed.world import World
from engine.model.network import build_network
from engine.model.on_cpu import use_kernels
from engine.runtime.device import DevicePolicy, operations_of
from engine.training.step import (
    Ema,
    EpochSums,
    Learner,
    TrainingLoss,
    TrainStep,
    class_weights,
    learning_rate,
    make_optimizer,
)

CPU = torch.device("cpu")
STEPS, IMAGES, CLASSES = 30, 5, 4

NETWORKS: dict[str, dict[str, Any]] = {
    "fpn": {
        "encoder": "test_efficientnet",
        "pyramid_channels": 16,
        "segmentation_channels": 32,
        "dropout": 0.2,
        "drop_path": 0.1,
    },
    "deeplabv3plus": {
        "encoder": "test_efficientnet",
        "decoder": "deeplabv3plus",
        "aspp_channels": 16,
        "drop_path": 0.1,
    },
    "clamp": {  # batch norms with ReLU6: those of ours
        "encoder": "tf_efficientnet_lite0",
        "pyramid_channels": 16,
        "segmentation_channels": 32,
    },
}


def make_config(name: str, **training: Any) -> Config:
    """A batch of five images in two parts, three and two; a third of the steps clip."""
    section = {
        "batch_size": IMAGES,
        "parts": 2,
        "reduce": "fast",
        "clip_norm": 1.0,
        "boundary_weight": 2.0,
        "schedule": "warmup_cosine",
        "epochs": 3,
    }
    model = {"weights": "none", **NETWORKS[name]}
    classes = [str(number) for number in range(CLASSES)]
    data = {"classes": classes, "small_classes": []}
    return Config.model_validate(
        {"model": model, "data": data, "training": {**section, **training}}
    )


def make_batch(step: int, *, unlike: bool, seed: int = 0) -> Batch:
    """Five images; the last part of every third batch has no label, image 0 of all few."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    image = torch.randn(IMAGES, 3, 64, 96, generator=generator)
    depth = 5 * torch.rand(IMAGES, 64, 96, generator=generator)
    # Classes in patches that the image tells of, so that the gradient is more than noise.
    label = torch.randint(0, CLASSES, (IMAGES, 4, 6), generator=generator)
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    image += label[:, None] - 1.5
    if unlike:
        image += 2 * torch.randn(IMAGES, 3, 1, 1, generator=generator)
    depth[label == 1] = 0
    label[0, 8:] = 255
    if step % 3 == 0:
        label[3:] = 255
        depth[3:] = 0
    channels_last = image.to(memory_format=torch.channels_last)
    return Batch(channels_last, depth, label.byte(), np.arange(IMAGES))


def make_step(
    config: Config, world: World, dtype: torch.dtype, *, smooth: bool = False, nudge: float = 0.0
) -> tuple[TrainStep, slice]:
    """The step, and which rows of a batch it is given.

    With `smooth` the network has no kinks; its starting weights are `nudge` more or less, a share.
    """
    operations = operations_of("reference" if dtype == torch.float64 else "fused")
    policy = DevicePolicy(CPU, None, compile=False, operations=operations)
    training = config.training
    torch.manual_seed(0)
    network = build_network(config.model, CLASSES).to(dtype).train()
    if smooth:
        _smooth(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + nudge * (2 * torch.randint(0, 2, parameter.shape) - 1))
    if dtype == torch.float32:
        use_kernels(network)
    ema, sums = Ema(network, training.ema_decay, warmup=False), EpochSums(CPU)
    learner = Learner(network, ema, make_optimizer(network, training), sums)
    exchange = open_exchange(network, training, IMAGES, CPU, world)
    weights_C = class_weights(training, config.data.classes, CPU).to(dtype)
    loss = TrainingLoss(training, weights_C, operations)
    return TrainStep(learner, loss, policy, 0, exchange), exchange.rows


def _smooth(network: nn.Module) -> None:
    for module in [*network.modules()]:
        for name, part in module.named_children():
            if isinstance(part, nn.ReLU | nn.ReLU6):
                setattr(module, name, nn.SiLU())


def thirty(rank: int, size: int, name: str, bits: str, *changes: str) -> dict[str, Tensor]:
    """Weights, running statistics, average and losses after them.

    `changes` are of the section training, and nudge=6e-8 or seed=1; a name such as "smooth fpn" is
    that network without kinks.
    """
    dtype = {"32": torch.float32, "64": torch.float64}[bits]
    training: dict[str, Any] = dict(change.split("=") for change in changes)
    nudge, seed = float(training.pop("nudge", 0)), int(training.pop("seed", 0))
    smooth, name = name.startswith("smooth "), name.removeprefix("smooth ")
    config = make_config(name, **training)
    group = dist.group.WORLD if size > 1 else None
    world = World(rank, size, group, group)
    step, rows = make_step(config, world, dtype, smooth=smooth, nudge=nudge)
    for number in range(STEPS):
        # A DeepLabV3+ normalises the images' means: of images alike they are noise.
        batch = make_batch(number, unlike=name == "deeplabv3plus", seed=seed)
        image, depth = batch.image_BCHW[rows].to(dtype), batch.depth_BHW[rows].to(dtype)
        part = Batch(image, depth, batch.label_BHW[rows], batch.index[rows])
        step(part, learning_rate(config.training, number, 10), number % 10, number)
    learner = step.learner
    state = {f"network.{k}": v for k, v in learner.network.state_dict().items()}
    state |= {f"average.{k}": v for k, v in learner.ema.network.state_dict().items()}
    return state | {"losses": learner.sums.sums}


def one_after_another(rank: int, size: int, *trainings: str) -> list[dict[str, Tensor]]:
    """`thirty` of each training, its words with commas between them; by the same processes."""
    return [thirty(rank, size, *training.split(",")) for training in trainings]


def distances(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, float, str]:
    """The largest absolute difference, the largest as a share of its tensor's largest value."""
    absolute, relative, worst = 0.0, 0.0, ""
    for name, tensor in one.items():
        apart = float((tensor.double() - other[name].double()).abs().max())
        share = apart / max(float(tensor.double().abs().max()), 1e-30)
        absolute = max(absolute, apart)
        if share > relative:
            relative, worst = share, name
    return absolute, relative, worst


def _told(off: list[float]) -> str:
    """Median, and the distances of all seeds."""
    return f"{statistics.median(off):.1e} ({', '.join(f'{one:.1e}' for one in off)})"


BOUND = 1e-5
KINDS = (
    # Of the network, bits, learning rate, whether the bound is held to.
    ("", "64", "1e-3", True),
    ("smooth ", "32", "1e-4", True),
    ("", "32", "1e-4", False),
)


def main() -> int:
    """See the module."""
    from tests.distributed.ranks import run_ranks

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["fpn", "deeplabv3plus"])
    parser.add_argument("--seeds", type=int, default=3, help="batches of so many (default: 3)")
    options, code, target = parser.parse_args(), 0, "tests.distributed.thirty:thirty"
    for network in options.networks:
        for kind, bits, lr, bounded in KINDS:
            two_off, one_off = [], []
            for seed in range(options.seeds):
                given = kind + network, bits, f"lr={lr}", f"seed={seed}"
                with tempfile.TemporaryDirectory() as folder:
                    (one,) = run_ranks(1, target, Path(folder), *given)
                    two = run_ranks(2, target, Path(folder), *given)
                    nudge = "nudge=1e-16" if bits == "64" else "nudge=6e-8"
                    (other,) = run_ranks(1, target, Path(folder), *given, nudge)
                assert distances(two[0], two[1])[0] == 0, "the ranks differ"
                two_off.append(distances(one, two[0])[0])
                one_off.append(distances(one, other)[0])
            wrong = bounded and statistics.median(two_off) > BOUND
            code |= wrong
            sys.stdout.write(
                f"{kind}{network} float{bits} lr {lr}: two processes {_told(two_off)}; one, "
                f"rounded otherwise, {_told(one_off)}{': TOO FAR' if wrong else ''}\n"
            )
            sys.stdout.flush()
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())
