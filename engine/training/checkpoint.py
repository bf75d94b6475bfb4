"""The exact state of a fold in training (`last.pt`) and its best average (`best.safetensors`)."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from engine.rundir import RunDir, whole_file, write_text
from engine.training.ema import Ema


@dataclass
class Position:
    """Where a fold stands: `step` steps of epoch `epoch` (from 0) are done."""

    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0


def save_last(
    run: RunDir,
    fold: int,
    position: Position,
    network: nn.Module,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    sums: Tensor,
    config_hash: str,
) -> None:
    """Write everything that training continues from, whole or not at all."""
    state = {
        "config_hash": config_hash,
        "epoch": position.epoch,
        "step": position.step,
        "elapsed_s": position.elapsed_s,
        "network": network.state_dict(),
        "ema": ema.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "sums": sums,
    }
    with whole_file(run.last(fold)) as temporary:
        torch.save(state, temporary)


def load_last(run: RunDir, fold: int, config_hash: str) -> dict[str, Any] | None:
    """The state that `save_last` wrote, on the CPU, or None if the fold was never saved.

    Raises:
        RuntimeError: the file is damaged or belongs to another config.
    """
    path = run.last(fold)
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"{path} cannot be read ({error}); delete {run.fold(fold)} to train the fold again"
        ) from error
    if state["config_hash"] != config_hash:
        raise RuntimeError(
            f"{path} was written by another config or dataset; delete {run.fold(fold)} to train "
            "the fold again, or choose another --out"
        )
    return state


def restore(
    state: dict[str, Any], network: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer
) -> Position:
    """Copy a state into the living objects, which keep their device and memory format."""
    network.load_state_dict(state["network"])
    ema.network.load_state_dict(state["ema"])
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    # Set anew at every step; a tensor that a recorded step reads has to stay the one it is.
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return Position(state["epoch"], state["step"], state["elapsed_s"])


def save_best(path: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write weights as safetensors (contiguous, on the CPU), whole or not at all."""
    tensors = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
    # One entry only: safetensors writes several in an order that changes from process to process.
    entry = {"roomsmith": json.dumps(metadata, sort_keys=True)}
    with whole_file(path) as temporary:
        # Not save_file, whose files only their owner may read (mode 600).
        temporary.write_bytes(save(tensors, metadata=entry))


def write_metrics(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write one JSON line an epoch, whole or not at all."""
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_metrics(path: Path, epochs: int) -> list[dict[str, Any]]:
    """The first `epochs` lines: those of epochs that the checkpoint has behind it."""
    if not epochs:
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:epochs]]
