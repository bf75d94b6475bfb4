"""A graph as an ONNX file, for ONNX Runtime, TensorRT and whatever else reads one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.export.form import Frames, Mask, as_batch
from engine.export.graph import Graph
from engine.export.program import program_of, quiet

OPSET = 20
"""Of ONNX 1.15, November 2023: the first whose Resize and group norms are those of PyTorch."""

_MOST_INSIDE = 1 << 30
"""Bytes of weights that stand in the file itself: protobuf holds at most 2 GiB."""


def write(graph: Graph, told: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `model.onnx`, and `model.onnx.data` beside it if the weights are many."""
    import onnx_ir

    program = program_of(graph)
    names = ["image", "depth"][: 1 + graph.has_depth]
    with quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=["mask", "confidence"],
            verbose=False,
        )
    assert exported is not None, "what dynamo exports is returned"
    model = exported.model
    _name_sides(model)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    model.producer_name = "roomsmith"
    model.metadata_props.update({"roomsmith": json.dumps(told)})
    path = folder / "model.onnx"
    weights = sum(each.nbytes for each in graph.state_dict().values())
    beside = "model.onnx.data" if weights > _MOST_INSIDE else None
    onnx_ir.save(model, path, external_data=beside)
    return [path] if beside is None else [folder / beside, path]


def open_model(folder: Path) -> Frames:
    """The file as ONNX Runtime runs it, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]

    def run(*frame: Mask) -> tuple[Mask, Mask]:
        mask_1HW, certain_1HW = session.run(None, dict(zip(names, as_batch(frame), strict=True)))
        return np.asarray(mask_1HW)[0], np.asarray(certain_1HW)[0]

    return run


def ran(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns, by ONNX Runtime; see `engine.export.layers`."""
    import onnxruntime

    with quiet():
        exported = torch.onnx.export(
            module, tensors, dynamo=True, opset_version=OPSET, verbose=False
        )
    assert exported is not None, "what dynamo exports is returned"
    content = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, (each.numpy() for each in tensors), strict=True)))
    return [torch.from_numpy(np.array(each)) for each in found]


def _name_sides(model: Any) -> None:
    """Call the sides of a frame height and width, for `s62` and `s73`."""
    import onnx_ir

    image = model.graph.inputs[0]
    renamed = {
        str(side): name
        for side, name in zip(image.shape[1:3], ("height", "width"), strict=True)
        if not isinstance(side, int)
    }
    for value in (*model.graph.inputs, *model.graph.outputs):
        sides = [renamed.get(str(side), side) for side in value.shape]
        value.shape = onnx_ir.Shape(sides)
