"""Views of whole frames: cv2.resize before the network, softmax and cv2.resize after it.

Axes: B frames of a batch, T temperatures, C classes, H W pixels of the base size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.plain.data import Array, frame_loader, with_depth
from benchmarks.plain.model import DepthFpn
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import confusion
from engine.config import Config
from engine.frames.decode import Sample
from engine.model.network import input_normalisation

Frames = Sequence[tuple[Array, Array, Array]]
"""Image, depth and label of each frame, as `benchmarks.plain.data.read_frames` gives them."""


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode and how it is applied."""

    model: DepthFpn
    config: Config
    recipe: Recipe

    def validate(self, samples: Sequence[Sample]) -> NDArray[np.int64]:
        """(C, C) confusion of single-view predictions at the labels' own resolution."""
        classes = len(self.config.data.classes)
        count_CC = np.zeros((classes, classes), np.int64)
        for frames in self.batches(samples):
            prob_TBHWC = self.view_probabilities(frames, 1.0, flip=False)
            for prob_HWC, (_, _, label_HW) in zip(prob_TBHWC[0], frames, strict=True):
                count_CC += confusion(winners(prob_HWC, label_HW.shape), label_HW, classes)
        return count_CC

    def predict_fold(self, samples: Sequence[Sample]) -> Iterator[tuple[Array, Array]]:
        """Yield every frame's mean over views at every temperature, (T, H, W, C), and its label."""
        temperatures = self.config.inference.temperatures
        for frames in self.batches(samples):
            if self.recipe.shared_passes:
                prob_TBHWC = self.mean_over_views(frames, temperatures)
            else:
                # As the published scripts do: each temperature is a prediction of its own.
                prob_TBHWC = np.concatenate(
                    [self.mean_over_views(frames, (t,)) for t in temperatures]
                )
            for b, (_, _, label_HW) in enumerate(frames):
                yield prob_TBHWC[:, b], label_HW

    def mean_over_views(self, frames: Frames, temperatures: Sequence[float]) -> NDArray[np.float32]:
        """(T, B, H, W, C) mean probabilities over scales and flips; one pass a view."""
        flips = (False, True) if self.config.inference.flip else (False,)
        (first, *rest) = ((scale, flip) for scale in self.config.inference.scales for flip in flips)
        total_TBHWC = self.view_probabilities(frames, first[0], temperatures, flip=first[1])
        for scale, flip in rest:
            total_TBHWC += self.view_probabilities(frames, scale, temperatures, flip=flip)
        total_TBHWC /= 1 + len(rest)
        return total_TBHWC

    @torch.inference_mode()
    def view_probabilities(
        self, frames: Frames, scale: float, temperatures: Sequence[float] = (1.0,), *, flip: bool
    ) -> NDArray[np.float32]:
        """(T, B, H, W, C) probabilities of one view at the base size."""
        base_hw = self.config.inference.base_hw or frames[0][0].shape[:2]
        view_hw = tuple(max(int(side * scale + 1e-6) // 32, 1) * 32 for side in base_hw)
        images = np.stack([_network_input(frame, view_hw, self.config) for frame in frames])
        image_BCHW = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(self.recipe.device)
        format_ = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        image_BCHW = image_BCHW.contiguous(memory_format=format_)
        with self.recipe.autocast():
            logits_BCHW, _ = self.model(image_BCHW.flip(-1) if flip else image_BCHW)
        out_TBHWC = np.empty((len(temperatures), len(frames), *base_hw, logits_BCHW.shape[1]), "f4")
        for t, temperature in enumerate(temperatures):
            prob_BCHW = F.softmax(logits_BCHW.float() / temperature, dim=1)
            prob_BCHW = prob_BCHW.flip(-1) if flip else prob_BCHW
            for b, prob_HWC in enumerate(prob_BCHW.permute(0, 2, 3, 1).cpu().numpy()):
                out_TBHWC[t, b] = resized(prob_HWC, base_hw)
        return out_TBHWC

    def batches(self, samples: Sequence[Sample]) -> Iterator[Frames]:
        """The frames, decoded by a DataLoader."""
        size, depth = self.config.inference.batch_size, self.config.model.input == "rgbd"
        yield from frame_loader(samples, size, workers=self.recipe.workers, depth=depth)


def resized(map_HWC: Array, hw: Sequence[int]) -> Array:
    """Bilinear resizing by OpenCV."""
    small_HWC: Array = cv2.resize(
        np.ascontiguousarray(map_HWC), (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR
    )
    return small_HWC


def winners(prob_HWC: Array, hw: Sequence[int]) -> NDArray[np.uint8]:
    """(H, W) classes of largest probability at another size."""
    mask_HW: NDArray[np.uint8] = resized(prob_HWC, hw).argmax(axis=2).astype(np.uint8)
    return mask_HW


def _network_input(
    frame: tuple[Array, Array, Array], hw: Sequence[int], config: Config
) -> NDArray[np.float32]:
    image_HW3, depth_HW, _ = frame
    normalisation = input_normalisation(config.model)
    image_hw3 = resized(image_HW3, hw).astype(np.float32)
    image_hw3 -= np.array(normalisation.mean, np.float32)
    image_hw3 /= np.array(normalisation.std, np.float32)
    if config.model.input == "rgb":
        return image_hw3
    depth_hw = cv2.resize(depth_HW, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)
    return with_depth(image_hw3, depth_hw)
