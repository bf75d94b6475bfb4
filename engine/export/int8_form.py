"""A graph as OpenVINO's two files, its convolutions in INT8; what that costs is measured.

As `engine.views.int8` does it for a fold's network, but for the whole graph: scales are chosen on
training frames, and each view has its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.export import openvino_form
from engine.export.form import Frames, as_batch
from engine.export.graph import Graph
from engine.export.openvino_form import compiled, convert, save
from engine.export.records import Int8Loss
from engine.frames.decode import Sample, read_frame
from engine.mistakes import ConfigError
from engine.nyuv2 import IGNORE_INDEX
from engine.views.int8 import CALIBRATED, CONVOLUTIONS, SCORED, quantised, spread
from engine.views.openvino_pass import core
from kernels.metrics import mean_iou

if TYPE_CHECKING:
    import openvino


def quantise(
    graph: Graph,
    told: Mapping[str, Any],
    folder: Path,
    training: Sequence[Sample],
    scored: Sequence[Sample],
    *,
    held_out: bool,
) -> tuple[list[Path], Int8Loss]:
    """Write `int8.xml` and `int8.bin`; returns them, and what they lose.

    Args:
        graph: of frames of any size, or of one that all these frames have.
        told: goes into the file.
        folder: where they are written.
        training: frames that scales may be chosen on.
        scored: labelled frames that the loss may be measured on.
        held_out: whether no network was trained on them.

    Raises:
        ConfigError: frames are of another size.
        RuntimeError: NNCF cannot be imported.
    """
    if graph.hw and any(sample.hw != graph.hw for sample in (*training, *scored)):
        height, width = graph.hw
        raise ConfigError(
            f"--to openvino-int8 chooses scales on training frames of {height} x {width} pixels, "
            "and there are none; name a --size that frames have"
        )
    plain, chosen = convert(graph), spread(training, CALIBRATED)
    frames = [as_batch(_given(graph, sample)) for sample in chosen]
    low, _ = quantised(plain, frames, _outside)
    files = save(low, told, folder / "int8.xml")
    run_low, run_plain, counted = compiled(low), compiled(plain), spread(scored, SCORED)
    classes = len(told["classes"])
    miou, miou_float32 = (
        mean_iou(np.sum([_counts(run, graph, sample, classes) for sample in counted], axis=0))
        for run in (run_low, run_plain)
    )
    calibrated = [sample.stem for sample in chosen]
    return files, Int8Loss(
        calibrated=calibrated,
        scored=len(counted),
        held_out=held_out,
        miou=miou,
        miou_float32=miou_float32,
    )


def open_model(folder: Path) -> Frames:
    """The files as OpenVINO runs them, on the CPU."""
    return compiled(core().read_model(folder / "int8.xml"))


def ran(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """As in float32: a layer by itself is not quantised."""
    return openvino_form.ran(module, tensors)


def _given(graph: Graph, sample: Sample) -> tuple[NDArray[Any], ...]:
    frame = read_frame(sample)
    if not graph.has_depth:
        return (frame.image_HW3,)
    assert frame.depth_HW is not None, "checked when it was listed"
    return frame.image_HW3, frame.depth_HW


def _counts(run: Frames, graph: Graph, sample: Sample, classes: int) -> NDArray[np.int64]:
    """(C, C) pixels of a frame, truth by prediction."""
    label_HW, (mask_HW, _) = read_frame(sample).label_HW, run(*_given(graph, sample))
    assert label_HW is not None, "the caller has labelled frames"
    kept_HW = (label_HW != IGNORE_INDEX) & (label_HW < classes)
    pairs = label_HW[kept_HW].astype(np.int64) * classes + mask_HW[kept_HW]
    counts: NDArray[np.int64] = np.bincount(pairs, minlength=classes * classes)
    return counts.reshape(classes, classes)


def _outside(model: "openvino.Model") -> list[str]:
    """Names of the operations with no convolution before them, or with none at or behind them.

    So each view of each network keeps its first convolution, as `first_convolution` says, and what
    stands before and behind the networks is no part of them.
    """
    operations = model.get_ordered_ops()
    is_convolution = [op.get_type_name() in CONVOLUTIONS for op in operations]
    place = {op.get_friendly_name(): number for number, op in enumerate(operations)}
    before, behind = [False] * len(operations), list(is_convolution)
    above = [
        [place[value.get_node().get_friendly_name()] for value in op.input_values()]
        for op in operations
    ]
    for number, inputs in enumerate(above):
        before[number] = any(before[k] or is_convolution[k] for k in inputs)
    for number in reversed(range(len(operations))):
        for k in above[number]:
            behind[k] = behind[k] or behind[number]
    return [
        op.get_friendly_name()
        for op, first, last in zip(operations, before, behind, strict=True)
        if not (first and last) and op.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
