"""python -m benchmarks.full_size: does an experiment fit this machine, and how long is a step?"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli import load_config, parse_command_line, run_main
from engine.config import Config

if TYPE_CHECKING:
    from engine.data.batch import Batch
    from engine.data.normalisation import Normalisation
    from engine.frames.index import Dataset
    from engine.runtime.device import DevicePolicy


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_size",
        description="Run one training step of an experiment (forward, loss, backward, update) and "
        "all views of one frame on real frames, and print seconds and peak memory. Writes nothing. "
        "For random weights: --model.weights none.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options, flags = parse_command_line(parser, arguments)
    figures = measure(load_config(options.config, flags))
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if options.json:
        from engine.rundir import write_json
        from engine.runtime.environment import describe_environment

        machine = describe_environment(fingerprint="")
        write_json(options.json, {"machine": machine, "rows": [figures]})
    return 0


def measure(config: Config) -> dict[str, Any]:
    """One step and one frame's views; seconds, losses and peak resident memory of the process.

    Raises:
        DatasetError: the dataset has faults.
        RuntimeError: a loss, a gradient or a probability is not finite.
    """
    import torch

    from engine.frames.index import load_dataset
    from engine.model.network import build_network, input_normalisation
    from engine.runtime.device import choose_device
    from engine.runtime.environment import peak_memory_mib
    from engine.training.ema import Ema
    from engine.training.optim import make_optimizer
    from engine.training.step import Statistics, TrainStep

    policy = choose_device(config.runtime)
    dataset = load_dataset(
        Path(config.data.root),
        config.data.classes,
        config.data.small_classes,
        need_depth=config.model.input == "rgbd",
        workers=config.runtime.workers,
    )
    normalisation = input_normalisation(config.model)
    batch = _first_batch(config, dataset, normalisation, policy)
    torch.manual_seed(config.training.seed)
    network = build_network(config.model, len(config.data.classes)).to(policy.device).train()
    ema = Ema(network, config.training.ema_decay, warmup=config.training.ema_warmup)
    optimizer = make_optimizer(network, config.training)
    step = TrainStep(network, optimizer, ema, config, policy, fold=0)
    statistics = Statistics(policy.device)
    figures: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "batch": tuple(batch.image_BCHW.shape),
        "parts": config.training.accumulate,
        "before_step_mib": round(peak_memory_mib()),
    }
    start_s = time.monotonic()
    step(batch, config.training.lr, 0, 0, statistics)
    figures |= statistics.means()  # waits for the device
    figures["step_s"] = round(time.monotonic() - start_s, 2)
    figures["step_mib"] = round(peak_memory_mib())
    if int(statistics.first_bad_step) >= 0:
        raise RuntimeError("the loss or its gradient is not finite")
    del step, optimizer, batch
    return figures | _views(config, dataset, ema.network, normalisation, policy)


def _first_batch(
    config: Config, dataset: "Dataset", normalisation: "Normalisation", policy: "DevicePolicy"
) -> "Batch":
    """The batch that training would start with, were all frames its own."""
    import numpy as np

    from engine.data.augment import draw, epoch_order
    from engine.data.sources import make_source

    samples, seed = dataset.train.samples, config.training.seed
    draws = draw(
        config.data,
        seed=seed,
        epoch=0,
        index=epoch_order(seed, 0, np.arange(len(samples)))[: config.training.batch_size],
        hw=np.array([sample.hw for sample in samples], dtype=np.int64),
        small_pixels=dataset.train.small_pixels,
    )
    # Not `resident`, which would decode every frame for one batch.
    source = make_source(
        "torch",
        samples,
        config.data.crop_hw,
        normalisation,
        config.model.in_channels,
        policy.device,
        config.runtime.workers,
        crop=policy.operations.crop_resize,
    )
    return next(iter(source.batches(iter([draws]))))


def _views(
    config: Config,
    dataset: "Dataset",
    network: Any,
    normalisation: "Normalisation",
    policy: "DevicePolicy",
) -> dict[str, Any]:
    """Every view of the first frame at every temperature."""
    import torch

    from engine.runtime.environment import peak_memory_mib
    from engine.views.frame_batches import frame_batches
    from engine.views.networks import FoldNetwork
    from engine.views.tta import mean_probabilities

    fold = FoldNetwork(
        0,
        policy.evaluation(network),
        normalisation,
        config.model.in_channels,
        network.align_corners,
    )
    frames = next(
        frame_batches(
            dataset.train.samples[:1],
            1,
            policy.device,
            depth=config.model.input == "rgbd",
            label=False,
            workers=config.runtime.workers,
        )
    )
    start_s = time.monotonic()
    prob_BTCHW = mean_probabilities(
        [fold],
        frames,
        config.inference,
        config.inference.temperatures,
        len(config.data.classes),
        policy,
    )
    if not bool(torch.isfinite(prob_BTCHW).all()):
        raise RuntimeError("a probability is not finite")
    return {
        "views": len(config.inference.scales) * (1 + config.inference.flip),
        "probabilities": tuple(prob_BTCHW.shape),
        "views_s": round(time.monotonic() - start_s, 2),
        "peak_mib": round(peak_memory_mib()),
    }


if __name__ == "__main__":
    run_main(main)
