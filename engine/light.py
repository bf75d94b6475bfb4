"""PyTorch's compiler stays out of a process that compiles nothing: loading it takes 2 to 3 s.

Two places load `torch._dynamo`, and with it SymPy, where nothing is compiled:

-   `torch._compile`, to have the compiler pass over functions such as the implementation of every
    operation of ours, at their first call (PyTorch 2.11 to 2.14). Where there is no compiler there
    is nothing to pass over: until it is loaded they are called as they are.
-   torchvision's `roi_align`, which timm needs, for one function that it calls, though it means to
    load it "lazily" (torchvision 0.26 to 0.29, https://github.com/pytorch/vision/pull/8436).

Where a later release does it in another way, the compiler is loaded as ever, and a test tells.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_PASSES_OVER = "torch._compile"
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
        if _importer() == _PASSES_OVER:
            return ModuleSpec(fullname, _StandIn(self), is_package=True)
        # It is loaded in earnest, and passes over these functions as it always does.
        self.is_active = False
        for function in self.called_as_they_are:
            vars(function).pop(_KEPT, None)
        return None


class _StandIn(Loader):
    """The compiler, for as long as it takes to ask it to pass over a function."""

    def __init__(self, finder: _Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        def disable(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
            sys.modules.pop(_COMPILER)
            vars(sys.modules["torch"]).pop("_dynamo")
            self._finder.called_as_they_are.append(function)
            return function

        module.disable = disable  # type: ignore[attr-defined]


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
    """The name of the module whose import is being answered."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "importlib" in str(frame.f_globals.get("__name__")):
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__"))
