"""The mean over views and networks, with networks whose answer is known."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import DataConfig, InferenceConfig
from engine.data.batch import FrameBatch
from engine.data.inputs import InputSpec, Normalisation
from engine.data.sources import FrameReader
from engine.frames.decode import Sample
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views.masks import masks
from engine.views.predictor import FoldNetwork, Predictor, view_input
from engine.views.zoom import view_hw
from kernels.crop_resize import Frames

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
CLASSES = 3
DATA = DataConfig(classes=("a", "b", "c"), small_classes=(), input_hw=(128, 192), crop_hw=(64, 64))
TEMPERATURES = (0.5, 1.0)
PLAIN = InputSpec(3, Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)))


def frames_of(hw: tuple[int, int] = (64, 96), batch: int = 2) -> FrameBatch:
    """Smooth frames, so that a view of another size shows the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(batch, 3, 3, 4, generator=generator)
    image = F.interpolate(coarse, hw, mode="bilinear").to(torch.uint8)
    frames = Frames(
        image.permute(0, 2, 3, 1).reshape(-1, 3).contiguous(),
        torch.randint(0, 5000, (batch * hw[0] * hw[1],), generator=generator).to(torch.uint16),
        None,
        torch.arange(batch) * (hw[0] * hw[1]),
        torch.tensor([hw] * batch),
    )
    return FrameBatch(0, hw, frames, np.arange(batch), None)


def network_of(
    logits: Callable[[Tensor], Tensor],
    *,
    spec: InputSpec = PLAIN,
    pixels: float = math.inf,
) -> FoldNetwork:
    def forward(image: Tensor) -> Prediction:
        strided = F.avg_pool2d(logits(image), 4)
        return Prediction(strided, strided[:, 0])

    return FoldNetwork(0, forward, spec, lambda _: pixels)


def by_colour(image: Tensor) -> Tensor:
    """Looks at each pixel alone, so mirroring the input mirrors the output."""
    return 5 * image


def by_column(image: Tensor) -> Tensor:
    """Says class 0 on the left of whatever it sees, class 2 on the right."""
    ramp = torch.linspace(5, -5, image.shape[-1])
    return torch.stack([ramp, torch.zeros_like(ramp), -ramp])[:, None].expand_as(image)


def config_of(**fields: object) -> InferenceConfig:
    plain = {"scales": (1.0,), "flip": False, "temperatures": TEMPERATURES, "base_hw": "own"}
    return InferenceConfig.model_validate({**plain, **fields})


def predictor_of(networks: list[FoldNetwork], config: InferenceConfig) -> Predictor:
    reader = FrameReader(POLICY.device, config.batch_size, depth=True, workers=1)
    return Predictor(networks, config, DATA, POLICY, reader)


def predict(
    networks: list[FoldNetwork], config: InferenceConfig, frames: FrameBatch | None = None
) -> Tensor:
    return predictor_of(networks, config).probabilities(frames or frames_of())


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
    networks = [network_of(by_colour), network_of(by_column)]
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
    pixels = 2.5 * 64 * 96
    split = predict([network_of(counted, pixels=pixels), network_of(by_column)], config, frames)
    assert seen == [5, 5, 2, 2, 1, 2, 2, 1]
    whole = predict([network_of(by_colour), network_of(by_column)], config, frames)
    torch.testing.assert_close(split, whole)
    assert "views of 64 x 96: 2 a pass, free memory holds no more" in caplog.text


def test_one_frame_is_tried_even_if_nothing_is_free_and_alone_asks_for_no_memory() -> None:
    seen: list[int] = []

    def counted(image: Tensor) -> Tensor:
        seen.append(len(image))
        return by_colour(image)

    predict([network_of(counted, pixels=0)], config_of(), frames_of(batch=3))
    assert seen == [1, 1, 1]

    def ask(_: int) -> float:
        raise AssertionError("one frame cannot be split")

    network = replace(network_of(by_colour), pass_pixels=ask)
    predict([network], config_of(), frames_of(batch=1))


def test_the_network_sees_channels_last_and_the_mirrored_frame() -> None:
    seen: list[Tensor] = []

    def noted(image: Tensor) -> Tensor:
        assert image.is_contiguous(memory_format=torch.channels_last)
        seen.append(image)
        return by_colour(image)

    predict([network_of(noted)], config_of(flip=True))
    assert torch.equal(seen[1], seen[0].flip(-1))


def test_a_mirrored_view_is_copied_once() -> None:
    done: Counter[str] = Counter()

    class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            done[func.overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))

    frames, config = frames_of(), config_of(flip=True)
    with Copies():  # type: ignore[no-untyped-call]
        predict([network_of(by_colour, pixels=64 * 96)], config, frames)
    # By the flip itself, which keeps the channels last: not once more for that.
    assert done["flip"] == 1
    assert not {"clone", "_to_copy"} & set(done)
    assert done["copy_"] == 4, "the logits of both views of two frames are kept"


@pytest.mark.parametrize(
    ("base_hw", "size"),
    [("own", (64, 96)), ("training", (128, 192)), ((96, 160), (96, 160)), ((50, 70), (50, 70))],
    ids=str,
)
def test_the_result_has_the_base_size_the_frames_own_or_that_of_training(
    base_hw: object, size: tuple[int, int]
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


@pytest.mark.parametrize("flip", [False, True])
def test_networks_that_see_different_things_get_their_own_input_each(flip: bool) -> None:
    seen: list[Tensor] = []

    def noted(image: Tensor) -> Tensor:
        seen.append(image)
        return 5 * image[:, -3:]

    light = Normalisation((128.0, 120.0, 110.0), (64.0, 60.0, 50.0))
    specs = [PLAIN, InputSpec(4, light), InputSpec(3, light), InputSpec(4, PLAIN.normalisation)]
    networks = [network_of(noted, spec=spec) for spec in specs]
    frames, config = frames_of(), config_of(scales=(0.5, 1.0), flip=flip)
    together = predict(networks, config, frames)
    crop = OPERATIONS.crop_resize
    for scale in config.scales:
        for spec in specs:
            upright = view_input(frames, view_hw(frames.hw, scale), spec, crop)
            for view in [upright, upright.flip(-1)][: 1 + flip]:
                assert torch.equal(seen.pop(0), view)
    assert not seen
    alone = [predict([network], config, frames) for network in networks]
    torch.testing.assert_close(together, torch.stack(alone).mean(dim=0))


def test_at_one_temperature_the_same_views_give_its_probabilities_alone() -> None:
    predictor = predictor_of([network_of(by_colour)], config_of(scales=(0.5, 1.0), flip=True))
    both = predictor.probabilities(frames_of())
    for t, temperature in enumerate(TEMPERATURES):
        assert torch.equal(predictor.at(temperature).probabilities(frames_of()), both[:, t : t + 1])


def test_masks_are_the_likeliest_classes_at_the_frames_own_size(png: list[Sample]) -> None:
    predictor = predictor_of([network_of(by_colour)], config_of(base_hw=(32, 64))).at(0.5)
    samples = [*png[:2], png[1], *png[2:]]
    position = 0
    for (frames, prob_BTCHW), (first, mask_BHW) in zip(
        predictor.predict(samples), masks(predictor, samples), strict=True
    ):
        assert frames.first == first == position
        assert prob_BTCHW.shape == (len(frames.index), 1, CLASSES, 32, 64)
        wide_BCHW = F.interpolate(prob_BTCHW[:, 0], frames.hw, mode="bilinear")
        assert mask_BHW.shape == (len(frames.index), *samples[first].hw)
        assert mask_BHW.dtype == np.uint8
        assert np.mean(mask_BHW == wide_BCHW.argmax(1).numpy()) > 0.999
        position += len(frames.index)
    assert position == len(samples)
    later = list(masks(predictor, samples, 3))
    assert [first for first, _ in later] == [3, 4, 5, 6, 7]


def test_labels_come_with_the_frames_on_request_only(png: list[Sample]) -> None:
    predictor = predictor_of([network_of(by_colour)], config_of())
    for label in (False, True):
        (frames, _), *_ = predictor.predict(png[:1], label=label)
        assert (frames.label_BHW is not None) == label
