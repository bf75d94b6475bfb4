"""The rival's views, validation and test-time augmentation are the engine's mathematics.

Axes: B frames, T temperatures, C classes, H W pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.subset import with_section
from engine.config import Config
from engine.data.inputs import InputSpec
from engine.data.sources import FrameReader
from engine.frames.decode import Sample
from engine.model.network import Network, build_network, input_normalisation
from engine.runtime.device import set_up_device
from engine.views.predictor import FoldNetwork
from engine.views.predictor import Predictor as EnginePredictor

pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks.plain.data import read_frames
from benchmarks.plain.model import DepthFpn
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.run import Predictor

pytestmark = pytest.mark.bench

_HW = (64, 96)
_KINDS = ("image", "depth", "label")
_TEMPERATURES = (0.7, 1.0)
_RECIPE = Recipe(workers=0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Two smooth frames of a view's size: at scale 1 neither side resamples the image."""
    root, rng, made = tmp_path_factory.mktemp("frames"), np.random.default_rng(0), []
    for number in range(2):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(_HW[::-1], Image.Resampling.BICUBIC)
        smooth.save(root / f"{number}-image.png")
        millimetres = rng.integers(800, 9000, _HW, dtype=np.uint16)
        Image.fromarray(millimetres).save(root / f"{number}-depth.png")
        Image.fromarray(rng.integers(0, 13, _HW, dtype=np.uint8)).save(root / f"{number}-label.png")
        image, depth, label = (root / f"{number}-{kind}.png" for kind in _KINDS)
        made.append(Sample(str(number), image, depth, label, _HW, None))
    return made


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    return with_section(
        tiny_config, "inference", scales=[1.0], base_hw=_HW, temperatures=_TEMPERATURES
    )


@pytest.fixture(scope="module")
def network(config: Config) -> Network:
    torch.manual_seed(3)
    network = build_network(config.model, 13)
    with torch.no_grad():
        # Decided maps: close probabilities would tie.
        network.get_parameter("segmentation_head.0.weight").mul_(5)
    return network.eval()


@pytest.fixture(scope="module")
def model(network: Network, config: Config) -> DepthFpn:
    model = DepthFpn(config.model, 13).eval()
    model.load_state_dict(network.state_dict())
    return model


def engine_predictor(config: Config, network: Network) -> EnginePredictor:
    """The engine's own, of the same network."""
    policy = set_up_device(config.runtime)
    spec = InputSpec(3, input_normalisation(config.model))
    reader = FrameReader(policy.device, 2, depth=False, workers=1)
    return EnginePredictor(
        [FoldNetwork(0, network, spec)], config.inference, config.data, policy, reader
    )


@pytest.mark.parametrize(
    ("changes", "off"),
    [
        ({"scales": [1.0], "base_hw": _HW}, 2e-5),
        # Resized images are rounded to bytes by OpenCV.
        ({"scales": [0.5, 1.25], "base_hw": (96, 128)}, 0.08),
        ({"scales": [1.0, 2.0], "base_hw": "training"}, 0.08),
    ],
    ids=["same-size", "resized", "training's zoom"],
)
def test_the_mean_over_views_is_the_engines(
    samples: list[Sample],
    config: Config,
    network: Network,
    model: DepthFpn,
    changes: dict[str, Any],
    off: float,
) -> None:
    config = with_section(config, "inference", **changes)
    ((_, ours_BTCHW),) = engine_predictor(config, network).predict(samples)
    predictor = Predictor(model, config, _RECIPE)
    theirs_TBHWC = predictor.mean_over_views(read_frames(samples, depth=False), _TEMPERATURES)
    gap = np.abs(theirs_TBHWC - ours_BTCHW.permute(1, 0, 3, 4, 2).numpy())
    assert gap.max() < off
    assert gap.mean() < off / 10
    height, width = ours_BTCHW.shape[3:]
    assert theirs_TBHWC.shape == (2, 2, height, width, 13)


def test_validation_counts_what_the_engine_counts(
    samples: list[Sample], config: Config, network: Network, model: DepthFpn
) -> None:
    theirs_CC = Predictor(model, config, _RECIPE).validate(samples)
    ours_CC = engine_predictor(config, network).single_view().confusion(samples)
    assert theirs_CC.sum() == ours_CC.sum() == 2 * _HW[0] * _HW[1]
    # Two classes that tie to the last bit: either may win.
    assert np.abs(theirs_CC - ours_CC).sum() <= 4


def test_passes_shared_by_temperatures_change_nothing(
    samples: list[Sample], config: Config, model: DepthFpn
) -> None:
    each, shared = (
        list(Predictor(model, config, recipe).predict_fold(samples))
        for recipe in (_RECIPE, Recipe(workers=0, shared_passes=True))
    )
    assert len(each) == len(shared) == 2
    for (one, label), (other, _) in zip(each, shared, strict=True):
        assert one.shape == (2, *_HW, 13)
        assert label.shape == _HW
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.allclose(each[0][0][0], each[0][0][1])


def test_frames_of_other_sizes_go_one_by_one(
    samples: list[Sample], config: Config, model: DepthFpn, tmp_path: Path
) -> None:
    for kind in _KINDS:
        with Image.open(getattr(samples[0], kind)) as frame:
            frame.crop((0, 0, 40, 50)).save(tmp_path / f"{kind}.png")
    image, depth, label = (tmp_path / f"{kind}.png" for kind in _KINDS)
    smaller = Sample("smaller", image, depth, label, (50, 40), None)
    count_CC = Predictor(model, config, _RECIPE).validate([*samples, smaller])
    assert count_CC.sum() == 2 * _HW[0] * _HW[1] + 50 * 40
