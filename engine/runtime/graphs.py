"""CUDA graphs: what the GPU did is recorded once and replayed, so that the host launches it whole.

A training step is thousands of short kernels. Launched one by one they keep a fast GPU waiting for
the host; a replay is one launch.
"""

import gc
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakMethod, WeakValueDictionary

import torch
from torch import Tensor

EAGER_CALLS = 3
"""Calls of each shape before it is recorded: libraries choose kernels and allocate in them."""

_Shape = tuple[tuple[torch.Size, torch.dtype], ...]


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Any


class GraphMemory:
    """Where recordings keep what they compute with; several may share it.

    Each takes what those before it gave back, so that all hold as much as the largest. A replay
    then overwrites what another's returned: whoever shares uses a result up, on the stream that
    asked for it, before anybody's next call. `Predictor.probabilities` copies it.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        # One stream too: what was given back on another is not taken.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]


_SHARED: WeakValueDictionary[int, GraphMemory] = WeakValueDictionary()
"""By GPU; each is gone with its last user: torch refuses a pool whose recordings are all gone."""


def replayed_pass(function: Callable[..., Any]) -> "Replayed":
    """A forward pass that shares its memory with all others, of whatever network, on this GPU."""
    return Replayed(function, _SHARED.setdefault(torch.cuda.current_device(), GraphMemory()))


def free_recordings() -> None:
    """Return the memory of recordings, and of whatever else nobody holds any more, to the GPU."""
    # A compiled network refers to itself; until it is collected, its weights stay.
    gc.collect()
    torch.cuda.empty_cache()


class Replayed:
    """A function of tensors on a GPU, replayed from its fourth call with the same shapes.

    What it returns is overwritten by its next call. It may change the tensors it closes over, in
    place; it must not wait for the device, and no Python of it runs in a replay.
    """

    def __init__(self, function: Callable[..., Any], memory: GraphMemory | None = None) -> None:
        # A method weakly: its object holds what is made here, and a cycle would keep the memory of
        # both, a fold's network and its recording, while the next fold begins.
        weakly = inspect.ismethod(function)
        self._function: Callable[[], Any] = WeakMethod(function) if weakly else lambda: function
        self._memory = memory or GraphMemory()
        self._calls: dict[_Shape, int] = {}
        self._recordings: dict[_Shape, _Recording] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """The function's result."""
        shape = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        recording = self._recordings.get(shape)
        if recording is None:
            calls = self._calls[shape] = self._calls.get(shape, 0) + 1
            if calls <= EAGER_CALLS:
                return self._eager(inputs)
            recording = self._recordings[shape] = self._record(inputs)
        for kept, given in zip(recording.inputs, inputs, strict=True):
            kept.copy_(given)
        recording.graph.replay()
        return recording.output

    def _eager(self, inputs: tuple[Tensor, ...]) -> Any:
        # On the stream that it will be recorded on: autograd returns to where a weight was used.
        stream = self._memory.stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self._function()(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        """Record without running: the inputs are copied in afterwards, for the first replay too."""
        kept = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # A collection during the recording could free memory of the GPU, which is not allowed then.
        gc.collect()
        # What this thread does can spoil the recording, and is an error. Threads of DALI go on
        # allocating meanwhile, which by default would be one too (DALI issue 3703).
        mode, memory = "thread_local", self._memory
        with torch.cuda.graph(graph, memory.pool, memory.stream, capture_error_mode=mode):
            output = self._function()(*kept)
        return _Recording(graph, kept, output)
