"""Several runs that look at a frame together.

Axes: M run, B batch, T temperature, C class, H W pixels of a frame.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.data.sources import FrameReader
from engine.runtime.device import DevicePolicy
from engine.views.masks import Rows
from engine.views.predictor import Predictor


@dataclass(frozen=True, eq=False)
class Mixture:
    """The weighted sum of several runs' probabilities; a `System`."""

    predictors: Sequence[Predictor]
    """M runs, each with its own views at its own temperature; its mean over views and folds is
    resized to the frame before it is weighted"""
    weight_MC: NDArray[np.float64]
    """(M, C) weight of each run and class"""

    @property
    def policy(self) -> DevicePolicy:
        """Of all of them."""
        return self.predictors[0].policy

    @property
    def reader(self) -> FrameReader:
        """What each of them can take."""
        readers = [predictor.reader for predictor in self.predictors]
        return replace(
            readers[0],
            batch_size=min(reader.batch_size for reader in readers),
            depth=any(reader.depth for reader in readers),
        )

    @cached_property
    def _weights(self) -> Tensor:
        weight_MC = torch.from_numpy(self.weight_MC)
        return weight_MC.to(self.policy.device, torch.float32)[..., None, None]

    @torch.inference_mode()
    def rows(self, frames: FrameBatch) -> Iterator[Rows]:
        """All rows of the frames, at their size; see `System`."""
        sized = (rows.at_size() for each in self.predictors for rows in each.rows(frames))
        yield Rows(self.blended(sized), frames.hw)

    def blended(self, each: Iterable[Tensor]) -> Tensor:
        """The weighted sum of M tensors (..., C, H, W), each of which is asked for in turn."""
        blend_CHW = torch.zeros((), device=self.policy.device)
        for prob_CHW, weight_C11 in zip(each, self._weights, strict=True):
            blend_CHW = blend_CHW + weight_C11 * prob_CHW
        return blend_CHW
