"""PyTorch's compiler stays out of a process that compiles nothing: loading it takes 2 to 3 s.

Three places load `torch._dynamo`, and with it SymPy, where nothing is compiled:

-   `torch._compile`, to have the compiler pass over functions such as the implementation of every
    operation of ours, at their first call (PyTorch 2.11 to 2.14). Where there is no compiler there
    is nothing to pass over: until it is loaded they are called as they are.
-   `torch.compiler.disable`, which says the same of a function; timm calls it when it is imported
    (1.0.2x). What it returns asks the compiler when it is called, if that is loaded by then.
-   torchvision's `roi_align`, which timm needs, for one function that it calls, though it means to
    load it "lazily" (torchvision 0.26 to 0.29, https://github.com/pytorch/vision/pull/8436).

Where a later release does it in another way, the compiler is loaded as ever, and a test tells.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_PASSES_OVER = "torch._compile.inner"
_DISABLES = "torch.compiler.disable"
_KEPT = "__dynamo_disable"
"""Where `torch._compile` keeps, on a function, what is called in its place."""
_ROI_ALIGN = "torchvision.ops.roi_align"


def load_lightly() -> None:
    """From here on, let the compiler be loaded by who compiles alone; if it is not loaded yet."""
    if _COMPILER not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Answers the two places, until somebody else asks for the compiler."""

    def __init__(self) -> None:
        self.is_active = True
        self.called_as_they_are: list[Callable[..., Any]] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self.is_active:
            return None
        if fullname == _ROI_ALIGN:
            spec = PathFinder.find_spec(fullname, path)
            if spec is not None and spec.loader is not None:
                spec.loader = _RoiAlign(spec.loader)
            return spec
        if fullname != _COMPILER:
            return None
        importer = _importer()
        if importer in (_PASSES_OVER, _DISABLES):
            return ModuleSpec(fullname, _StandIn(self, importer), is_package=True)
        # It is loaded in earnest, and passes over these functions as it always does.
        self.is_active = False
        for function in self.called_as_they_are:
            vars(function).pop(_KEPT, None)
        return None


class _StandIn(Loader):
    """The compiler, for as long as it takes to ask it to pass over a function."""

    def __init__(self, finder: _Finder, importer: str) -> None:
        self._finder, self._importer = finder, importer

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        def disable(function: Any, *given: Any, **named: Any) -> Any:
            sys.modules.pop(_COMPILER)
            vars(sys.modules["torch"]).pop("_dynamo")
            if function is None:  # a decorator is asked for
                return importlib.import_module(_COMPILER).disable(function, *given, **named)
            if self._importer == _DISABLES:
                return _disabled_later(function, given, named)
            self._finder.called_as_they_are.append(function)
            return function

        module.disable = disable  # type: ignore[attr-defined]


def _disabled_later(
    function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]
) -> Callable[..., Any]:
    """What disables a function, by these arguments, once there is a compiler to do so."""
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get(_COMPILER)
        if compiler is None:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(compiler.disable(function, *given, **named))
        return disabled[0](*args, **kwargs)

    return call


class _RoiAlign(Loader):
    """Loads the module in a world in which the compiler has that one function."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
        utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
        stand_ins = {} if _COMPILER in sys.modules else {m.__name__: m for m in (package, utils)}
        sys.modules.update(stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            for name in stand_ins:
                del sys.modules[name]


def _is_compile_supported(device: Any) -> Any:
    return importlib.import_module(f"{_COMPILER}.utils").is_compile_supported(device)


def _importer() -> str:
    """The function, by its module and name, whose import is being answered."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "importlib" in str(frame.f_globals.get("__name__")):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}" if frame else ""
