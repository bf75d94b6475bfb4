"""Forms of a graph: what each is called, which packages it takes, and who writes it.

H W: pixels of a frame.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.mistakes import ConfigError, to_install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.export.graph import Graph

Mask = NDArray[Any]

Frames = Callable[..., tuple[Mask, Mask]]
"""(H, W, 3) uint8 and, if it takes that, (H, W) uint16 to mask and confidence, both (H, W) uint8;
what it returns may be overwritten by the next call."""


class ExportError(RuntimeError):
    """What an exporter raised: each has its own kinds."""

    def __init__(self, error: Exception) -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        super().__init__(f"{type(error).__name__}: {lines[0] if lines else 'without a word'}")


class Form(NamedTuple):
    """A form of a graph."""

    module: str
    """Has `write`, `open_model` and `ran`, as the methods below."""
    made_with: tuple[str, ...]
    """Packages that write it."""
    run_by: str
    """What the example needs, but for NumPy and Pillow."""
    summary: str

    def write(self, graph: "Graph", told: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write the files of the form into a folder; returns them, the one that is opened last.

        Raises ExportError for whatever the exporter raises.
        """
        try:
            files: list[Path] = import_module(self.module).write(graph, told, folder)
        except (OSError, ConfigError):
            raise
        except Exception as error:
            raise ExportError(error) from error
        return files

    def ran(self, module: "nn.Module", tensors: "tuple[Tensor, ...]") -> "list[Tensor]":
        """What a module of tensors alone returns, as the form has it."""
        found: list[Tensor] = import_module(self.module).ran(module, tensors)
        return found

    def open_model(self, folder: Path) -> Frames:
        """The form as its runtime runs it."""
        frames: Frames = import_module(self.module).open_model(folder)
        return frames


FORMS = {
    "onnx": Form(
        "engine.export.onnx_form",
        ("onnx", "onnxscript", "onnxruntime"),
        "onnxruntime",
        "model.onnx, of opset 20",
    ),
    "openvino": Form(
        "engine.export.openvino_form", ("openvino",), "openvino", "model.xml and model.bin, float32"
    ),
    "openvino-int8": Form(
        "engine.export.int8_form",
        ("openvino", "nncf"),
        "openvino",
        "int8.xml and int8.bin; its loss is measured",
    ),
    "torch": Form(
        "engine.export.torch_form",
        (),
        "torch",
        "model.pt2; beside it weights and config, for model.weights = 'run:FOLDER'",
    ),
    "aoti": Form(
        "engine.export.aoti_form",
        (),
        "torch",
        "model.aoti.pt2: machine code, for this kind of processor alone",
    ),
}
"""By name."""


def check_packages(forms: list[str]) -> None:
    """Refuse, by a RuntimeError, forms whose packages are not installed."""
    for name in forms:
        missing = [package for package in FORMS[name].made_with if find_spec(package) is None]
        if missing:
            raise RuntimeError(
                f"--to {name} needs {', '.join(missing)}, which cannot be imported; "
                f"{to_install(*missing)}"
            )


def as_batch(frame: tuple[Mask, ...]) -> list[Mask]:
    """Image and depth of a frame as a batch of one, contiguous."""
    return [np.ascontiguousarray(each)[None] for each in frame]
