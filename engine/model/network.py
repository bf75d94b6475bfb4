"""The whole network: encoder, decoder and two heads; image in, stride-4 logits and depth out.

Shapes: B batch, C classes, H W pixels of the input, h w cells of stride 4 (H / 4, W / 4).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from engine.config import ModelConfig, is_code, is_run
from engine.data.inputs import Normalisation, read_normalisation
from engine.model.deeplabv3plus import DeepLabV3PlusDecoder
from engine.model.encoder import STRIDES, Encoder, check_name
from engine.model.fpn import FpnDecoder
from engine.model.heads import Head, predict_at_once
from engine.model.sources import PACKAGE_PREFIX
from engine.model.weights import PACKAGE_NORMALISATION, load_weights
from engine.origin import FoldOrigin, find_source

_LOG = logging.getLogger(__name__)

_PIXEL_MAX = 255.0
"""The largest pixel value: timm's means and deviations are for images in 0..1, ours in 0..255."""

DECODERS: dict[str, type[FpnDecoder | DeepLabV3PlusDecoder]] = {
    "fpn": FpnDecoder,
    "deeplabv3plus": DeepLabV3PlusDecoder,
}
"""By `model.decoder`: from the features to a part at stride 8, or None, and one at stride 4."""


class Prediction(NamedTuple):
    """What a forward pass returns, both at stride 4."""

    logits_BChw: Tensor
    depth_Bhw: Tensor
    """Normalised depth, (d - 0.71) / 9.29 for d in metres."""


class Supervised(NamedTuple):
    """What a pass in training returns under `model.supervision`: as `Prediction`, and more."""

    logits_BChw: Tensor
    depth_Bhw: Tensor
    auxiliary_BCyx: Tensor
    """Logits at stride 8, of the decoder's coarse part alone."""


class Network(nn.Module):
    """Encoder, decoder and two heads of random weights; a ValueError says what is unfit.

    Parameter names are those of `segmentation_models_pytorch.FPN` or `.DeepLabV3Plus` with a `tu-`
    encoder, plus `depth_head.*`, and `auxiliary_head.*` under `model.supervision`.
    """

    align_corners = True
    """How smp upsamples these logits to the input's size (bilinear)."""
    heads_at_once = False
    """Whether both heads of an FPN are one product, see `engine.model.fused`."""

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.encoder: Encoder
        self.decoder: FpnDecoder | DeepLabV3PlusDecoder
        kind: Any = DECODERS.get(config.decoder)
        if kind is None or is_code(config.encoder):
            from engine.model.plugged import make_parts

            self.encoder, self.decoder = make_parts(config, kind)
        else:
            stride, channels = kind.output_stride, config.in_channels
            self.encoder = Encoder(config.encoder, channels, config.drop_path, stride)
            self.decoder = kind(self.encoder.channels, config)
        xavier = getattr(self.decoder, "xavier_heads", False)
        self.segmentation_head = Head(self.decoder.out_channels, classes, xavier)
        self.depth_head = Head(self.decoder.out_channels, 1, xavier)
        # The last to draw its weights: those of the others are the same with it and without.
        self.auxiliary_head: Head | None = None
        if config.supervision:
            self.auxiliary_head = Head(self.decoder.out_channels, classes, xavier)

    @property
    def least_images(self) -> int:
        """Images that a pass in training needs."""
        return int(getattr(self.decoder, "least_images", 1))

    def forward(self, image_BCHW: Tensor) -> Prediction:
        """Predict from normalised channels; H or W that is no multiple of 32 is a ValueError.

        In training under `model.supervision` it is a `Supervised`.
        """
        height, width = image_BCHW.shape[-2:]
        unit = STRIDES[-1]
        if height % unit or width % unit:
            raise ValueError(f"image is {height} x {width}; both must be multiples of {unit}")
        features = self.encoder(image_BCHW)
        coarse: Tensor | None
        if self.heads_at_once and isinstance(self.decoder, FpnDecoder):
            coarse, fine = self.decoder.levels(features)
            heads, mask = (self.segmentation_head, self.depth_head), self.decoder.draw_mask(coarse)
            logits_BChw, depth_B1hw = predict_at_once(heads, coarse, fine, mask)
            prediction = Prediction(logits_BChw, depth_B1hw[:, 0])
        else:
            mask, parts = None, self.decoder(features)
            coarse = parts[0]
            prediction = Prediction(self.segmentation_head(*parts), self.depth_head(*parts)[:, 0])
        if self.auxiliary_head is None or not self.training:
            return prediction
        assert coarse is not None  # the config, or `check_plug_ins`, has seen to it
        auxiliary_BCyx = self.auxiliary_head(None, coarse if mask is None else coarse * mask)
        return Supervised(*prediction, auxiliary_BCyx)  # type: ignore[return-value]


def build_network(
    config: ModelConfig,
    classes: int,
    *,
    initial_weights: bool = True,
    names: Sequence[str] = (),
) -> Network:
    """Build the network that `config` describes, channels-last, on the CPU; raises as its parts.

    Without `initial_weights` a caller loads others next: no hub, package or file is needed then.
    The `names` of the classes say which of another run's they are, where it starts from one.
    """
    network = Network(config, classes)
    if initial_weights and config.weights == "none":
        _LOG.info("weights: random, as model.weights = 'none' asks")
    elif initial_weights:
        _LOG.info("weights: %s", load_weights(network, config, names))
    return network.to(memory_format=torch.channels_last)


def load_best(network: Network, path: Path) -> None:
    """Load a file that `save_best` wrote, or one of smp's in its place.

    Raises as `read_state` and `load_state`.
    """
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, OSError, SafetensorError):
        # Not as we wrote it: read with more care, which takes smp's or says what is wrong.
        from engine.model.state import load_state, read_state

        load_state(network, read_state(path), str(path))


def input_normalisation(config: ModelConfig, begun: FoldOrigin | None = None) -> Normalisation:
    """Mean and deviation of the RGB input, 0..255, that the encoder's weights were trained with.

    A package and a file of `engine.train` say so themselves, and what a fold was `begun` with; for
    others it is what timm's have, and for encoders of the user's own ImageNet's.
    """
    if not is_code(config.encoder):
        check_name(config.encoder)
    if begun is not None:
        return Normalisation(begun.mean, begun.std)
    if is_code(config.encoder):
        said = read_normalisation(Path(config.of_fold(0).weights))
        return said or Normalisation(_pixels(IMAGENET_DEFAULT_MEAN), _pixels(IMAGENET_DEFAULT_STD))
    if is_run(config.weights):
        source = find_source(config.of_fold(0).weights)
        if said := read_normalisation(source.file):
            return said
    if config.weights.startswith(PACKAGE_PREFIX):
        return PACKAGE_NORMALISATION
    if said := read_normalisation(Path(config.of_fold(0).weights)):
        return said
    pretrained = timm.get_pretrained_cfg(config.encoder)
    assert pretrained is not None
    return Normalisation(_pixels(pretrained.mean), _pixels(pretrained.std))


def _pixels(of: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (value * _PIXEL_MAX for value in of)
    return red, green, blue
