"""The rival's network takes the engine's weights and predicts the same."""

import pytest
import torch
import torch.nn.functional as F

from engine.config import Config
from engine.model.network import build_network

pytest.importorskip("segmentation_models_pytorch", reason="needs 'roomsmith[test]' or '[bench]'")

from benchmarks.plain.model import DepthFpn


def test_the_engines_weights_fit_and_predict_the_same(tiny_config: Config) -> None:
    torch.manual_seed(0)
    ours = build_network(tiny_config.model, 13).eval()
    theirs = DepthFpn(tiny_config.model, 13).eval()
    theirs.load_state_dict(ours.state_dict())
    image_BCHW = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        logits_BCHW, depth_BHW = theirs(image_BCHW)
        prediction = ours(image_BCHW)
    parts = (
        (prediction.logits_BChw, logits_BCHW),
        (prediction.depth_Bhw[:, None], depth_BHW[:, None]),
    )
    for quarter, full in parts:
        upsampled = F.interpolate(quarter, scale_factor=4, mode="bilinear", align_corners=True)
        torch.testing.assert_close(full, upsampled, rtol=0, atol=1e-4)


def test_stochastic_depth_reaches_the_encoder(tiny_config: Config) -> None:
    from timm.layers.drop import DropPath

    model = DepthFpn(tiny_config.model.model_copy(update={"drop_path": 0.5}), 13)
    rates = [part.drop_prob for part in model.modules() if isinstance(part, DropPath)]
    assert max(rate or 0.0 for rate in rates) > 0.1
