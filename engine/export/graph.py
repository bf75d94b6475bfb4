"""A run, a fold of one or a blend as one module of plain PyTorch: a frame in, its mask out.

It computes what `Predictor` and `Mixture` do by kernels: the frame resized to each view, with its
depth encoded, and normalised; the networks; softmax at the temperature; views brought back to one
size and added up; runs weighted. A frame may have any size where those of its views do not depend
on it.

Axes: B one frame, C class, H W pixels of the frame, h w of a view or of the base size, 2 a view and
its mirror image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import Config
from engine.data.inputs import InputSpec
from engine.data.surface import Surface, cell_side
from engine.export.sizes import Size
from engine.export.surface import normal_cells
from engine.model.network import Network
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M, MILLIMETRES_PER_METRE
from engine.views.zoom import base_hw, view_hw


class Member(nn.Module):
    """A run's networks and how they look; all of its own, at one temperature.

    Args:
        networks: in evaluation mode, of the folds that look.
        specs: what each sees.
        config: of the run: its views.
        temperature: of the softmax.
        hw: of the frames, where the views' sizes follow it.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        specs: Sequence[InputSpec],
        config: Config,
        temperature: float,
        hw: Size | None,
    ) -> None:
        super().__init__()
        self.networks, self.specs = nn.ModuleList(networks), tuple(specs)
        rgbs = [spec.normalisation for spec in dict.fromkeys(specs)]
        means, stds = ([each.mean for each in rgbs], [each.std for each in rgbs])
        self.register_buffer("mean_S311", torch.tensor(means)[..., None, None])
        self.register_buffer("std_S311", torch.tensor(stds)[..., None, None])
        self.mean_S311: Tensor
        self.std_S311: Tensor
        self.temperature, self.flip = temperature, config.inference.flip
        self.base_hw = base_hw(config.data, config.inference, hw or (1, 1))
        self.views_hw = [view_hw(self.base_hw, scale) for scale in config.inference.scales]

    def forward(self, image_B3HW: Tensor, depth_BHW: Tensor | None) -> Tensor:
        """(B, C, *base_hw) mean probabilities over views and networks.

        Args:
            image_B3HW: (1, 3, H, W) float32, 0..255.
            depth_BHW: (1, H, W) float32, thousandths of units, 0 = missing; None if none sees it.
        """
        total_BCHW: Tensor | None = None
        cells: dict[Surface | None, Tensor] = {
            spec.surface: normal_cells(depth_BHW, spec.surface)
            for spec in self.specs
            if spec.surface is not None and depth_BHW is not None
        }
        for hw in self.views_hw:
            for spec, mean_311, std_311 in zip(
                dict.fromkeys(self.specs), self.mean_S311, self.std_S311, strict=True
            ):
                rgb_B3hw = F.interpolate(image_B3HW, size=hw, mode="bilinear", align_corners=False)
                rgb_B3hw = (rgb_B3hw - mean_311) / std_311
                of_frame = depth_BHW, cells.get(spec.surface)
                view_BChw = _with_depth(rgb_B3hw, *of_frame, hw, spec)
                if self.flip:
                    view_BChw = torch.cat([view_BChw, _mirrored(view_BChw, spec)])
                for network, own in zip(self.networks, self.specs, strict=True):
                    if own == spec:
                        prob_BCHW = self._at_base(network(view_BChw).logits_BChw, hw)
                        total_BCHW = prob_BCHW if total_BCHW is None else total_BCHW + prob_BCHW
        assert total_BCHW is not None, "a run has networks"
        views = len(self.views_hw) * (1 + self.flip) * len(self.specs)
        return total_BCHW / views

    def _at_base(self, logits_2Chw: Tensor, hw: Size) -> Tensor:
        """The sum of the probabilities of a view and its mirror image, if there is one."""
        logits_2Chw = F.interpolate(
            logits_2Chw, size=hw, mode="bilinear", align_corners=Network.align_corners
        )
        prob_2Chw = torch.softmax(logits_2Chw / self.temperature, dim=1)
        if self.flip:
            prob_2Chw = prob_2Chw[:1] + prob_2Chw[1:].flip(-1)
        if hw == self.base_hw:
            return prob_2Chw
        return F.interpolate(prob_2Chw, size=self.base_hw, mode="bilinear", align_corners=False)


class Graph(nn.Module):
    """Members and their weights; `hw` None takes frames of any size.

    Attributes:
        has_depth: whether a network sees depth: then `forward` takes it.
        views_hw: sizes of the views of all members, each once.
        flips: whether some look at mirror images, too.

    Args:
        members: of one run, or of several.
        weights: by member and class, of a blend; a lone run has none.
        invalid: depths that mean missing, besides 0.
        hw: height and width of frames.
    """

    def __init__(
        self,
        members: Sequence[Member],
        weights: Sequence[Sequence[float]] | None,
        invalid: Sequence[int],
        hw: Size | None,
    ) -> None:
        super().__init__()
        self.members, self.hw = nn.ModuleList(members), hw
        self.has_depth = any(spec.has_depth for member in members for spec in member.specs)
        self.views_hw = list(dict.fromkeys(hw for member in members for hw in member.views_hw))
        self.flips = any(member.flip for member in members)
        self.invalid = [value for value in invalid if value]
        weight_MC = torch.tensor(weights or [[1.0]], dtype=torch.float32)
        self.register_buffer("weight_MC", weight_MC)
        self.weight_MC: Tensor

    def forward(self, image_BHW3: Tensor, depth_BHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mask and how certain it is.

        Args:
            image_BHW3: (1, H, W, 3) uint8 RGB, upright.
            depth_BHW: (1, H, W) uint16 or int32, units of the run's depth maps.

        Returns:
            (1, H, W) uint8 class indices; (1, H, W) uint8, 255 = the likeliest class is certain.
        """
        hw = self.hw or (image_BHW3.shape[1], image_BHW3.shape[2])
        image_B3HW = image_BHW3.permute(0, 3, 1, 2).to(torch.float32)
        if depth_BHW is not None:
            depth_BHW = depth_BHW.to(torch.float32)
            for value in self.invalid:
                depth_BHW = torch.where(depth_BHW == value, 0.0, depth_BHW)
            depth_BHW = depth_BHW / MILLIMETRES_PER_METRE
        prob_BCHW: Tensor | None = None
        for member, weight_C in zip(self.members, self.weight_MC, strict=True):
            own_BCHW = member(image_B3HW, depth_BHW)
            # A frame of any size is not asked whether it has that of the views.
            if self.hw != member.base_hw:
                own_BCHW = F.interpolate(own_BCHW, size=hw, mode="bilinear", align_corners=False)
            if len(self.members) > 1:
                own_BCHW = weight_C[:, None, None] * own_BCHW
            prob_BCHW = own_BCHW if prob_BCHW is None else prob_BCHW + own_BCHW
        assert prob_BCHW is not None, "there are members"
        best_BHW, mask_BHW = prob_BCHW.max(dim=1)
        certain_BHW = (best_BHW * 255).round().clamp(0, 255)
        return mask_BHW.to(torch.uint8), certain_BHW.to(torch.uint8)


def _with_depth(
    rgb_B3hw: Tensor,
    depth_BHW: Tensor | None,
    cells_13hw: Tensor | None,
    hw: Size,
    spec: InputSpec,
) -> Tensor:
    """(1, channels, *hw): what a network sees, as `engine.views.predictor.view_input` has it.

    Behind it the normals of its frame's cells if there are such, 0 where it has no depth.
    """
    if not spec.has_depth:
        return spec.complete(rgb_B3hw, torch.zeros(1, *hw))
    assert depth_BHW is not None, "a graph whose networks see depth is given it"
    rows_h, columns_w = (
        _nearest(side, cells) for side, cells in zip(depth_BHW.shape[1:], hw, strict=True)
    )
    depth_Bhw = depth_BHW.index_select(1, rows_h).index_select(2, columns_w)
    parts = [rgb_B3hw, _inverse_depth(depth_Bhw, spec)[:, None]]
    if cells_13hw is not None:
        side = cell_side(tuple(depth_BHW.shape[1:]))
        normal_B3hw = cells_13hw.index_select(2, rows_h // side).index_select(3, columns_w // side)
        parts.append(torch.where(depth_Bhw[:, None] > 0, normal_B3hw, 0.0))
    image_BChw = torch.cat(parts, dim=1)
    return spec.complete(image_BChw, depth_Bhw * spec.mm_a_unit)


def _mirrored(view_BChw: Tensor, spec: InputSpec) -> Tensor:
    """As `InputSpec.mirrored`, of operations that change nothing in place."""
    flipped_BChw = view_BChw.flip(-1)
    if spec.surface is None:
        return flipped_BChw
    sign_C = torch.ones(view_BChw.shape[1])
    sign_C[-spec.surface.channels :] = torch.tensor(spec.surface.mirrored)
    return flipped_BChw * sign_C[:, None, None]


def _nearest(side: int, cells: int) -> Tensor:
    """Of each cell's centre the pixel that it lies in: floor((i + 1/2) side / cells), exactly."""
    return torch.div((2 * torch.arange(cells) + 1) * side, 2 * cells, rounding_mode="floor")


def _inverse_depth(depth_Bhw: Tensor, spec: InputSpec) -> Tensor:
    nearest, farthest = DEPTH_MIN_M / spec.mm_a_unit, DEPTH_MAX_M / spec.mm_a_unit
    near, far = 1 / nearest, 1 / farthest
    inverse_Bhw = 1 / depth_Bhw.clamp(nearest, farthest)
    return torch.where(depth_Bhw > 0, (inverse_Bhw - far) / (near - far), 0.0)
