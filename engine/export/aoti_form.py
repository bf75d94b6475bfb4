"""A graph as machine code, by AOTInductor: for processors like this one.

Which one is noted in the package; the code may use instructions that another one lacks.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from engine.export.form import Frames
from engine.export.graph import Graph
from engine.export.program import program_of, quiet
from engine.export.torch_form import called
from engine.mistakes import ConfigError
from engine.runtime.machine import processor

_COMPILERS = ("g++", "clang++")


def write(graph: Graph, told: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `model.aoti.pt2`; RuntimeError without a compiler of C++."""
    from torch._inductor import aoti_compile_and_package

    if not any(map(shutil.which, _COMPILERS)):
        raise RuntimeError(
            f"--to aoti compiles C++ and finds none of {', '.join(_COMPILERS)}; install one, such "
            "as the package g++"
        )
    path = folder / "model.aoti.pt2"
    noted = {"roomsmith": json.dumps(told), "processor": processor()}
    noted["instructions"] = torch.backends.cpu.get_cpu_capability()
    with torch.no_grad(), quiet():
        aoti_compile_and_package(
            program_of(graph),
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": noted},
        )
    return [path]


def open_model(folder: Path) -> Frames:
    """The package as PyTorch runs it; ConfigError where the processor is of another kind."""
    from torch._inductor import aoti_load_package

    with quiet():
        model = aoti_load_package(str(folder / "model.aoti.pt2"))
    made_on, here = model.get_metadata()["processor"], processor()
    if made_on != here:
        raise ConfigError(
            f"{folder / 'model.aoti.pt2'} is machine code for {made_on}, and this is {here}; "
            "export it here"
        )
    return called(model)


def ran(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns, by AOTInductor; see `engine.export.layers`."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    with TemporaryDirectory(prefix="roomsmith-layer-") as folder, quiet():
        path = str(Path(folder) / "layer.pt2")
        aoti_compile_and_package(torch.export.export(module, tensors), package_path=path)
        return list(aoti_load_package(path)(*tensors))
