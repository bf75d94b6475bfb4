"""The mean over views and networks, with networks whose answer is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import InferenceConfig
from engine.data.normalisation import Normalisation
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy
from engine.runtime.operations import choose_operations
from engine.views.frame_batches import FrameBatch, view_hw
from engine.views.networks import FoldNetwork
from engine.views.pass_memory import UNLIMITED, Room
from engine.views.tta import mean_probabilities
from kernels.crop_resize import Frames

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
CLASSES = 3
TEMPERATURES = (0.5, 1.0)


def frames_of(hw: tuple[int, int] = (64, 96), batch: int = 2) -> FrameBatch:
    """Smooth frames, so that a view of another size shows the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(batch, 3, 3, 4, generator=generator)
    image = F.interpolate(coarse, hw, mode="bilinear").to(torch.uint8)
    frames = Frames(
        image.permute(0, 2, 3, 1).reshape(-1, 3),
        None,
        None,
        torch.arange(batch) * (hw[0] * hw[1]),
        torch.tensor([hw] * batch),
    )
    return FrameBatch(0, hw, frames, np.arange(batch), None)


def network_of(
    logits: Callable[[Tensor], Tensor], fold: int = 0, room: Room = UNLIMITED
) -> FoldNetwork:
    def forward(image: Tensor) -> Prediction:
        strided = F.avg_pool2d(logits(image), 4)
        return Prediction(strided, strided[:, 0])

    plain = Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    return FoldNetwork(fold, forward, plain, 3, align_corners=False, room=room)


def by_colour(image: Tensor) -> Tensor:
    """Looks at each pixel alone, so mirroring the input mirrors the output."""
    return 5 * image


def by_column(image: Tensor) -> Tensor:
    """Says class 0 on the left of whatever it sees, class 2 on the right."""
    ramp = torch.linspace(5, -5, image.shape[-1])
    return torch.stack([ramp, torch.zeros_like(ramp), -ramp])[:, None].expand_as(image)


def config_of(**fields: object) -> InferenceConfig:
    return InferenceConfig.model_validate({"scales": (1.0,), "flip": False, **fields})


def predict(
    networks: list[FoldNetwork], config: InferenceConfig, frames: FrameBatch | None = None
) -> Tensor:
    frames = frames or frames_of()
    return mean_probabilities(networks, frames, config, TEMPERATURES, CLASSES, POLICY)


def test_every_pixels_probabilities_sum_to_1_at_every_temperature() -> None:
    prob = predict([network_of(by_colour)], config_of(scales=(0.5, 1.0, 1.5), flip=True))
    assert prob.shape == (2, len(TEMPERATURES), CLASSES, 64, 96)
    assert prob.dtype == torch.float32
    torch.testing.assert_close(prob.sum(2), torch.ones(2, len(TEMPERATURES), 64, 96))


def test_a_mirrored_view_of_an_equivariant_network_changes_nothing() -> None:
    network = network_of(by_colour)
    upright = predict([network], config_of(flip=False))
    both = predict([network], config_of(flip=True))
    torch.testing.assert_close(both, upright, rtol=0, atol=1e-5)


def test_a_mirrored_view_is_mirrored_back() -> None:
    # This network does not look at its input, so its mirrored view must say the opposite.
    network = network_of(by_column)
    upright = predict([network], config_of(flip=False))
    both = predict([network], config_of(flip=True))
    torch.testing.assert_close(both, (upright + upright.flip(-1)) / 2)
    torch.testing.assert_close(both, both.flip(-1))


def test_the_mean_is_over_networks() -> None:
    networks = [network_of(by_colour, 0), network_of(by_column, 1)]
    config = config_of(scales=(0.5, 1.0), flip=True)
    together = predict(networks, config)
    alone = [predict([network], config) for network in networks]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


def test_the_mean_is_over_scales() -> None:
    network = network_of(by_column)
    together = predict([network], config_of(scales=(0.5, 1.0)))
    alone = [predict([network], config_of(scales=(scale,))) for scale in (0.5, 1.0)]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


def test_no_forward_pass_is_repeated_for_a_temperature() -> None:
    seen: list[tuple[int, ...]] = []

    def counted(image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        return by_colour(image)

    predict([network_of(counted)], config_of(scales=(0.5, 1.0, 1.5), flip=True))
    sizes = [view_hw((64, 96), scale) for scale in (0.5, 1.0, 1.5)]
    assert seen == [(2, 3, *hw) for hw in sizes for _ in range(2)]


def test_a_pass_takes_no_more_frames_than_memory_holds(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def counted(image: Tensor) -> Tensor:
        seen.append(len(image))
        return by_colour(image)

    caplog.set_level("INFO")
    frames, config = frames_of(batch=5), config_of(scales=(0.5, 1.0), flip=True)
    # Two frames of 64 x 96, eight of half the sides.
    room = Room(free=2.5 * 64 * 96, pixel_bytes=1.0)
    split = predict([network_of(counted, room=room), network_of(by_column)], config, frames)
    assert seen == [5, 5, 2, 2, 1, 2, 2, 1]
    whole = predict([network_of(by_colour), network_of(by_column)], config, frames)
    torch.testing.assert_close(split, whole)
    assert "views of 64 x 96: 2 a pass, free memory holds no more" in caplog.text


def test_the_network_sees_channels_last_and_the_mirrored_frame() -> None:
    seen: list[Tensor] = []

    def noted(image: Tensor) -> Tensor:
        assert image.is_contiguous(memory_format=torch.channels_last)
        seen.append(image)
        return by_colour(image)

    predict([network_of(noted)], config_of(flip=True))
    assert torch.equal(seen[1], seen[0].flip(-1))


@pytest.mark.parametrize(
    ("base_hw", "size"), [(None, (64, 96)), ((96, 160), (96, 160)), ((50, 70), (50, 70))], ids=str
)
def test_the_result_has_the_base_size_or_the_frames_own(
    base_hw: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    config = config_of(base_hw=base_hw, scales=(1.0, 1.5), flip=True)
    assert predict([network_of(by_colour)], config).shape[-2:] == size


def test_a_temperature_divides_the_logits() -> None:
    # Every pixel alike, so that no resizing mixes: softmax of (1, 0, 0) / T.
    network = network_of(lambda image: torch.eye(3)[0].reshape(1, 3, 1, 1).expand_as(image))
    prob = predict([network], config_of())
    for t, temperature in enumerate(TEMPERATURES):
        top = math.exp(1 / temperature)
        torch.testing.assert_close(prob[:, t, 0], torch.full((2, 64, 96), top / (top + 2)))
