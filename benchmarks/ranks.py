"""python -m benchmarks.ranks: what does a step cost that several processes share?

Processes that torchrun starts on this host add up gradients of the demo's size and of 359 MB, the
largest published network's, and train the demo's network, alone and together, by either
`training.reduce`. On a CPU they meet by gloo, on GPUs by NCCL; beside what is measured stands what
`benchmarks.scaling_model` predicts of other links.
"""

import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import at_least, describe_machine, parser, write_json
from benchmarks.scaling_model import GRADIENT_MB, LINKS, all_reduce_ms
from engine.command import run_main

if TYPE_CHECKING:  # PyTorch, which --help does without
    from engine.distributed.world import World

_ROOT = Path(__file__).resolve().parent.parent
_DEMO = _ROOT / "configs" / "demo.toml"
_PIECE = 1 << 20
"""Values of each parameter that stands for a network's."""
_IMAGES = 8
"""Of a step; the demo's."""
_WARM = 2
"""Calls before those that are timed; where steps are replayed, as many as it takes to record."""
_GPUS = (2, 8, 16, 64)
"""Of which a sum is predicted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 if what arrived was wrong."""
    command = parser("ranks", __doc__)
    add = command.add_argument
    add("--processes", type=at_least(1), default=2, metavar="N", help="together (default: 2)")
    add("--rounds", type=at_least(1), default=7, metavar="N", help="timed calls (default: 7)")
    add("--mb", type=float, default=GRADIENT_MB, help=f"the large buffer (default: {GRADIENT_MB})")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: auto)")
    add("--child", type=Path, metavar="FILE", help="be one of the processes; rows go there")
    options = command.parse_args(arguments)
    if options.child:
        _be_one(options.child, options.processes, options.device, options.rounds, options.mb)
        return 0
    rows = []
    for count in sorted({1, options.processes}):
        given = options.device, options.rounds, options.mb
        rows += measured(count, *given, parts=max(2, options.processes))
    predicted = [
        {"link": link, "gpus": gpus, "mb": GRADIENT_MB, "ms": round(all_reduce_ms(gpus, rate), 1)}
        for link, rate in LINKS.items()
        for gpus in _GPUS
        if gpus > 8 or math.isinf(rate)
    ]
    _print(rows, predicted)
    wrong = [row for row in rows if not row["right"]]
    if options.json is not None:
        settings = {"rounds": options.rounds, "processes": options.processes}
        found = {"machine": describe_machine(), "settings": settings}
        write_json(options.json, {**found, "rows": rows, "predicted": predicted})
    return int(bool(wrong))


def measured(
    processes: int, device: str, rounds: int, mb: float, *, parts: int = 2
) -> list[dict[str, Any]]:
    """What so many processes of this host measure, one thread each: a row for each thing.

    A batch is cut into `parts`. Raises RuntimeError, with what they said, if one of them fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(processes), "-m", "benchmarks.ranks"]
        flags = ["--device", device, "--rounds", str(rounds), "--mb", str(mb)]
        flags += ["--processes", str(parts)]
        words = [*start, "--child", str(file), *flags]
        done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            # What torchrun adds tells only who ended.
            said = re.split(r"^E\d{4} ", done.stderr, maxsplit=1, flags=re.MULTILINE)[0].strip()
            raise RuntimeError(f"{processes} processes failed: {said[-2000:]}")
        rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return rows


def _be_one(file: Path, parts: int, device: str, rounds: int, mb: float) -> None:
    """Measure with the others; the first process writes."""
    import torch
    import torch.distributed as dist

    from engine.config import RuntimeConfig
    from engine.distributed.world import open_world

    torch.set_num_threads(1)
    with open_world(RuntimeConfig(device=device)) as world:
        assert world.group is not None  # torchrun's
        shared = {"processes": world.size, "backend": str(dist.get_backend(world.group))}
        rows = [summed(world, name, size, rounds) for name, size in _sizes(mb).items()]
        rows += [exchanged(world)]
        rows += [_step(world, device, reduce, parts, rounds) for reduce in ("tree", "fast")]
        if world.leads:
            file.write_text(json.dumps([shared | row for row in rows]), encoding="utf-8")


def _sizes(mb: float) -> dict[str, int]:
    """Values of each gradient."""
    from engine.model.network import build_network

    config = _demo()
    network = build_network(config.model, len(config.data.classes), initial_weights=False)
    demo = sum(parameter.numel() for parameter in network.parameters())
    return {"demo": demo, f"{mb:.0f} MB": round(mb * 1e6 / 4)}


def _demo(**training: Any) -> Any:
    from engine.cli import load_config

    flags: dict[str, Any] = {"model": {"weights": "none"}, "training": training}
    return load_config([_DEMO], flags)


def summed(world: "World", name: str, size: int, rounds: int) -> dict[str, Any]:
    """A gradient of so many float32 values, added up in buckets as by `training.reduce = fast`."""
    import torch

    from engine.distributed.flat import FlatGradients, OverlappedSum

    device = _device_of(world)
    sizes = [_PIECE] * (size // _PIECE) + [size % _PIECE or 1]
    parameters = [torch.nn.Parameter(torch.zeros(count, device=device)) for count in sizes]
    gradients = FlatGradients(parameters)
    total = OverlappedSum(gradients, world.group)
    gradients.flat.fill_(1.0)
    total.finish_at_once()
    right = bool((gradients.flat == world.size).all())
    gradients.flat.zero_()
    seconds = _timed(world, total.finish_at_once, rounds)
    moved = 2 * (world.size - 1) / world.size * 4 * size / statistics.median(seconds) / 1e9
    row = {"what": f"sum, {name}", "mb": round(4 * size / 1e6, 1), "right": right}
    return row | _spread(seconds) | {"bus_gb_s": round(moved, 2)}


def exchanged(world: "World") -> dict[str, Any]:
    """Whether everything else that is exchanged arrives: rows, slices, weights, norms."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    from engine.distributed.fast import adder
    from engine.distributed.world import gather_into
    from kernels.batch_norm.everywhere import batch_norm_everywhere

    device, ranks, rank = _device_of(world), world.size, world.rank
    start_s, own = time.monotonic(), torch.full((4,), float(rank), device=device)
    every = torch.arange(ranks, device=device).float().repeat_interleave(4)
    gathered, swapped = torch.empty_like(every), torch.empty(ranks, device=device)
    gather_into(gathered, own, world.group)
    sent, one_each = torch.full((ranks,), float(rank), device=device), [1] * ranks
    dist.all_to_all_single(swapped, sent, one_each, one_each, group=world.group)
    told = own.clone()
    dist.broadcast(told, 0, group=world.group)
    generator = torch.Generator().manual_seed(0)
    all_BChw = torch.randn(2 * ranks, 3, 4, 5, generator=generator).to(device)
    here = all_BChw[2 * rank : 2 * rank + 2]
    normed = batch_norm_everywhere(here, None, None, None, 1e-5, adder(world))
    expected = F.batch_norm(all_BChw, None, None, training=True)[2 * rank : 2 * rank + 2]
    held = {
        "gathered": torch.equal(gathered, every),
        "swapped": torch.equal(swapped, torch.arange(ranks, device=device).float()),
        "broadcast": bool((told == 0).all()),
        "batch norm": torch.allclose(normed, expected, atol=1e-5),
        "asked": world.any(rank == ranks - 1),
    }
    right = not world.any(not all(held.values()))
    wrong = [name for name, holds in held.items() if not holds]
    took = {"ms": round(1000 * (time.monotonic() - start_s), 2)}
    return {"what": "all else that is exchanged", "right": right, "wrong": wrong} | took


def _step(world: "World", device: str, reduce: str, parts: int, rounds: int) -> dict[str, Any]:
    """A step of the demo's network on the rows of a batch that are this process's."""
    import numpy as np
    import torch

    from engine.config import RuntimeConfig
    from engine.data.batch import Batch
    from engine.distributed.exchange import open_exchange
    from engine.model.network import build_network
    from engine.model.on_cpu import use_kernels
    from engine.runtime.device import set_up_device
    from engine.runtime.graphs import EAGER_CALLS
    from engine.training import step

    config = _demo(reduce=reduce, parts=parts, batch_size=max(_IMAGES, parts))
    training, classes = config.training, config.data.classes
    policy = set_up_device(RuntimeConfig(device=device, threads=1))
    torch.manual_seed(0)
    network = build_network(config.model, len(classes)).to(policy.device).train()
    if policy.own_layers:
        use_kernels(network)
    ema = step.Ema(network, training.ema_decay, warmup=False)
    sums = step.EpochSums(policy.device)
    learner = step.Learner(network, ema, step.make_optimizer(network, training), sums)
    images = training.batch_size
    given = network, training, images, policy.device, world
    exchange = open_exchange(*given, replay=policy.replay)
    weights_C = step.class_weights(training, classes, policy.device)
    loss = step.TrainingLoss(training, weights_C, policy.operations)
    take = step.TrainStep(learner, loss, policy, 0, exchange)
    generator = torch.Generator().manual_seed(0)
    hw = config.data.crop_hw
    image = torch.randn(images, config.model.in_channels, *hw, generator=generator)
    label = torch.randint(0, len(classes), (images, *hw), generator=generator).byte()
    depth = 5 * torch.rand(images, *hw, generator=generator)
    rows, number = exchange.rows, iter(range(10**9))
    depth, label = depth[rows].to(policy.device), label[rows].to(policy.device)
    image = image[rows].to(policy.device, memory_format=torch.channels_last)
    batch = Batch(image, depth, label, np.arange(images)[rows])

    def once() -> None:
        at = next(number)
        take(batch, 1e-4, at, at)

    seconds = _timed(world, once, rounds, warm=_WARM + EAGER_CALLS * policy.replay)
    right = int(sums.first_bad_step) < 0
    shown = {"what": f"step, {reduce}", "images": images, "right": right}
    return shown | _spread(seconds)


def _timed(
    world: "World", call: Callable[[], object], rounds: int, warm: int = _WARM
) -> list[float]:
    """Seconds of each call, which all processes begin together."""
    import torch

    seconds = []
    for number in range(warm + rounds):
        world.any(here=False)
        start_s = time.perf_counter()
        call()
        if _device_of(world).type == "cuda":
            torch.cuda.synchronize()
        if number >= warm:
            seconds.append(time.perf_counter() - start_s)
    return seconds


def _device_of(world: "World") -> Any:
    """That its group sums tensors of."""
    import torch
    import torch.distributed as dist

    return torch.device("cuda" if dist.get_backend(world.group) == "nccl" else "cpu")


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    ms = sorted(round(1000 * one, 2) for one in seconds)
    return {"ms": round(1000 * statistics.median(seconds), 2), "least": ms[0], "most": ms[-1]}


def _print(rows: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "of", "by", "ms", "GB/s", "right", box=None)
    for row in rows:
        between = f" ({row['least']} to {row['most']})" if "least" in row else ""
        shown = row["what"], str(row["processes"]), row["backend"], f"{row['ms']}{between}"
        table.add_row(*shown, str(row.get("bus_gb_s", "")), "yes" if row["right"] else "NO")
    for each in predicted:
        what = f"sum, {each['mb']:.0f} MB: predicted"
        table.add_row(what, str(each["gpus"]), each["link"], str(each["ms"]))
    Console().print(table)


if __name__ == "__main__":
    run_main(main, several="--child" in sys.argv)
