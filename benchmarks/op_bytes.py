"""Bytes that the operations of PyTorch read and write, by kind; ours by what their kernels do.

An operation reads its tensors once and writes its results once: what no cache can spare. One that
changes a tensor in place does both to it. Views move nothing, and an axis that is only repeated is
there once. Operations of ours are several kernels, or visit a tensor twice: `MOVED` says so, and a
test holds it to the accesses of Triton's interpreter.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.depthwise_norm.launch import back_grid, back_tile

POINTWISE, NORMS, CASTS, FUSED = "pointwise", "norms", "casts", "fused passes"
DEPTHWISE, REDUCTIONS = "depthwise convolutions", "reductions"
OPTIMISER, LOSS, COPIES = "optimiser and average", "loss", "copies"

_KINDS = {
    "mm": "matrix products",
    "addmm": "matrix products",
    "bmm": "matrix products",
    "baddbmm": "matrix products",
    "weight_gradient": "matrix products",
    "native_layer_norm": NORMS,
    "native_layer_norm_backward": NORMS,
    "native_group_norm": NORMS,
    "native_group_norm_backward": NORMS,
    "native_batch_norm": NORMS,
    "native_batch_norm_backward": NORMS,
    "sum": REDUCTIONS,
    "mean": REDUCTIONS,
    "upsample_bilinear2d": "resampling",
    "upsample_bilinear2d_backward": "resampling",
    "upsample_nearest2d": "resampling",
    "upsample_nearest2d_backward": "resampling",
    "linalg_vector_norm": OPTIMISER,
    "clone": COPIES,
    "cat": COPIES,
    "stack": COPIES,
    "boundary_ce": LOSS,
    "adamw": OPTIMISER,
}
"""By name; `_kind` knows those that depend on more. All others are pointwise."""

_WRITE_ONLY = {"copy_", "fill_", "zero_", "_foreach_copy_", "_foreach_zero_"}
"""What changes a tensor without reading it."""

Named = Mapping[str, Any]
"""Arguments of an operation by the names of its schema."""


def _adamw(given: Named, _: Sequence[Tensor]) -> int:
    """Gradients once, twice if they are clipped; parameters, moments and averages both ways."""
    changed = sum(map(_total, (given[n] for n in ("parameter", "first", "second", "average"))))
    return 2 * changed + (2 if given["clip_norm"] else 1) * _total(given["gradient"])


def _group_norm_relu(given: Named, made: Sequence[Tensor]) -> int:
    """The input for its moments and for the result, which may have something added."""
    return 2 * nbytes(given["x_BChw"]) + _total(_tensors(given["added_BCHW"])) + nbytes(made[0])


def _group_norm_relu_backward(given: Named, made: Sequence[Tensor]) -> int:
    """Gradient and input for the sums and for the result.

    What was doubled is gathered in the first pass, written, and read and written in the second.
    """
    doubled = given["doubled"]
    cells = 2 * nbytes(given["x_BChw"]) + (3 if doubled else 1) * nbytes(made[0])
    return cells + (1 if doubled else 2) * nbytes(given["grad_BCHW"])


def _once(given: Named, made: Sequence[Tensor]) -> int:
    """What is given, and what is made, also for the gradient."""
    return _total(_tensors(given)) + _total(made)


def _depthwise_norm_backward(given: Named, made: Sequence[Tensor]) -> int:
    """Two passes: through the norm, and through the convolution.

    The first writes the convolution's gradient, as large as the input; the other reads it, and
    writes sums of parts.
    """
    x_BCHW = given["x_BCHW"]
    B, C, H, W = x_BCHW.shape
    columns: int = back_tile(W, x_BCHW.itemsize)["COLUMNS"]
    parts = B * back_grid((B, C, H, W), columns)[1]
    sums: int = parts * nbytes(made[1])
    return _total(_tensors(given)) + nbytes(made[0]) + 2 * nbytes(x_BCHW) + sums


MOVED: dict[str, Callable[[Named, Sequence[Tensor]], int]] = {
    "roomsmith::adamw": _adamw,
    "roomsmith::depthwise_norm": _once,
    "roomsmith::depthwise_norm_backward": _depthwise_norm_backward,
    "roomsmith::group_norm_relu": _group_norm_relu,
    "roomsmith::group_norm_relu_backward": _group_norm_relu_backward,
    "roomsmith::scaled_weight": _once,
    "roomsmith::scaled_weight_backward": _once,
}
"""Bytes of an operation of ours from its arguments and results; others count as PyTorch's do."""


class MovedBytes(TorchDispatchMode):
    """Adds up bytes and calls by kind, while it is on; takes tensors without content too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.calls = Counter[str](), Counter[str]()
        self.by_name: Counter[tuple[str, str]] = Counter()
        """Bytes by kind and name of the operation."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
        named |= kwargs or {}
        # Fake tensors know of no fused update; it changes its arguments and returns nothing.
        is_update = func._schema.name == "aten::_fused_adamw_"
        made = None if is_update else func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        # Others ask a tensor's device or shape.
        counts = space in ("aten", "roomsmith") and not (func.is_view or name == "_unsafe_view")
        if counts and (moved := _bytes(func._schema, named, made)):
            kind = _kind(space, name, named, made)
            self.bytes[kind] += moved
            self.calls[kind] += 1
            self.by_name[kind, name] += moved
        return made


def nbytes(tensor: Tensor) -> int:
    """Of the elements that are there: an expanded axis counts once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or not size else 1
    return count * tensor.element_size()


def _bytes(schema: Any, named: Named, made: Any) -> int:
    name = schema.name.partition("::")[2]
    results = [part for part in tree_leaves(made) if isinstance(part, Tensor)]
    if moved := MOVED.get(schema.name):
        return moved(named, results)
    if "empty" in name:
        return 0
    total, given = 0, set[int]()
    for argument in schema.arguments:
        tensors = _tensors(named.get(argument.name))
        writes = argument.alias_info is not None and argument.alias_info.is_write
        # The schema lets it scale gradients too, which without a scale it does not.
        writes = writes and (name, argument.name) != ("_fused_adamw_", "grads")
        reads = not (writes and name in _WRITE_ONLY)
        for tensor in tensors:
            total += nbytes(tensor) * (writes + (reads and id(tensor) not in given))
            given.add(id(tensor))
    return total + sum(nbytes(tensor) for tensor in results if id(tensor) not in given)


def _kind(space: str, name: str, named: Named, made: Any) -> str:
    if name.startswith("convolution"):
        return DEPTHWISE if named["groups"] > 1 else "convolutions"
    if name == "_to_copy":
        return CASTS if made.dtype != named["self"].dtype else COPIES
    if name == "copy_":
        return CASTS if named["src"].dtype != named["self"].dtype else COPIES
    if name.startswith(("_foreach", "_fused_adam")):
        return OPTIMISER
    return _KINDS.get(name, FUSED if space == "roomsmith" else POINTWISE)


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in tree_leaves(value) if isinstance(part, Tensor)]


def _total(tensors: Sequence[Tensor]) -> int:
    return sum(map(nbytes, tensors))
