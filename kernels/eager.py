"""Operations of PyTorch that run eagerly without its compiler, which takes 2 s to load.

PyTorch lets `torch._dynamo` pass over what implements an operation of ours, and loads it for that
when the operation is first called, whether or not anything is compiled (`torch._compile`, so in
2.11 to 2.14). Where it is not loaded there is nothing to pass over.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

_CACHED = "__dynamo_disable"
"""Where `torch._compile` keeps a function's disabled form, and looks first."""

_Operation = TypeVar("_Operation")


def without_compiler(operation: _Operation) -> _Operation:
    """Have the calls of an operation load no compiler; the same as it was once that is loaded.

    A release of PyTorch that does it in another way is left as it is.
    """
    for wrapped in getattr(operation, "_backend_fns", {}).values():
        function = getattr(wrapped, "__wrapped__", None)
        if function is not None:
            setattr(function, _CACHED, _passed_over_later(function))
    return operation


def _passed_over_later(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get("torch._dynamo")
        if compiler is None:
            return function(*args, **kwargs)
        disabled = compiler.disable(function, recursive=True, wrapping=False)
        setattr(function, _CACHED, disabled)
        return disabled(*args, **kwargs)

    return call
