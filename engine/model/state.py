"""A dict of tensors by name: read from a file, then loaded into a module whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.model.source_errors import CHOICES, first_line, misfit, some

_SUFFIXES = (".safetensors", ".pt", ".pth")
"""Names of files of weights end so: safetensors, or what `torch.save` writes."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which training scripts keep the state dict in a checkpoint."""

_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every name."""

_UNREADABLE = (SafetensorError, UnpicklingError, EOFError, OSError, RuntimeError)
"""What the readers raise for a file that is damaged or holds code."""


def check_file(path: Path) -> None:
    """Refuse a path that cannot be a file of weights, unread.

    Raises:
        ValueError: the suffix is not one of a weights file.
        FileNotFoundError: there is no such file.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"unknown weights {str(path)!r}; {CHOICES}")
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; {CHOICES}")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU, without running code that is in it.

    A dict kept under `state_dict`, `model_state_dict`, `model` or `network` is unwrapped, and the
    prefixes of torch.compile and DistributedDataParallel are taken off.

    Raises:
        ValueError: the suffix is not one of a weights file, or the file holds no state dict.
        FileNotFoundError: there is no such file.
        RuntimeError: the file is corrupt or holds more than tensors and plain containers.
    """
    check_file(path)
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
        _without_prefixes(str(name)): value
        for name, value in next(inner, content).items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise ValueError(f"weights file {path} holds no tensors by name")
    return state


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], origin: str, optional: str | None = None
) -> None:
    """Load every tensor of `module` from `state`, or raise and change nothing.

    Args:
        module: changed in place.
        state: names of `module` only.
        origin: where `state` is from, for the error.
        optional: beginning of the names that may be missing.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    own = module.state_dict()
    missing = [
        name
        for name in own
        # Counters of batches are only read by a BatchNorm without momentum; many files lack them.
        if name not in state and not name.endswith("num_batches_tracked")
        if not (optional and name.startswith(optional))
    ]
    if missing:
        raise misfit(origin, f"it lacks {some(missing)}")
    ready = {name: fitted(tensor, own[name]) for name, tensor in state.items()}
    misfits = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name, tensor in ready.items()
        if tensor is None
    ]
    if misfits:
        raise misfit(origin, some(misfits))
    module.load_state_dict(ready, strict=False)


def fitted(tensor: Tensor, own: Tensor) -> Tensor | None:
    """`tensor` in the shape of `own`; None if it cannot be.

    A stem's weights for RGB fit a stem that has more channels: those start as their mean.
    """
    if tensor.shape == own.shape:
        return tensor
    if tensor.ndim != 4 or tensor.shape[1] != 3 or own.ndim != 4 or own.shape[1] < 3:
        return None
    mean = tensor.mean(dim=1, keepdim=True)
    wider = torch.cat([tensor, *[mean] * (own.shape[1] - 3)], dim=1)
    return wider if wider.shape == own.shape else None


def _without_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name
