"""What `benchmarks.ranks` measures arrives, by two gloo processes."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from benchmarks.ranks import exchanged, summed
from engine.distributed.world import World
from tests.distributed.ranks import run_ranks


def exchange(rank: int, size: int) -> list[dict[str, Any]]:
    """Rows of a small buffer, of three pieces, and of all else."""
    world = World(rank, size, dist.group.WORLD, dist.group.WORLD)
    return [summed(world, "small", (2 << 20) + 5, 2), exchanged(world)]


def test_what_two_processes_exchange_is_right_and_timed(tmp_path: Path) -> None:
    target = "tests.benchmarks.test_ranks:exchange"
    for total, others in run_ranks(2, target, tmp_path):
        assert total["right"]
        assert total["mb"] == 8.4
        assert total["least"] <= total["ms"] <= total["most"]
        assert total["bus_gb_s"] > 0
        assert others["right"], others["wrong"]
