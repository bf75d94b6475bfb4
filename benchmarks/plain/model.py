"""segmentation_models_pytorch's FPN with a second head that predicts depth.

Shapes: B batch, C classes, H W pixels of the input.
"""

from collections.abc import Mapping

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from benchmarks.plain.recipe import Recipe
from engine.config import Config, ModelConfig
from engine.model.weights import load_weights

State = Mapping[str, Tensor]
"""Weights by name."""


class DepthFpn(nn.Module):
    """smp's FPN and a depth head on its decoder; both are upsampled to the input's size."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        if config.decoder != "fpn":
            raise ValueError(f"the plain recipe has the decoder fpn, not {config.decoder!r}")
        dropped = {"drop_path_rate": config.drop_path} if config.drop_path else {}
        fpn = smp.FPN(
            f"tu-{config.encoder}",
            encoder_weights=None,
            in_channels=config.in_channels,
            classes=classes,
            decoder_pyramid_channels=config.pyramid_channels,
            decoder_segmentation_channels=config.segmentation_channels,
            decoder_dropout=config.dropout,
            **dropped,
        )
        self.encoder, self.decoder = fpn.encoder, fpn.decoder
        self.segmentation_head = fpn.segmentation_head
        width = config.segmentation_channels
        self.depth_head = smp.base.SegmentationHead(width, 1, kernel_size=1, upsampling=4)
        smp.base.initialization.initialize_head(self.depth_head)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) and normalised depth (B, H, W)."""
        decoded = self.decoder(self.encoder(image_BCHW))
        return self.segmentation_head(decoded), self.depth_head(decoded)[:, 0]


def build_model(config: Config, recipe: Recipe, state: State | None = None) -> DepthFpn:
    """A network on the recipe's device, in its memory format.

    Args:
        config: the experiment.
        recipe: how.
        state: weights, the engine's names among them; None = the starting weights that the config
            names, the engine's own tensors.

    Raises:
        ValueError: the config has a decoder that the plain recipe lacks.
        RuntimeError: the weights cannot be had, or their keys are not the model's.
    """
    model = DepthFpn(config.model, len(config.data.classes))
    if state is not None:
        model.load_state_dict(state)
    elif config.model.weights != "none":
        load_weights(model, config.model)
    if torch.device(recipe.device).type == "cuda":
        # Crops have one size: trying every algorithm once is what one does.
        torch.backends.cudnn.benchmark = True
    model = model.to(recipe.device).to(memory_format=recipe.memory_format)
    if recipe.compiled:
        model.compile()
    return model
