"""A graph as PyTorch's ExportedProgram, for whoever has PyTorch and not this project."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.export.form import Frames, Mask, as_batch
from engine.export.graph import Graph
from engine.export.program import program_of, quiet


def write(graph: Graph, told: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `model.pt2`."""
    path = folder / "model.pt2"
    with quiet():
        torch.export.save(program_of(graph), path, extra_files={"roomsmith.json": json.dumps(told)})
    return [path]


def open_model(folder: Path) -> Frames:
    """The file as PyTorch runs it, on the CPU."""
    with quiet():
        return called(torch.export.load(folder / "model.pt2").module())


def called(module: Any) -> Frames:
    """What takes tensors and returns them, on arrays."""

    def run(*frame: Mask) -> tuple[Mask, Mask]:
        with torch.inference_mode():
            mask_1HW, certain_1HW = module(*map(torch.from_numpy, as_batch(frame)))
        return mask_1HW[0].numpy(), certain_1HW[0].numpy()

    return run


def ran(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns, by its ExportedProgram; see `engine.export.layers`."""
    with quiet():
        return list(torch.export.export(module, tensors).module()(*tensors))
