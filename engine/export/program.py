"""A graph as PyTorch's ExportedProgram, from which every form is made.

Axes: H W pixels of a frame.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from engine.export.graph import Graph

_log = logging.getLogger(__name__)

_EXAMPLE_HW = 61, 83
"""Of a frame that is traced; nothing of it is kept but for a graph of one size."""

LARGEST = 1 << 15
"""Pixels of a frame's longest side."""


@lru_cache(maxsize=2)  # several forms are made of one
def program_of(graph: Graph, depth: torch.dtype = torch.uint16) -> ExportedProgram:
    """Trace a graph: its inputs `image` and `depth`, if it takes that, of any size unless fixed."""
    start_s = time.monotonic()
    frames = example(graph, depth)
    dynamic = None
    if graph.hw is None:
        sides = {1: Dim("height", min=2, max=LARGEST), 2: Dim("width", min=2, max=LARGEST)}
        dynamic = tuple(sides for _ in frames)
    with torch.no_grad(), quiet():
        program = torch.export.export(graph, frames, dynamic_shapes=dynamic)
    # Where in whose folders the code stands is of no use to others.
    for node in program.graph.nodes:
        for told in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(told, None)
    _log.info("traced in %.1f s", time.monotonic() - start_s)
    return program


def example(graph: Graph, depth: torch.dtype = torch.uint16) -> tuple[Tensor, ...]:
    """A frame as the graph takes it, all black."""
    hw = graph.hw or _EXAMPLE_HW
    image_BHW3 = torch.zeros(1, *hw, 3, dtype=torch.uint8)
    return (image_BHW3, torch.zeros(1, *hw, dtype=depth)) if graph.has_depth else (image_BHW3,)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of what their own parts deprecate, and log what they pass through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
