"""`Predictor`: trained networks and frames become class probabilities, by many views.

A view is the frame at one scale, mirrored or not (test-time augmentation). Each view's logits are
turned into probabilities at every temperature, brought back to the base size and added up, so that
one forward pass serves all temperatures.

Axes: B batch, T temperature, C class, H W pixels of the base size, h w cells of stride 4.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from engine.config import Config, InferenceConfig
from engine.data.augment import whole_frame_draws
from engine.data.inputs import CropResize, InputSpec, crop_frames, read_normalisation
from engine.data.sources import FrameBatch, FrameReader
from engine.frames.decode import Sample
from engine.model.encoder import STRIDES
from engine.model.network import Network, Prediction, build_network, input_normalisation
from engine.model.weights import load_network
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.memory import UNLIMITED, PassMemory
from engine.runtime.progress import track
from engine.views.openvino_pass import OpenVinoPass, check_openvino
from kernels.tta_accumulate import zero_total

_log = logging.getLogger(__name__)

VIEW_MULTIPLE = STRIDES[-1]
"""Sides of a view are multiples of this many pixels, the encoder's coarsest stride."""


@dataclass(frozen=True, eq=False)
class FoldNetwork:
    """A network in evaluation mode.

    Attributes:
        fold: number of the fold whose validation frames its weights never saw.
        forward: (B, C, H, W) input to stride-4 prediction; its next call may overwrite what it
            returned.
        spec: of the input.
        memory: for its passes.
    """

    fold: int
    forward: Callable[[Tensor], Prediction]
    spec: InputSpec
    memory: PassMemory = UNLIMITED


@dataclass(frozen=True, eq=False)
class Predictor:
    """Looks at frames with networks: the mean of their probabilities over networks and views.

    Attributes:
        networks: one for out-of-fold frames, all of a run for new frames.
        inference: scales, flip, base size and the T temperatures.
        classes: number of classes C.
        policy: device and precision.
        reader: how frames are read.
    """

    networks: Sequence[FoldNetwork]
    inference: InferenceConfig
    classes: int
    policy: DevicePolicy
    reader: FrameReader

    def predict(
        self, samples: Sequence[Sample], start: int = 0, *, label: bool = False
    ) -> Iterator[tuple[FrameBatch, Tensor]]:
        """Yield frames and their probabilities for `samples[start:]`, in order.

        Frames are grouped in the same way wherever a call starts at the end of a group, so a
        resumed call gives the same bytes.

        Args:
            samples: frames to look at.
            start: frames to pass over.
            label: read the labels too.

        Yields:
            Frames of one size, and (B, T, C, H, W) float32 at the base size.

        Raises:
            RuntimeError: a file cannot be read; the message names it.
        """
        for frames in self.reader.batches(samples, start, label=label):
            yield frames, self.probabilities(frames)

    @torch.inference_mode()
    def probabilities(self, frames: FrameBatch) -> Tensor:
        """(B, T, C, H, W) float32 of frames of one size, on the policy's device."""
        views, networks = self.inference, self.networks
        base_hw = views.base_hw or frames.hw
        total_BTCHW = zero_total(
            len(frames), len(views.temperatures), self.classes, base_hw, self.policy.device
        )
        # The order of the additions is part of the result: float32 sums differ by it in the last
        # bit. Scale, normalisation, flip, network; however many frames a pass takes.
        for scale in views.scales:
            hw = view_hw(base_hw, scale)
            most = min(network.memory.images(hw) for network in networks)
            if most < len(frames):
                _announce_split(hw, most)
            # Networks of one run may have been pretrained in different ways.
            for spec in dict.fromkeys(network.spec for network in networks):
                image_BCHW = view_input(frames, hw, spec, self.policy.operations.crop_resize)
                # One resized input for all networks that want the same.
                seeing = [network for network in networks if network.spec == spec]
                for flipped in (False, True) if views.flip else (False,):
                    view_BCHW = image_BCHW.flip(-1) if flipped else image_BCHW
                    for first in range(0, len(frames), most):
                        rows = slice(first, first + most)
                        self._add(total_BTCHW[rows], view_BCHW[rows], seeing, hw, flipped)
        # A mean over views and networks of softmax(logits / T), each resized to the base size.
        return total_BTCHW.div_(len(views.scales) * (1 + views.flip) * len(networks))

    def masks(
        self, samples: Sequence[Sample], start: int = 0
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the position of a batch's first frame, and its (B, H, W) classes.

        Each mask has its frame's own size; the first of the T temperatures counts.
        """
        for frames, prob_BTCHW in self.predict(samples, start):
            mask_BHW = self.policy.operations.resized_argmax(prob_BTCHW[:, 0], frames.hw)
            yield frames.first, mask_BHW.cpu().numpy()

    @torch.inference_mode()
    def confusion(self, samples: Sequence[Sample]) -> NDArray[np.int64]:
        """(C, C) counts of labelled frames at the labels' own resolution, truth by prediction.

        The first of the T temperatures counts.
        """
        shape = (self.classes, self.classes)
        count_CC = torch.zeros(shape, dtype=torch.int64, device=self.policy.device)
        with track("validation", len(samples)) as advance:
            for frames, prob_BTCHW in self.predict(samples, label=True):
                assert frames.label_BHW is not None, "the caller has labelled frames"
                prob_BCHW = prob_BTCHW[:, 0]
                count_CC += self.policy.operations.probability_confusion(
                    prob_BCHW, frames.label_BHW
                )
                advance(len(frames))
        return count_CC.cpu().numpy()

    def single_view(self) -> "Predictor":
        """The same networks looking once at each frame, at its base size and temperature 1."""
        once = {"scales": (1.0,), "flip": False, "temperatures": (1.0,)}
        return replace(self, inference=self.inference.model_copy(update=once))

    def at(self, temperature: float) -> "Predictor":
        """The same networks and views at one temperature."""
        inference = self.inference.model_copy(update={"temperatures": (temperature,)})
        return replace(self, inference=inference)

    def _add(
        self,
        total_BTCHW: Tensor,
        view_BCHW: Tensor,
        networks: Sequence[FoldNetwork],
        hw: tuple[int, int],
        flipped: bool,
    ) -> None:
        """Add what each network sees in a view."""
        view_BCHW = view_BCHW.contiguous(memory_format=torch.channels_last)
        for network in networks:
            self.policy.operations.tta_accumulate(
                total_BTCHW,
                network.forward(view_BCHW).logits_BChw,
                self.inference.temperatures,
                view_hw=hw,
                flipped=flipped,
                align_corners=Network.align_corners,
            )


def open_predictor(
    config: Config, run: RunDir, folds: Sequence[int], policy: DevicePolicy
) -> Predictor:
    """Folds of a run, loaded to predict by the views and temperatures of its config.

    Raises:
        FileNotFoundError: a fold has no weights yet.
        RuntimeError: see `load_fold`.
    """
    networks = [load_fold(config, run, fold, policy) for fold in folds]
    reader = FrameReader(
        policy.device,
        config.inference.batch_size,
        depth=any(network.spec.has_depth for network in networks),
        workers=config.runtime.workers,
    )
    return Predictor(networks, config.inference, len(config.data.classes), policy, reader)


def check_runtime(config: Config, device: torch.device) -> None:
    """Refuse a `runtime.inference` that cannot run here, before any long work.

    Raises:
        RuntimeError: naming what is missing.
    """
    if config.runtime.inference == "openvino":
        check_openvino(device)


def load_fold(config: Config, run: RunDir, fold: int, policy: DevicePolicy) -> FoldNetwork:
    """Load `best.safetensors` of a fold.

    It may be a file of segmentation_models_pytorch that somebody put in the place of ours; that is
    logged, because nothing tells which frames such weights were trained on.

    Raises:
        FileNotFoundError: the fold has no weights yet.
        RuntimeError: the file is damaged or does not fit the config's network, or
            `runtime.inference` cannot run it here.
    """
    path, channels = run.best(fold), config.model.in_channels
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; train fold {fold} first")
    network = build_network(config.model, len(config.data.classes), initial_weights=False)
    try:
        load_network(network, path)
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"{path} does not hold the weights of this config's network: {error}"
        ) from error
    with safe_open(path, framework="pt") as file:
        if "roomsmith" not in (file.metadata() or {}):
            _log.warning(
                "%s was not written by engine.train; whether it was trained on the fold's "
                "validation frames cannot be told here",
                path,
            )
    network.to(policy.device).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(False)
    memory = PassMemory.of(network, channels, policy.device, config.runtime.memory_gib)
    check_runtime(config, policy.device)
    forward: Callable[[Tensor], Prediction] = (
        OpenVinoPass(network, channels)
        if config.runtime.inference == "openvino"
        else policy.evaluation(network)
    )
    # The weights that training began with may be gone by now.
    normalisation = read_normalisation(path) or input_normalisation(config.model)
    return FoldNetwork(fold, forward, InputSpec.of(config.model, normalisation), memory)


def view_hw(base_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """floor(base * scale / 32) * 32 in each direction, at least 32."""
    height, width = (
        max(int(side * scale + 1e-6) // VIEW_MULTIPLE, 1) * VIEW_MULTIPLE for side in base_hw
    )
    return height, width


def view_input(
    frames: FrameBatch, hw: tuple[int, int], spec: InputSpec, crop: CropResize
) -> Tensor:
    """The frames as network input of size `hw`: image bilinear, depth nearest.

    Returns:
        (B, C, hw) float32, channels-last, normalised.
    """
    hw_N2 = np.tile(np.array(frames.hw, np.int64), (len(frames.frames.offset_N), 1))
    draws = whole_frame_draws(frames.index, hw_N2)
    return crop_frames(frames.frames, draws, hw, spec, crop).image_BChw


@functools.cache
def _announce_split(hw: tuple[int, int], most: int) -> None:
    _log.info("views of %d x %d: %d a pass, free memory holds no more", *hw, most)
