"""A GPU where there is none: its memory is the CPU's, and copies that would stop the host show."""

from collections.abc import Callable
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda")


class PretendGpu(TorchFunctionMode):
    """Inside, `device` may be a GPU: what was copied there says so, all else stays on the CPU.

    Triton's kernels do not run: `Tensor.is_cuda` is False.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """What would have stopped the host until the GPU has done all that it was asked for."""
        # By identity; kept, so that no other tensor gets it.
        self._pinned: dict[int, Tensor] = {}
        self._moved: dict[int, Tensor] = {}
        self._event = patch.object(torch.cuda, "Event", _Event)

    def __enter__(self) -> Self:
        self._event.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._event.stop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        if func == Tensor.device.__get__:
            return GPU if id(args[0]) in self._moved else func(*args)
        if name == "pin_memory":
            copy = args[0].clone()
            self._pinned[id(copy)] = copy
            return copy
        if name == "cpu":
            self.waits.append(name)
        to_gpu = GPU.type in [_type(part) for part in (*args, *kwargs.values())]
        args = tuple(_on_cpu(part) for part in args)
        found = func(*args, **{key: _on_cpu(part) for key, part in kwargs.items()})
        if name == "to" and to_gpu:
            if id(args[0]) not in self._pinned or not kwargs.get("non_blocking"):
                self.waits.append(f"to, of {tuple(args[0].shape)}")
            found = found.clone()
            self._moved[id(found)] = found
        return found


class _Event:
    """All that was asked for is done at once."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def _type(part: Any) -> str | None:
    return part.type if isinstance(part, torch.device) else None


def _on_cpu(part: Any) -> Any:
    return torch.device("cpu") if _type(part) == GPU.type else part
