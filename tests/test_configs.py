"""The files in configs/: the reports' values, at full size and under the overlays."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cli import load_config
from engine.config import Config
from engine.data.inputs import training_hw
from engine.model.network import Network, build_network
from engine.report.zoom_gap import zoom_gap
from engine.resume import differences
from engine.views.zoom import base_hw, view_hw

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OVERLAYS = ("lite", "exp093_ensemble")
EXPERIMENTS = sorted(path.stem for path in CONFIGS.glob("*.toml") if path.stem not in OVERLAYS)
REPORTED = {
    "exp093_2": [],
    "exp093_4": [
        "training.class_weights: {} -> {'books': 1.5, 'table': 1.5, 'tv': 1.5}",
        "training.boundary_weight: 1.0 -> 2.0",
        "training.ignored_edges: False -> True",
    ],
    "exp093_5": ["model.input: rgb -> rgbd"],
    "exp093_6": ["model.decoder: fpn -> deeplabv3plus"],
}
"""In what a published experiment differs from exp093_2."""


def load(*names: str) -> Config:
    return load_config([CONFIGS / f"{name}.toml" for name in names])


def built(config: Config) -> Network:
    # On the meta device nothing is allocated or initialised.
    with torch.device("meta"):
        return build_network(config.model, len(config.data.classes), initial_weights=False)


def test_every_published_experiment_has_a_config() -> None:
    recipes = {"demo", "nyuv2_cpu", "nyuv2_cpu_hour", "nyuv2_gpu"}
    assert set(EXPERIMENTS) - recipes == set(REPORTED)


@pytest.mark.parametrize("overlay", [(), ("lite",)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_config_builds_alone_and_under_lite(name: str, overlay: tuple[str, ...]) -> None:
    config = load(name, *overlay)
    stem = next(built(config).encoder.parameters())
    assert stem.shape[1] == {"rgb": 3, "rgbd": 4, "rgbdn": 7}[config.model.input]
    assert type(built(config).decoder).__name__ == (
        "DeepLabV3PlusDecoder" if config.model.decoder == "deeplabv3plus" else "FpnDecoder"
    )


@pytest.mark.parametrize("name", REPORTED)
def test_a_published_experiment_has_the_reported_values(name: str) -> None:
    config = load(name)
    data, training, inference = config.data, config.training, config.inference
    assert config.model.encoder == "convnext_base"
    assert config.model.weights == "timm"
    assert (data.input_hw, data.crop_hw) == ((720, 960), (576, 768))
    assert (data.folds, data.fold_kind) == (5, "random")
    assert (training.lr, training.weight_decay) == (1e-4, 1e-4)
    assert (training.epochs, training.batch_size, training.accumulate) == (50, 4, 1)
    assert training.schedule == "cosine_epoch"
    assert (training.ema_decay, training.ema_warmup) == (0.999, False)
    assert (training.depth_weight, training.clip_norm) == (0.1, 0.0)
    assert (inference.scales, inference.flip) == ((0.5, 0.75, 1.0, 1.25, 1.5), True)
    assert inference.temperatures == (0.7, 0.8, 0.9, 1.0)
    assert (data.fit, inference.base_hw) == ("stretch", "own")
    assert differences(load("exp093_2"), config) == REPORTED[name]


@pytest.mark.parametrize(
    ("names", "base", "views"),
    [
        # As before `data.fit` and "own": of 480 x 640, and for the demo of 120 x 160.
        (
            ("exp093_2",),
            (480, 640),
            [(224, 320), (352, 480), (480, 640), (576, 800), (704, 960)],
        ),
        (("exp093_5", "lite"), (240, 320), [(160, 224), (224, 320), (288, 384)]),
        (("exp093_4", "exp093_ensemble"), (576, 768), [(416, 576), (576, 768)]),
        (("demo",), (128, 160), [(128, 160), (160, 192)]),
    ],
    ids=str,
)
def test_a_published_config_looks_at_frames_as_ever(
    names: tuple[str, ...], base: tuple[int, int], views: list[tuple[int, int]]
) -> None:
    config = load(*names)
    hw = (120, 160) if names == ("demo",) else (480, 640)
    assert base_hw(config.data, config.inference, hw) == base
    assert [view_hw(base, scale) for scale in config.inference.scales] == views
    # Of 3:4, either fit is the same; another aspect is stretched, as it was.
    assert (
        training_hw(config.data, np.array([hw, (50, 90)])).tolist()
        == [list(config.data.input_hw)] * 2
    )


def test_only_views_at_the_reports_sizes_are_of_another_zoom_than_training() -> None:
    gaps = {
        names: zoom_gap(load(*names), [(120, 160) if names == ("demo",) else (480, 640)])
        for names in [*((name,) for name in EXPERIMENTS), *((name, "lite") for name in REPORTED)]
    }
    assert {names[0] for names, gap in gaps.items() if gap} == set(REPORTED)
    assert not any(gap for names, gap in gaps.items() if "lite" in names)


def test_decoders_are_as_wide_as_reported() -> None:
    model = load("exp093_6").model
    assert (model.aspp_channels, model.aspp_rates, model.aspp_dropout) == (256, (12, 24, 36), 0.5)
    model = load("exp093_2").model
    assert (model.pyramid_channels, model.segmentation_channels) == (256, 128)


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("exp093_2", ("0.7027", "0.7019 0.7023 0.7026 0.7027", "0.69475")),
        ("exp093_4", ("0.7124", "0.69163")),
        ("exp093_5", ("0.7160", "0.69343")),
        ("exp093_6", ("0.7127", "0.69195")),
        ("exp093_ensemble", ("0.69654",)),
    ],
)
def test_scores_are_quoted_as_the_reports(name: str, scores: tuple[str, ...]) -> None:
    text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
    assert "not measured by this project" in text
    assert all(score in text for score in scores)


@pytest.mark.parametrize("name", REPORTED)
def test_lite_experiments_differ_in_what_the_published_ones_differ_in(name: str) -> None:
    config = load(name, "lite")
    assert differences(load("exp093_2", "lite"), config) == REPORTED[name]
    assert config.data.fold_kind == "blocked"
    # The pyramid's rates reach over the same share of the crop.
    full = load(name)
    shrunk = [rate * config.data.crop_hw[0] / full.data.crop_hw[0] for rate in (12, 24, 36)]
    assert list(config.model.aspp_rates) == shrunk


@pytest.mark.parametrize("name", ["exp093_4", "exp093_5"])
def test_the_ensembles_overlay_changes_only_the_views(name: str) -> None:
    config = load(name, "exp093_ensemble")
    assert differences(load(name), config) == [
        "inference.scales: (0.5, 0.75, 1.0, 1.25, 1.5) -> (0.75, 1.0)",
        "inference.temperatures: (0.7, 0.8, 0.9, 1.0) -> (0.7,)",
        "inference.base_hw: own -> (576, 768)",
    ]
    assert config.inference.flip
