"""Several gloo processes for a test: `python -m tests.distributed.ranks` is one of them.

`run_ranks(2, "tests.distributed.NAME:function", folder)` returns what function(rank, size) does in
two processes.
"""

import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]


def run_ranks(size: int, target: str, folder: Path, *arguments: object) -> list[Any]:
    """What `target`, "module:function", returns in each of `size` processes of one group.

    It is called with rank, size and the arguments as text; one thread each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("r[ae]*"):
        left.unlink()
    words = [target, str(size), str(folder), *map(str, arguments)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.ranks", str(rank), *words],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    for rank, process in enumerate(processes):
        assert process.returncode == 0, f"rank {rank}: {said[rank][-3000:]}"
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(size)]


def main() -> None:
    """Be one process."""
    number, target, count, folder, *arguments = sys.argv[1:]
    rank, size = int(number), int(count)
    torch.set_num_threads(1)
    function = resolve_name(target)
    if size > 1:
        meet = f"file://{Path(folder) / 'rendezvous'}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    torch.save(function(rank, size, *arguments), Path(folder) / f"rank{rank}.pt")
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
