"""What an operation would launch on a GPU that need not be here.

Tensors are PyTorch's fakes, which have shapes and no content. Those of the caller say that they are
on the CPU, since autograd asks a GPU's driver; inside an operation they are on a CUDA device. A
tensor that is no fake is the host's, and may be read.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from triton.runtime.jit import JITFunction

from benchmarks.lowering import Specialisation
from benchmarks.prediction import Gpu

_TYPES = {
    torch.bool: "*i1",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.uint16: "*u16",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
}


@dataclass(frozen=True)
class Launch:
    """One kernel that would run."""

    name: str
    """Of the Triton kernel, or PyTorch's of its operation."""
    arrays: Mapping[str, int]
    """Bytes of each tensor it is given; PyTorch's by number, its result's among them."""
    specialisation: Specialisation | None = None
    """What Triton would compile; None: the kernel is PyTorch's."""
    grid: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Those of a Triton kernel that are no tensors, constants among them."""

    @property
    def programs(self) -> int:
        """Of the grid."""
        return math.prod(self.grid)

    @property
    def warps(self) -> int:
        """Of all programs of a Triton kernel."""
        assert self.specialisation is not None
        warps: int = self.specialisation.options.get("num_warps", 4)
        return self.programs * warps


def record(make: Callable[[], Callable[[], object]], gpu: Gpu) -> list[Launch]:
    """What a call launches once it has been called before, and its tables are made.

    Args:
        make: makes the call with its tensors, which become fakes.
        gpu: what the operations are told they run on.
    """
    launches: list[Launch] = []
    with _pretended(gpu, launches), FakeTensorMode(allow_non_fake_inputs=True):
        call = make()
        with _Recorder(launches):
            call()
            launches.clear()
            call()
    return launches


@contextmanager
def _pretended(gpu: Gpu, launches: list[Launch]) -> Iterator[None]:
    """Triton's kernels are noted, and what the operations ask of the device is answered."""

    def run(kernel: Any, *args: Any, grid: Any, **kwargs: Any) -> None:
        del kwargs["warmup"]
        launches.append(_triton_launch(kernel, grid, args, kwargs))

    properties = SimpleNamespace(multi_processor_count=gpu.multiprocessors)
    capability = divmod(gpu.architecture, 10)
    answers = {
        "kernels.gpu.uses_triton": True,
        "torch.cuda.get_device_capability": capability,
        "torch.cuda.get_device_properties": properties,
        "torch.cuda.current_stream": SimpleNamespace(cuda_stream=0),
    }
    patches = [
        mock.patch(name, lambda *_, answer=answer: answer) for name, answer in answers.items()
    ]
    with mock.patch.object(JITFunction, "run", run):
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes PyTorch's kernels, and looks into operations of ours, which PyTorch would not."""

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._launches = launches
        self._inside = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if operation := OPDEFS.get(func._schema.name):
            given = tree_map_only(FakeTensor, _on("cuda"), (args, kwargs))
            outside, self._inside = self._inside, True
            with self:
                made = operation._init_fn(*given[0], **given[1])
            self._inside = outside
            return tree_map_only(FakeTensor, _on("cuda" if outside else "cpu"), made)
        if func.namespace != "aten":
            # Such as the question for a tensor's device.
            return func(*args, **kwargs)
        if func._schema.name in ("aten::pin_memory", "aten::_pin_memory"):
            return args[0]
        with self:
            composed = func.decompose(*args, **kwargs)
        if composed is not NotImplemented:
            return composed
        if self._on_host(args, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        made = func(*args, **kwargs)
        results = _tensors(made)
        if results and _computes(func):
            name = func._schema.name.removeprefix("aten::")
            # Of what a new tensor is made like, only the shape is read.
            read = [] if name.startswith("new_") or name.endswith("_like") else [args, kwargs]
            moved = [tensor.nbytes for tensor in [*_tensors(read), *results]]
            arrays = {str(number): size for number, size in enumerate(moved)}
            if any(moved):
                self._launches.append(Launch(name, arrays))
        return made

    def _on_host(self, args: Any, kwargs: Mapping[str, Any]) -> bool:
        """Whether an operation reads and makes tensors of the host only."""
        given = _tensors((args, kwargs))
        if torch.device(kwargs.get("device") or "cpu").type != "cpu":
            return False
        # Outside an operation of ours, what is made on the CPU stands for the device's.
        return not any(isinstance(each, FakeTensor) for each in given) and (
            bool(given) or self._inside
        )


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _on(device: str) -> Callable[[Tensor], Tensor]:
    def moved(tensor: Tensor) -> Tensor:
        items = tensor.untyped_storage().nbytes() // tensor.element_size()
        memory = torch.empty(items, dtype=tensor.dtype, device=device)
        return memory.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    return moved


def _computes(func: Any) -> bool:
    """Whether PyTorch launches a kernel for it: views and empty memory take none."""
    name = func._schema.name.removeprefix("aten::")
    return not func.is_view and not name.startswith(("empty", "new_empty"))


def _triton_launch(
    kernel: Any, grid: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Launch:
    """As Triton's launcher specialises it: see `triton.runtime.jit.JITFunction.run`."""
    known = set(kernel.arg_names)
    named = {name: value for name, value in kwargs.items() if name in known}
    options = {name: value for name, value in kwargs.items() if name not in known}
    given = kernel.signature.bind(*args, **named)
    given.apply_defaults()
    signature: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    arrays: dict[str, int] = {}
    for parameter in kernel.params:
        name, value = parameter.name, given.arguments[parameter.name]
        one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            constants[name] = value
        else:
            signature[name] = _type(value, parameter.do_not_specialize)
            if tensors := _tensors(value):
                arrays[name] = sum(tensor.nbytes for tensor in tensors)
    arguments = {name: each for name, each in given.arguments.items() if name not in arrays}
    sides = grid(arguments) if callable(grid) else grid
    made = Specialisation(kernel, signature, constants, options)
    return Launch(kernel.__name__, arrays, made, tuple(sides), arguments)


def _type(value: Any, unspecialised: bool) -> Any:
    """Of an argument, as `Specialisation.signature` has it."""
    if isinstance(value, Tensor):
        # Memory begins at a multiple of 512 bytes on CUDA.
        aligned = int(value.storage_offset()) * value.element_size() % 16 == 0
        return _TYPES[value.dtype] + (":16" if aligned else "")
    if isinstance(value, tuple):
        return tuple(_type(each, True).split(":")[0] for each in value)
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        bits = "i32" if -(2**31) <= value < 2**31 else "i64"
        return bits + (":16" if value % 16 == 0 and not unspecialised else "")
    if isinstance(value, float):
        return "fp32"
    raise TypeError(f"an argument of type {type(value).__name__} has no type in Triton")
