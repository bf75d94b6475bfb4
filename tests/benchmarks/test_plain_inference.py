"""The rival's views, validation and test-time augmentation are the engine's mathematics.

Axes: B frames, T temperatures, C classes, H W pixels.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.rows.job import with_section
from engine.config import Config
from engine.frames.index import Sample
from engine.model.network import Network, build_network, input_normalisation
from engine.runtime.device import choose_device
from engine.training.validation import validate as validate_ours
from engine.views.frame_batches import frame_batches
from engine.views.networks import FoldNetwork
from engine.views.tta import mean_probabilities

pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks.plain.data import FrameDataset
from benchmarks.plain.inference import mean_over_views, predict_fold, validate
from benchmarks.plain.model import DepthFpn
from benchmarks.plain.recipe import Recipe

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


@pytest.mark.parametrize(
    ("scales", "base_hw", "off"),
    [
        ([1.0], _HW, 2e-5),
        # Resized images are rounded to bytes by OpenCV.
        ([0.5, 1.25], (96, 128), 0.08),
    ],
    ids=["same-size", "resized"],
)
def test_the_mean_over_views_is_the_engines(
    samples: list[Sample],
    config: Config,
    network: Network,
    model: DepthFpn,
    scales: list[float],
    base_hw: tuple[int, int],
    off: float,
) -> None:
    config = with_section(config, "inference", scales=scales, base_hw=base_hw)
    policy = choose_device(config.runtime)
    (frames,) = frame_batches(samples, 2, policy.device, depth=False, label=True, workers=1)
    fold = FoldNetwork(0, network, input_normalisation(config.model), 3, network.align_corners)
    ours_BTCHW = mean_probabilities([fold], frames, config.inference, _TEMPERATURES, 13, policy)
    data = FrameDataset(samples, depth=False)
    theirs_TBHWC = mean_over_views(model, [data[0], data[1]], config, _RECIPE, _TEMPERATURES)
    gap = np.abs(theirs_TBHWC - ours_BTCHW.permute(1, 0, 3, 4, 2).numpy())
    assert gap.max() < off
    assert gap.mean() < off / 10
    assert theirs_TBHWC.shape == (2, 2, *base_hw, 13)


def test_validation_counts_what_the_engine_counts(
    samples: list[Sample], config: Config, network: Network, model: DepthFpn
) -> None:
    theirs_CC = validate(model, samples, config, _RECIPE)
    ours_CC = validate_ours(
        network,
        samples,
        config,
        choose_device(config.runtime),
        input_normalisation(config.model),
        network.align_corners,
    )
    assert theirs_CC.sum() == ours_CC.sum() == 2 * _HW[0] * _HW[1]
    # Two classes that tie to the last bit: either may win.
    assert np.abs(theirs_CC - ours_CC).sum() <= 4


def test_passes_shared_by_temperatures_change_nothing(
    samples: list[Sample], config: Config, model: DepthFpn
) -> None:
    each = list(predict_fold(model, samples, config, _RECIPE))
    shared = list(predict_fold(model, samples, config, Recipe(workers=0, shared_passes=True)))
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
    count_CC = validate(model, [*samples, smaller], config, _RECIPE)
    assert count_CC.sum() == 2 * _HW[0] * _HW[1] + 50 * 40
