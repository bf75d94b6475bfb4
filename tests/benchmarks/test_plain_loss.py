"""The rival's losses are the engine's, written for full-resolution predictions.

Axes: B batch, C class, H W pixels, h w stride-4 cells.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.plain.loss import RecipeLoss
from benchmarks.scene import blocky_labels
from engine.config import Config
from engine.training.step import class_weights, depth_l1
from kernels.boundary_ce.reference import boundary_ce

# A few dozen blocks of labels, edges and unlabelled patches among them.
_SHAPE = 2, 96, 128


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"boundary_weight": 2.0},
        {"boundary_weight": 2.0, "ignored_edges": True},
        {"class_weights": {"books": 1.5, "tv": 3.0}},
    ],
    ids=["cross-entropy", "boundary", "ignored-edges", "class-weights"],
)
def test_the_loss_equals_the_engines_reference_on_the_same_logits(training: dict[str, Any]) -> None:
    config = Config.model_validate({"training": training})
    batch, height, width = _SHAPE
    generator = torch.Generator().manual_seed(0)
    logits_BChw = torch.randn(batch, 13, height // 4, width // 4, generator=generator)
    depth_Bhw = torch.rand(batch, height // 4, width // 4, generator=generator)
    depth_m_BHW = 12 * torch.rand(_SHAPE, generator=generator)
    depth_m_BHW[depth_m_BHW < 1] = 0
    label_BHW = blocky_labels(_SHAPE, 13)

    logits_BCHW, depth_B1HW = (
        F.interpolate(part, scale_factor=4, mode="bilinear", align_corners=True)
        for part in (logits_BChw, depth_Bhw[:, None])
    )
    total, segmentation, depth = RecipeLoss(config, "cpu")(
        logits_BCHW, depth_B1HW[:, 0], label_BHW.long(), depth_m_BHW
    )

    expected = boundary_ce(
        logits_BChw,
        label_BHW,
        class_weights(config.training, config.data.classes, torch.device("cpu")),
        config.training.boundary_weight,
        align_corners=True,
        ignored_edges=config.training.ignored_edges,
    )
    expected_depth = depth_l1(depth_Bhw, depth_m_BHW)
    torch.testing.assert_close(segmentation, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(depth, expected_depth, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total, expected + 0.1 * expected_depth, rtol=1e-5, atol=1e-6)
