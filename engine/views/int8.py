"""A fold's network quantised to INT8: eight bits for weights and activations, scales by NNCF.

The scales of activations are chosen by what training frames of the fold make of its float32
network, through the views that predict; frames that the fold is scored on have no say. The files
are made once, so whoever predicts later, on frames of any kind, runs the same network. Figures:
docs/throughput.md.
Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018; NNCF's post-training quantisation.
"""

import io
import itertools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.config import Config
from engine.frames.decode import Sample
from engine.identity import file_hash
from engine.mistakes import to_install
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.views import int8_network
from engine.views.openvino_pass import OpenVinoPass
from engine.views.predictor import Predictor, open_predictor, view_input
from engine.views.records import Int8
from engine.views.zoom import base_hw, view_hw
from kernels.metrics import mean_iou

if TYPE_CHECKING:
    import openvino

_log = logging.getLogger(__name__)

CALIBRATED = 32
"""Training frames that scales are chosen on, spread evenly over all of a fold."""

SCORED = 64
"""Validation frames that the loss in mIoU is measured on, spread likewise: two passes, of each of
the networks, which is little beside the views of all frames."""

CONVOLUTIONS = ("Convolution", "GroupConvolution")
"""Kinds of operations of OpenVINO."""

_TOLERATED = 0.002
"""mIoU that a fold may lose without a warning."""


def quantise_fold(
    config: Config,
    run: RunDir,
    fold: int,
    policy: DevicePolicy,
    training: Sequence[Sample],
    validation: Sequence[Sample],
) -> Int8:
    """Open a trained fold in float32, with the views of a config, and `quantise` it."""
    runtime = config.runtime.model_copy(update={"inference": "openvino"})
    plain = config.model_copy(update={"runtime": runtime})
    return quantise(open_predictor(plain, run, [fold], policy), run, training, validation)


def quantise(
    predictor: Predictor, run: RunDir, training: Sequence[Sample], validation: Sequence[Sample]
) -> Int8:
    """Write a fold's network in INT8 and what it loses; tells of both.

    Args:
        predictor: the fold's network by `OpenVinoPass` in float32, with the views of the run.
        run: where the files go.
        training: all frames that the fold is trained on.
        validation: all that it is not; labelled.

    Raises:
        RuntimeError: NNCF cannot be imported.
    """
    (network,) = predictor.networks
    assert isinstance(network.forward, OpenVinoPass), "the caller has asked for OpenVINO"
    start_s = time.monotonic()
    chosen, scored = spread(training, CALIBRATED), spread(validation, SCORED)
    model, version = quantised(network.forward.model, _inputs(predictor, chosen))
    content = int8_network.write(model, run, network.fold)
    took_s, plain = time.monotonic() - start_s, predictor.single_view()
    low = replace(plain, networks=[replace(network, forward=OpenVinoPass(model))])
    miou_float32, miou = (mean_iou(each.confusion(scored)) for each in (plain, low))
    import openvino

    note = Int8(
        weights=file_hash(run.best(network.fold)),
        network=content,
        openvino=openvino.__version__,
        nncf=version,
        calibrated=tuple(sample.stem for sample in chosen),
        scored=len(scored),
        miou=miou,
        miou_float32=miou_float32,
    )
    note.write(run.int8(network.fold))
    _log.info(
        "fold %d in INT8: NNCF %s on %d training frames, %.1f s; mIoU %.4f for float32's %.4f on "
        "%d validation frames by one view",
        *(network.fold, version, len(chosen), took_s, miou, miou_float32, len(scored)),
    )
    if note.loss > _TOLERATED:
        _log.warning(
            "fold %d loses %.4f of mIoU in INT8, more than %g; for float32 use --runtime.inference "
            "openvino and another --out",
            *(network.fold, note.loss, _TOLERATED),
        )
    return note


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """So many of some samples, or all if they are fewer, evenly over all."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places]


@torch.inference_mode()
def _inputs(predictor: Predictor, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
    """(1, h, w, C) of each frame, by one of the views in turn."""
    views, (network,) = predictor.inference, predictor.networks
    flips = (False, True)[: 1 + views.flip]
    turns = itertools.cycle(itertools.product(flips, views.scales))
    found: list[NDArray[np.float32]] = []
    for frames in predictor.reader.batches(samples):
        out_hw = base_hw(predictor.data, views, frames.hw)
        for place, (flipped, scale) in zip(range(len(frames.index)), turns, strict=False):
            one, hw = replace(frames, index=frames.index[place : place + 1]), view_hw(out_hw, scale)
            crop = predictor.policy.operations.crop_resize
            image_1CHW = view_input(one, hw, network.spec, crop, torch.float32)
            image_1CHW = network.spec.mirrored(image_1CHW) if flipped else image_1CHW
            found.append(image_1CHW.permute(0, 2, 3, 1).contiguous().numpy())
    return found


def first_convolution(model: "openvino.Model") -> list[str]:
    """The name of the first: what a network loses nothing by, in float32.

    It reads channels of unlike ranges (colour, and depth with holes) by one scale, and costs most
    of the loss and little of the time.
    """
    operations = model.get_ordered_ops()
    return [next(op.get_friendly_name() for op in operations if op.get_type_name() in CONVOLUTIONS)]


def quantised(
    model: "openvino.Model",
    inputs: Sequence[NDArray[np.float32]] | Sequence[list[NDArray[Any]]],
    ignored: Callable[["openvino.Model"], list[str]] = first_convolution,
) -> tuple["openvino.Model", str]:
    """A copy of a model in INT8, by what its layers make of `inputs`, and NNCF's version.

    All but the operations whose names `ignored` gives, by the names that places have.

    Raises:
        RuntimeError: NNCF cannot be imported.
    """
    with _unheard():
        try:
            import nncf
        except ImportError as error:
            raise RuntimeError(
                "runtime.inference = 'openvino-int8' quantises by NNCF, which cannot be imported: "
                f"{error}; {to_install('openvino', 'nncf')}"
            ) from error
        # Not set_log_level, which sets the levels of handlers, too, whoever they belong to.
        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = model.clone()
        int8_network.name_by_place(model)
        found = nncf.quantize(
            model,
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=ignored(model), validate=False),
        )
    return found, nncf.__version__


@contextmanager
def _unheard() -> Iterator[None]:
    """NNCF draws progress, loads parts of PyTorch that miss a GPU, and reports each use.

    The first two clutter what a run tells; the last, to its makers, nobody asked for.
    """
    os.environ.setdefault("NNCF_CI", "1")  # reports nothing
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
