"""PyTorch's compiler stays out of a process that compiles nothing: loading it takes 2 s.

torchvision, which timm needs, imports `torch._dynamo`, and with it SymPy, for one function that its
`roi_align` calls, though it means to load it "lazily" (https://github.com/pytorch/vision/pull/8436;
so in 0.26 to 0.29). Here that import is answered by a function that loads it when it is called.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_WHERE = "torchvision.ops.roi_align"
_COMPILER = "torch._dynamo"


def load_lightly() -> None:
    """Keep torchvision, which is not loaded yet, from loading the compiler, which is not either."""
    if _WHERE not in sys.modules and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `_WHERE` as everybody does, but loads it by a `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _WHERE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None and _COMPILER not in sys.modules:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module in a world in which the compiler has that one function."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
        package.__path__ = []
        utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
        stand_ins = {one.__name__: one for one in (package, utils)}
        sys.modules.update(stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            for name in stand_ins:
                del sys.modules[name]


def _is_compile_supported(device: Any) -> Any:
    utils = importlib.import_module(f"{_COMPILER}.utils")
    return utils.is_compile_supported(device)
