"""Views are as large as what training sees, and what that is worth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from engine.config import DataConfig, InferenceConfig
from engine.data.batch import FrameBatch
from engine.data.inputs import InputSpec, Normalisation, draw, training_hw
from engine.data.sources import FrameReader
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy, choose_operations
from engine.views.predictor import FoldNetwork, Predictor
from engine.views.zoom import base_hw, view_hw
from kernels.crop_resize import Frames

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
SPEC = InputSpec(3, Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)))
CLASSES = ("ground", "small", "large")


def data_of(input_hw: tuple[int, int], **fields: object) -> DataConfig:
    still = {"scale_p": 0, "class_aware_p": 0, "flip_p": 0, "jitter_p": 0}
    named = {"classes": CLASSES, "small_classes": (), "input_hw": input_hw, "crop_hw": (32, 32)}
    return DataConfig.model_validate({**named, **still, **fields})


def views_of(base: object) -> InferenceConfig:
    once = {"scales": (1.0,), "flip": False, "temperatures": (1.0,), "base_hw": base}
    return InferenceConfig.model_validate(once)


@pytest.mark.parametrize(
    ("fit", "base", "hw", "expected"),
    [
        # By area, then to multiples of 32.
        ("keep", "training", (480, 640), (704, 960)),
        ("keep", "training", (640, 480), (960, 704)),
        ("keep", "training", (1440, 1920), (704, 960)),
        ("keep", "training", (200, 2000), (256, 2624)),
        ("stretch", "training", (640, 480), (704, 960)),
        ("keep", "own", (640, 480), (640, 480)),
        ("stretch", "own", (101, 40), (101, 40)),
        ("keep", (576, 768), (640, 480), (576, 768)),
    ],
    ids=str,
)
def test_the_base_size_is_of_the_zoom_that_was_asked_for(
    fit: str, base: object, hw: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert base_hw(data_of((720, 960), fit=fit), views_of(base), hw) == expected


def test_training_s_zoom_is_rounded_to_the_nearest_multiple_and_never_to_nothing() -> None:
    for input_hw, expected in (
        ((120, 160), (128, 160)),
        ((48, 64), (32, 64)),
        ((47, 33), (32, 32)),
    ):
        data = data_of(input_hw, fit="stretch")
        assert base_hw(data, views_of("training"), (480, 640)) == expected
    assert base_hw(data_of((96, 128)), views_of("training"), (10, 4000)) == (32, 2208)


@given(
    st.sampled_from(["keep", "stretch"]),
    st.tuples(st.integers(32, 900), st.integers(32, 900)),
    st.tuples(st.integers(33, 3000), st.integers(33, 3000)),
)
def test_a_view_shows_a_frame_as_a_crop_of_training_does_but_for_the_rounding(
    fit: str, input_hw: tuple[int, int], hw: tuple[int, int]
) -> None:
    data, sizes = data_of(input_hw, fit=fit), np.array([hw])
    nothing = [np.zeros((0, 2), np.int32)]
    draws = draw(data, seed=0, epoch=0, index=np.array([0]), hw=sizes, small_pixels=nothing)
    view = view_hw(base_hw(data, views_of("training"), hw), 1.0)
    # Pixels of the network's input for one of the frame's, in a crop; its grid is a share of 1 %.
    zoom_2 = np.array(data.crop_hw) / draws.box[0, 2:]
    for seen, side, zoom in zip(view, hw, zoom_2, strict=True):
        assert seen == 32 or abs(seen - zoom * side) <= 16 + 0.02 * seen
    if fit == "keep":
        # Nothing is distorted, whatever the frame's aspect.
        assert zoom_2[0] == pytest.approx(zoom_2[1], rel=0.02)


def test_training_hw_keeps_the_aspect_and_the_area() -> None:
    sizes = np.array([(480, 640), (640, 480), (333, 2000), (97, 131)])
    kept = training_hw(data_of((720, 960)), sizes)
    np.testing.assert_allclose(kept.prod(axis=1), 720 * 960)
    np.testing.assert_allclose(kept[:, 0] / kept[:, 1], sizes[:, 0] / sizes[:, 1])
    np.testing.assert_array_equal(kept[0], (720, 960))
    stretched = training_hw(data_of((720, 960), fit="stretch"), sizes)
    np.testing.assert_array_equal(stretched, [(720, 960)] * 4)


@given(st.tuples(*[st.integers(32, 99)] * 2), st.integers(1, 40), st.integers(1, 40))
def test_a_frame_of_the_inputs_aspect_becomes_just_the_input(
    aspect: tuple[int, int], frame: int, times: int
) -> None:
    height, width = aspect
    data = data_of((height * times, width * times))
    found = training_hw(data, np.array([(height * frame, width * frame)]))
    np.testing.assert_array_equal(found, [data.input_hw])


def squares(hw: tuple[int, int], seed: int) -> tuple[Tensor, NDArray[np.uint8]]:
    """White squares on black, image (H, W, 3) and label: small of 16, large of 32 pixels."""
    rng, label, free = np.random.default_rng(seed), np.zeros(hw, np.uint8), np.ones(hw, np.bool_)
    for _ in range(60):
        value = int(rng.integers(1, 3))
        side = 16 * value
        top, left = rng.integers(0, hw[0] - side), rng.integers(0, hw[1] - side)
        around = np.s_[max(0, top - 8) : top + side + 8, max(0, left - 8) : left + side + 8]
        if free[around].all():
            free[around] = False
            label[top : top + side, left : left + side] = value
    image = torch.from_numpy(255 * (label > 0).astype(np.uint8))
    return image[..., None].expand(*hw, 3), label


def by_width(image_BCHW: Tensor) -> Prediction:
    """As if it had learnt in training that small squares are 8 pixels wide, large ones 16."""
    white_B1HW = (image_BCHW[:, :1] > 0.5).float()
    eroded = -F.max_pool2d(-F.pad(white_B1HW, (5, 5, 5, 5)), 11, stride=1)
    large_B1HW = F.max_pool2d(eroded, 11, stride=1, padding=5)
    parts = [1 - white_B1HW, white_B1HW - large_B1HW, large_B1HW]
    logits = 20 * F.avg_pool2d(torch.cat(parts, 1), 4)
    return Prediction(logits, logits[:, 0])


@pytest.mark.parametrize("hw", [(192, 256), (256, 192), (128, 384)], ids=str)
@pytest.mark.parametrize("base", ["training", "own"])
def test_classes_that_differ_by_size_are_told_apart_by_the_zoom_of_training(
    base: str, hw: tuple[int, int]
) -> None:
    """Of the kind whose mIoU was .49 with views of the frame's own size, .73 at training's."""
    image, label = squares(hw, seed=3)
    assert set(np.unique(label)) == {0, 1, 2}
    frames = Frames(
        image.reshape(-1, 3).contiguous(), None, None, torch.tensor([0]), torch.tensor([hw])
    )
    reader = FrameReader(POLICY.device, 1, depth=False, workers=1)
    data = data_of((96, 128))
    network = FoldNetwork(0, by_width, SPEC)
    predictor = Predictor([network], views_of(base), data, POLICY, reader)
    prob_BTCHW = predictor.probabilities(FrameBatch(0, hw, frames, np.array([0]), None))
    mask = OPERATIONS.resized_argmax(prob_BTCHW[:, 0], hw)[0].numpy()
    unions = [((mask == c) | (label == c)).sum() for c in range(3)]
    miou = np.mean([((mask == c) & (label == c)).sum() / unions[c] for c in range(3)])
    # Rims of large squares count as small ones, so it is not 1.
    assert miou > 0.7 if base == "training" else miou < 0.6
