"""A dict of tensors by name: read from a file, then loaded into a module whole or not at all."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine import sums
from engine.model.refusals import first_line, misfit, out_of_place, some

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which training scripts keep the state dict in a checkpoint."""

_PREFIXES = re.compile(r"^(_orig_mod\.|module\.)+")
"""What torch.compile and DistributedDataParallel put before every name."""

_UNREADABLE = (SafetensorError, UnpicklingError, EOFError, OSError, RuntimeError)
"""What the readers raise for a file that is damaged or holds code."""

_DEPTH_HEAD = "depth_head."
"""How the names of the one part begin that networks of smp lack."""

_ONLY_TRAINED = "auxiliary_head."
"""How those begin that nothing but training runs: a file may lack it, or have it for nothing."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU, without running code that is in it.

    A dict that a checkpoint keeps under one of `_WRAPPERS` is unwrapped, `_PREFIXES` are taken off.

    Raises:
        ValueError: the file holds no state dict, or is of a run folder and damaged.
        RuntimeError: the file is corrupt or holds more than tensors and plain containers.
    """
    sums.check(path)
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise RuntimeError(
            f"weights file {path} cannot be read as tensors ({first_line(error)}); it is corrupt "
            "or holds pickled objects: save it again as a plain state dict"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"weights file {path} holds a {type(content).__name__}, not a state dict")
    inner = (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping))
    state = {
        _PREFIXES.sub("", str(name)): value
        for name, value in next(inner, content).items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise ValueError(f"weights file {path} holds no tensors by name")
    return state


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], origin: str, depth_start: float = 1.0
) -> bool:
    """Load all of an encoder or a network, or all but its depth head, which those of smp lack.

    A head that only training runs (`model.supervision`) is loaded where both have it.

    Args:
        module: changed in place, or left as it is where an error is raised; on the meta device it
            takes the tensors themselves.
        state: its tensors by name.
        origin: where they are from, for the error.
        depth_start: of a stem's channels behind RGB, see `fitted`.

    Returns:
        Whether there was a depth head.

    Raises:
        ValueError: a tensor is missing, has another shape or no place; or `depth_start` is not 1,
            and they have all channels.
    """
    own = module.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(_ONLY_TRAINED)}
    if unknown := state.keys() - own.keys():
        raise out_of_place(origin, unknown)
    has_depth = any(name.startswith(_DEPTH_HEAD) for name in state)
    missing = [
        name
        for name in own
        # Counters of batches are only read by a BatchNorm without momentum; many files lack them.
        if name not in state and not name.endswith("num_batches_tracked")
        if has_depth or not name.startswith(_DEPTH_HEAD)
        if not name.startswith(_ONLY_TRAINED)
    ]
    if missing:
        raise misfit(origin, f"it lacks {some(missing)}")
    ready = {name: fitted(tensor, own[name], depth_start) for name, tensor in state.items()}
    misfits = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name, tensor in ready.items()
        if tensor is None
    ]
    if misfits:
        raise misfit(origin, some(misfits))
    if depth_start != 1 and all(tensor is state[name] for name, tensor in ready.items()):
        raise ValueError(
            f"model.depth_start = {depth_start:g} is of channels that {origin} lacks, and it has "
            "weights of all; type model.depth_start=1"
        )
    on_meta = any(tensor.is_meta for tensor in own.values())
    module.load_state_dict(ready, strict=False, assign=on_meta)
    return has_depth


def fitted(tensor: Tensor, own: Tensor, depth_start: float = 1.0) -> Tensor | None:
    """`tensor` in the shape of `own`; None if it cannot be.

    A stem's weights for RGB fit a stem that has more channels: those start as `depth_start` times
    their mean.
    """
    if tensor.ndim == own.ndim == 4 and tensor.shape[1] == 3 < own.shape[1]:
        mean = tensor.mean(dim=1, keepdim=True) * depth_start
        tensor = torch.cat([tensor, *[mean] * (own.shape[1] - 3)], dim=1)
    return tensor if tensor.shape == own.shape else None
