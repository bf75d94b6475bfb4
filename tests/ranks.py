"""Whether several processes leave what one leaves, byte by byte.

    python -m tests.ranks DIR            all of it: some minutes on two cores
    python -m tests.ranks DIR --only 3 --epochs 1    that part, of demos so short
    torchrun ... -m tests.ranks --steps N        what it starts: N steps by several processes
    torchrun ... -m tests.ranks --kill N RANK NAME -- ...
                                         a training in which that process gets it at its N-th step:
                                         a signal, or as NAN images that are not finite

1.  30 steps with clipping, dropout, drop paths, batch norms, uneven parts and labels, some parts
    without a label: an FPN and a DeepLabV3+ by 1, 2, 3 and 4 processes.
2.  Two folds of tiny frames by one process; by two, one of which is killed at a random step, and
    gone on with by one and by four.
3.  The demo by two processes, from the command line.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.cli import load_config, to_toml
from engine.command import ranks, run_main
from engine.config import Config, RuntimeConfig
from engine.data.batch import Batch
from engine.distributed.exchange import open_exchange
from engine.distributed.world import World, open_world
from engine.model.network import build_network
from engine.model.on_cpu import use_kernels
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.step import (
    Ema,
    EpochSums,
    Learner,
    TrainingLoss,
    TrainStep,
    class_weights,
    make_optimizer,
)
from tests.conftest import TINY, write_tiny

CPU = torch.device("cpu")
CASES: dict[str, dict[str, dict[str, Any]]] = {
    # Parts of 3, 3, 3 and 1 images, each passing in two.
    "fpn": {
        "model": {"decoder": "fpn", "pyramid_channels": 8, "segmentation_channels": 64},
        "training": {"batch_size": 10, "accumulate": 2},
    },
    # Least that its pyramid can normalise: two images a part.
    "deeplabv3plus": {
        "model": {"decoder": "deeplabv3plus", "aspp_channels": 16},
        "training": {"batch_size": 8},
    },
}
SMALL = {
    "training.epochs": "8",
    "training.batch_size": "4",
    "training.parts": "4",
    "training.validate_every": "4",
    "data.class_aware_p": "0",
}
"""Of a config of twelve tiny frames: two folds of eight steps."""

KEPT = ("submission.npy", "oof/prob.npy", "temperature.json")
KEPT_OF_A_FOLD = ("best.safetensors", "runtime.json")


def digests(world: World, steps: int) -> list[str]:
    """Of all weights, averages and sums after so many steps, by the cases."""
    return [f"{name} {_digest(name, world, steps)}" for name in CASES]


def _digest(name: str, world: World, steps: int) -> str:
    section = CASES[name]
    model = {"encoder": "test_efficientnet", "weights": "none", "drop_path": 0.1, "input": "rgb"}
    training = {"parts": 4, "clip_norm": 0.5, "boundary_weight": 1.3, "lr": 1e-2}
    config = Config.model_validate(
        {
            "data": {"input_hw": [64, 64], "crop_hw": [64, 64]},
            "model": model | section["model"],
            "training": training | section["training"],
        }
    )
    torch.manual_seed(0)
    network = build_network(config.model, len(config.data.classes)).train()
    use_kernels(network)
    operations = choose_operations("fused", CPU)
    policy, ema = DevicePolicy(CPU, None, False, operations), Ema(network, 0.9, warmup=False)
    learner = Learner(network, ema, make_optimizer(network, config.training), EpochSums(CPU))
    images = config.training.batch_size
    exchange = open_exchange(network, config.training, images, CPU, world)
    weights_C = class_weights(config.training, config.data.classes, CPU)
    loss = TrainingLoss(config.training, weights_C, operations)
    step = TrainStep(learner, loss, policy, 0, exchange)
    for number in range(steps):
        step(_batch(images, number, exchange.rows), 1e-2, number, number)
    digest = hashlib.sha256()
    states = *network.state_dict().values(), *ema.network.state_dict().values()
    for tensor in (*states, learner.sums.sums):
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"{digest.hexdigest()} loss {learner.sums.means().loss}"


def _batch(images: int, number: int, rows: slice) -> Batch:
    """Rows of a batch in which parts have few labels, or none, or no depth."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randn(images, 3, 64, 64, generator=generator)
    label = torch.randint(0, 13, (images, 16, 16), generator=generator)
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    depth = torch.rand(images, 64, 64, generator=generator) * 10
    label[0, :10], label[2:6], depth[4:8] = 255, 255, 0
    image = image.contiguous(memory_format=torch.channels_last)
    return Batch(image[rows], depth[rows], label[rows], np.arange(images)[rows])


def torchrun(processes: int, *words: str) -> list[str]:
    """What starts a module by several processes, with its words."""
    python = sys.executable, "-m", "torch.distributed.run"
    return [*python, "--standalone", "--nproc-per-node", str(processes), "-m", *words]


def signalled(words: Sequence[str], *given: object) -> subprocess.CompletedProcess[str]:
    """Train by two processes until one gets a signal, or NAN: at which step, which one, what."""
    command = torchrun(2, "tests.ranks", "--kill", *map(str, given), "--", *words)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _signal_at(at: int, rank: int, name: str) -> None:
    seen, call = [0], TrainStep.__call__

    def killing(self: TrainStep, batch: Batch, *given: Any, **named: Any) -> None:
        seen[0] += 1
        hit = seen[0] == at and ranks().rank == rank
        if hit and name == "NAN":
            batch.image_BCHW.fill_(float("nan"))
            os.write(2, f"not finite from {time.time()}\n".encode())  # it has no other voice
        call(self, batch, *given, **named)
        if hit and name != "NAN":
            os.kill(os.getpid(), signal.Signals[name])

    TrainStep.__call__ = killing  # type: ignore[method-assign]


def unequal(one: Path, other: Path, folds: int) -> list[str]:
    """Names of files whose bytes differ between two finished runs."""
    names = [*KEPT, *(f"fold{k}/{name}" for k in range(folds) for name in KEPT_OF_A_FOLD)]
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


def _told(what: str, start_s: float, wrong: Sequence[str]) -> None:
    state = f"DIFFERENT: {', '.join(wrong)}" if wrong else "the same bytes"
    _say(f"{what}: {state} ({time.monotonic() - start_s:.0f} s)")
    if wrong:
        raise SystemExit(1)


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _steps(count: int) -> None:
    alone = digests(World(), count)
    _say(*alone)
    for processes in (2, 3, 4):
        start_s = time.monotonic()
        command = torchrun(processes, "tests.ranks", "--steps", str(count))
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        wrong = [line for line in alone if told.count(line) != processes]
        _told(f"{count} steps by {processes} processes", start_s, wrong)


def _runs(folder: Path, kills: int) -> None:
    data, file = folder / "data", folder / "tiny.toml"
    write_tiny(data)
    config = load_config([], {**TINY, "data": {**TINY["data"], "root": str(data)}})
    file.write_text(to_toml(config), encoding="utf-8")
    words = [str(file), *(f"{name}={value}" for name, value in SMALL.items())]
    train = [sys.executable, "-m", "engine.train", *words]
    subprocess.run([*train, "--out", str(folder / "whole")], check=True, capture_output=True)
    chance = random.Random(0)
    for number in range(kills):
        start_s, at = time.monotonic(), chance.randrange(1, 16)
        one, four = folder / f"one{number}", folder / f"four{number}"
        done = signalled([*words, "--out", str(one)], at, number % 2, "SIGKILL")
        if "exitcode  : -9" not in done.stderr:
            raise SystemExit(f"not killed at step {at}:\n{done.stdout}\n{done.stderr}")
        shutil.copytree(one, four)
        for processes, out in ((1, one), (4, four)):
            command = torchrun(processes, "engine.train", *words, "--out", str(out), "--resume")
            subprocess.run(command, check=True, capture_output=True)
            what = f"killed at step {at} of two processes, gone on with by {processes}"
            _told(what, start_s, unequal(folder / "whole", out, 2))


def _demo(folder: Path, epochs: int | None) -> None:
    words, start_s = ["demo", "training.parts=2", "runtime.threads=1"], time.monotonic()
    if epochs is not None:
        words += [f"training.epochs={epochs}", f"training.validate_every={epochs}"]
    alone = [sys.executable, "-m", "engine.train", *words, "--out", str(folder / "demo1")]
    subprocess.run(alone, check=True, capture_output=True)
    command = torchrun(2, "engine.train", *words, "--out", str(folder / "demo2"))
    subprocess.run(command, check=True, capture_output=True)
    wrong = unequal(folder / "demo1", folder / "demo2", 3)
    _told("the demo by one process and by two", start_s, wrong)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--kill", nargs=3)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--only", type=int, choices=(1, 2, 3))
    parser.add_argument("--epochs", type=int, help="of the demo (default: as it is)")
    own = sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]
    options = parser.parse_args(own)
    if options.kill is not None:
        from engine import train

        at, rank, name = options.kill
        _signal_at(int(at), int(rank), name)
        return train.main(sys.argv[sys.argv.index("--") + 1 :])
    torch.set_num_threads(1)
    if options.steps is not None:
        with open_world(RuntimeConfig(device="cpu")) as world:
            # One write a process: several end their lines at the same time.
            _say(*digests(world, options.steps))
        return 0
    folder: Path = options.folder or parser.error("a folder for the runs is needed")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        1: lambda: _steps(30),
        2: lambda: _runs(folder, options.kills),
        3: lambda: _demo(folder, options.epochs),
    }
    for number in [options.only] if options.only else parts:
        parts[number]()
    return 0


if __name__ == "__main__":
    if "--kill" in sys.argv:
        run_main(main, several=True)
    raise SystemExit(main())
