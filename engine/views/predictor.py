"""`Predictor`: trained networks and frames become class probabilities, by many views.

A view is the frame at one scale, mirrored or not (test-time augmentation). Each view's logits are
turned into probabilities at every temperature, brought back to the base size and added up, so that
one forward pass serves all temperatures.

Axes: B batch, T temperature, C class, H W pixels of the base size, h w cells of stride 4.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import interrupts, sums
from engine.config import Config, DataConfig, InferenceConfig
from engine.data import inputs
from engine.data.batch import FrameBatch
from engine.data.sources import FrameReader
from engine.frames.decode import Sample
from engine.identity import file_hash
from engine.model.network import Network, Prediction, build_network, input_normalisation, load_best
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.memory import frames_a_pass, pass_bytes, pass_pixels
from engine.runtime.progress import track
from engine.views import int8_network
from engine.views.masks import Rows
from engine.views.openvino_pass import OpenVinoPass, convert
from engine.views.sampled import loss_sum
from engine.views.view_sum import ViewSum
from engine.views.zoom import base_hw, view_hw
from kernels.tta_accumulate import View, zero_total

if TYPE_CHECKING:
    # Not to predict in one process.
    from engine.distributed.world import World

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FoldNetwork:
    """A network in evaluation mode, whose weights never saw the validation frames of its fold."""

    fold: int
    """its number; of several in each fold see `Config.members`"""
    forward: Callable[[Tensor], Prediction]
    """(B, C, H, W) input to stride-4 prediction, which its next call may overwrite"""
    spec: inputs.InputSpec
    pass_pixels: Callable[[int], float] = lambda _: math.inf
    """pixels of input, of so many, that memory holds in a pass; asked for more than one frame"""
    eager: Callable[[Tensor], Prediction] | None = None
    """`forward` layer by layer, for what looks at layers; None if it is not by PyTorch"""


@dataclass(frozen=True, eq=False)
class Predictor:
    """Looks at frames with networks: the mean of their probabilities over networks and views."""

    networks: Sequence[FoldNetwork]
    """of one fold for out-of-fold frames, all of a run for new frames"""
    inference: InferenceConfig
    """scales, flip, base size and the T temperatures"""
    data: DataConfig
    """the classes, and the zoom of training"""
    policy: DevicePolicy
    reader: FrameReader

    def predict(
        self,
        samples: Sequence[Sample],
        start: int = 0,
        *,
        label: bool = False,
        turn: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[FrameBatch, Tensor]]:
        """Yield each of `FrameReader.batches` and its `probabilities`.

        From the end of any batch on the others are the same: a resumed call gives the same bytes.
        """
        for frames in self.reader.batches(samples, start, label=label, turn=turn):
            yield frames, self.probabilities(frames)

    @torch.inference_mode()
    def probabilities(self, frames: FrameBatch) -> Tensor:
        """(B, T, C, H, W) float32 at the base size, on the policy's device."""
        views, networks, operations = self.inference, self.networks, self.policy.operations
        out_hw, T = base_hw(self.data, views, frames.hw), len(views.temperatures)
        classes, device = len(self.data.classes), self.policy.device
        total_BTCHW = zero_total(len(frames.index), T, classes, out_hw, device)
        # The order of the additions is part of the result: float32 sums differ by it in the last
        # bit. Scale, normalisation, flip, network; however many frames a pass takes. Networks of
        # one run may have been pretrained in different ways, so not all want the same input.
        total = ViewSum(total_BTCHW, views.temperatures, operations.tta_accumulate)
        specs = dict.fromkeys(network.spec for network in networks)
        for scale, spec in itertools.product(views.scales, specs):
            hw = view_hw(out_hw, scale)
            most = len(frames.index)
            if most > 1:
                pixels = min(n.pass_pixels(most * math.prod(hw)) for n in networks)
                most = frames_a_pass(pixels, hw, most)
            crop, dtype = operations.crop_resize, self.policy.input_dtype
            image_BCHW = view_input(frames, hw, spec, crop, dtype)
            for flipped in (False, True)[: 1 + views.flip]:
                view_BCHW = spec.mirrored(image_BCHW) if flipped else image_BCHW
                parts = [
                    part_BCHW.contiguous(memory_format=torch.channels_last)
                    for part_BCHW in torch.split(view_BCHW, most)
                ]
                for network in (network for network in networks if network.spec == spec):
                    logits = (network.forward(part_BCHW).logits_BChw for part_BCHW in parts)
                    total.add(logits, View(hw, flipped, Network.align_corners))
        total.finish()
        # A mean over views and networks of softmax(logits / T), each resized to the base size.
        return total_BTCHW.div_(len(views.scales) * (1 + views.flip) * len(networks))

    def rows(self, frames: FrameBatch) -> Iterator[Rows]:
        """All rows of the frames, at the first of the T temperatures; see `System`."""
        yield Rows(self.probabilities(frames)[:, 0], frames.hw)

    def counts(self, frames: FrameBatch, prob_BTCHW: Tensor) -> Tensor:
        """(T, C, C) int64 counts at the labels' own resolution, truth by prediction."""
        label_BHW, count = frames.label_BHW, self.policy.operations.probability_confusion
        assert label_BHW is not None, "the caller has labelled frames"
        return torch.stack([count(prob_BCHW, label_BHW) for prob_BCHW in prob_BTCHW.unbind(1)])

    def confusion(self, samples: Sequence[Sample]) -> NDArray[np.int64]:
        """(C, C) sum of the `counts` of labelled frames at the first of the T temperatures."""
        return self.validate(samples)[0]

    def validate(
        self, samples: Sequence[Sample], world: "World | None" = None
    ) -> tuple[NDArray[np.int64], float | None]:
        """`confusion`, and the mean of -log p over the `sampled` labels; None if there are none.

        The processes of a `world` look at the batches in turns; each gets what one alone would.
        """
        if world is not None and world.size > 1:
            from engine.views.together import validate

            return validate(self, samples, world)
        counts: list[Tensor] = []
        losses: list[Tensor] = []
        with track("validation", len(samples)) as advance:
            for frames, prob_BTCHW in self.predict(samples, label=True):
                counts.append(self.counts(frames, prob_BTCHW[:, :1])[0])
                assert frames.label_BHW is not None, "asked for"
                losses.append(loss_sum(prob_BTCHW[:, 0], frames.label_BHW))
                advance(len(frames.index))
                interrupts.checkpoint()
        loss, pixels = torch.stack(losses).sum(dim=0).tolist()
        count_CC: NDArray[np.int64] = torch.stack(counts).sum(dim=0).cpu().numpy()
        return count_CC, loss / pixels if pixels else None

    def single_view(self) -> "Predictor":
        """The same networks looking once at each frame, at base size and temperature 1."""
        once = {"scales": (1.0,), "flip": False, "temperatures": (1.0,)}
        return replace(self, inference=self.inference.model_copy(update=once))

    def at(self, temperature: float) -> "Predictor":
        """The same networks and views at one temperature."""
        inference = self.inference.model_copy(update={"temperatures": (temperature,)})
        return replace(self, inference=inference)


def open_predictor(
    config: Config, run: RunDir, folds: Sequence[int], policy: DevicePolicy
) -> Predictor:
    """Folds of a run, to predict by the views and temperatures of its config; see `load_fold`."""
    networks = [load_fold(config, run, fold, policy) for fold in folds]
    views, depth = config.inference, any(network.spec.has_depth for network in networks)
    reader = FrameReader(policy.device, views.batch_size, depth, config.runtime.workers)
    return Predictor(networks, views, config.data, policy, reader)


def load_fold(config: Config, run: RunDir, fold: int, policy: DevicePolicy) -> FoldNetwork:
    """Open a fold to predict with, by what the config says that runs it.

    Raises as `load_network`; a FileNotFoundError if there is no network in INT8, which is asked
    for, and a RuntimeError as of `check_openvino`.
    """
    config = config.of_network(fold)
    network, spec = load_network(config, run, fold)
    network.to(policy.device)
    path, channels = run.best(fold), config.model.in_channels
    runtime = config.runtime
    count = functools.cache(functools.partial(pass_bytes, network, channels))
    pixels = functools.partial(pass_pixels, count, policy.device, runtime.memory_gib)
    forward: Callable[[Tensor], Prediction] = policy.evaluation(network)
    eager: Callable[[Tensor], Prediction] | None = policy.eager(network)
    if config.openvino:
        eager = None
    if config.int8:
        forward = OpenVinoPass(int8_network.read(run, fold, file_hash(path)))
    elif config.openvino:
        bf16 = policy.autocast_dtype == torch.bfloat16
        forward = OpenVinoPass(convert(network, channels), bf16=bf16)
    return FoldNetwork(fold, forward, spec, functools.cache(pixels), eager)


def load_network(config: Config, run: RunDir, fold: int) -> tuple[Network, inputs.InputSpec]:
    """A fold's network of `best.safetensors`, in evaluation mode on the CPU, and what it sees.

    A file that is not ours is logged.

    Raises:
        FileNotFoundError: the fold has no weights yet.
        DamageError: they are not those that were written.
        RuntimeError: they are another network's.
    """
    path = run.best(fold)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; train fold {fold} first")
    sums.check(path)
    config = config.of_network(fold)
    network = build_network(config.model, len(config.data.classes), initial_weights=False)
    try:
        load_best(network, path)
    except (ValueError, RuntimeError) as error:
        mismatch = f"{path} does not hold the weights of this config's network"
        raise RuntimeError(f"{mismatch}: {error}") from error
    trained = inputs.read_normalisation(path)
    if trained is None:
        _log.warning(
            "%s was not written by engine.train; whether it was trained on the fold's "
            "validation frames cannot be told here",
            path,
        )
    network.eval().requires_grad_(False)
    # The weights that training began with may be gone by now.
    return network, inputs.InputSpec.of(config, trained or input_normalisation(config.model))


def view_input(
    frames: FrameBatch,
    hw: tuple[int, int],
    spec: inputs.InputSpec,
    crop: inputs.CropResize,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(B, C, hw) normalised, channels-last: image bilinear, depth nearest; see `crop_frames`."""
    box_B4 = frames.box_B4
    if box_B4 is None:
        box_B4 = np.tile(np.array([0.0, 0.0, *frames.hw]), (len(frames.index), 1))
    draws = inputs.plain_draws(frames.index, box_B4)
    return inputs.crop_frames(frames.frames, draws, hw, spec, crop, dtype).image_BChw
