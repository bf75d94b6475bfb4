"""A graph as OpenVINO's two files, in float32."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.export.form import Frames, Mask, as_batch
from engine.export.graph import Graph
from engine.export.program import program_of, quiet
from engine.views.openvino_pass import core

if TYPE_CHECKING:
    import openvino


def write(graph: Graph, told: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `model.xml` and `model.bin`."""
    return save(convert(graph), told, folder / "model.xml")


def open_model(folder: Path) -> Frames:
    """The files as OpenVINO runs them, on the CPU."""
    return compiled(core().read_model(folder / "model.xml"))


def convert(graph: Graph) -> "openvino.Model":
    """The graph in memory."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    # Its converter knows no unsigned 16 bits (2026.4): they are converted in front of it.
    program = program_of(graph, torch.int32)
    with quiet():
        model = openvino.convert_model(program)
    outside = PrePostProcessor(model)
    if graph.has_depth:
        outside.input(1).tensor().set_element_type(openvino.Type.u16)
    model = outside.build()
    for ends, names in (
        (model.inputs, ("image", "depth")),
        (model.outputs, ("mask", "confidence")),
    ):
        for end, name in zip(ends, names, strict=False):
            end.get_tensor().set_names({name})
    return model


def save(model: "openvino.Model", told: Mapping[str, Any], path: Path) -> list[Path]:
    """Write a model with what tells of it."""
    import openvino

    model.set_rt_info(json.dumps(told), ["roomsmith"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path.with_suffix(".bin"), path]


def compiled(model: "openvino.Model") -> Frames:
    """A model on the CPU, in float32 but for what is quantised."""
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    request = core().compile_model(model, "CPU", options).create_infer_request()

    def run(*frame: Mask) -> tuple[Mask, Mask]:
        mask_1HW, certain_1HW = request.infer(as_batch(frame)).values()
        return mask_1HW[0], certain_1HW[0]

    return run


def ran(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns, by OpenVINO; see `engine.export.layers`."""
    import openvino

    given = tuple(each.int() if each.dtype == torch.uint16 else each for each in tensors)
    with quiet():
        model = openvino.convert_model(torch.export.export(module, given))
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    request = core().compile_model(model, "CPU", options).create_infer_request()
    found = request.infer([each.contiguous().numpy() for each in given]).values()
    return [torch.from_numpy(each.copy()) for each in found]
