"""The graph that leaves is the engine's arithmetic: every size of frame, run, fold and blend."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import Config
from engine.data.arrays import array_frame, frame_batch
from engine.data.surface import Surface
from engine.export.graph import Graph
from engine.export.open import describe, open_graph
from engine.export.sizes import needed_hw
from engine.export.surface import normal_cells
from engine.frames.reading import Reading
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.runtime.device import set_up_device
from engine.trained import Sight, TrainedRun, choose_runs, open_system

SIZES = ((48, 64), (37, 91), (100, 45), (33, 33))
"""Of frames: the base's own, and what is neither a multiple nor a share of it."""


def changed(config: Config, **sections: dict[str, object]) -> Config:
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=fields)
            for name, fields in sections.items()
        }
    )


def check(chosen: tuple[TrainedRun, ...], graph: Graph, sizes: object = SIZES) -> None:
    """Masks equal and confidences within a rounding, on noise, which has ties nowhere else has."""
    config = chosen[0].config
    system = open_system(chosen, Sight(), set_up_device(config.runtime))
    rng = np.random.default_rng(0)
    for height, width in sizes:  # type: ignore[attr-defined]
        cells = rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), dtype=np.uint8)
        image = cells.repeat(5, 0).repeat(5, 1)[:height, :width].copy()
        depth = rng.integers(0, 9000, (height, width)).astype(np.uint16)
        depth[rng.random((height, width)) < 0.1] = 77
        held = array_frame(image, depth, Reading.of(config.data), need_depth=graph.has_depth)
        with torch.inference_mode():
            (rows,) = system.rows(frame_batch([held], torch.device("cpu")))
            prob_1CHW = rows.at_size()
            given = [torch.from_numpy(each)[None] for each in (image, depth)]
            mask, certain = graph(*given[: 1 + graph.has_depth])
        expected = prob_1CHW.argmax(dim=1)
        assert mask.shape == expected.shape
        assert (mask == expected).float().mean() > 0.9995
        assert (certain - (prob_1CHW.amax(dim=1) * 255)).abs().max() < 0.6


@pytest.fixture
def runs(untrained_run: Callable[..., RunDir], tiny_config: Config, tmp_path: Path) -> list[Path]:
    """Two runs: RGB-D in units of 0.25 mm with 77 as missing, and RGB, by other views."""
    data = {"depth_scale": 0.00025, "depth_invalid": (0, 77)}
    views = {"scales": (1.4,), "flip": False}
    return [
        untrained_run(
            tmp_path / "rgbd", 0, changed(tiny_config, model={"input": "rgbd"}, data=data)
        ).root,
        untrained_run(tmp_path / "rgb", 1, changed(tiny_config, inference=views)).root,
    ]


def test_a_run_is_the_engines_on_frames_of_any_size(runs: list[Path]) -> None:
    chosen = choose_runs(runs[:1], Sight())
    graph = open_graph(chosen, needed_hw(chosen, None))
    assert graph.has_depth
    assert graph.views_hw == [(32, 32), (32, 64)]
    check(chosen, graph)


@pytest.mark.parametrize("hw", [(48, 64), (37, 91), (331, 480), (500, 641)])
def test_normals_are_the_engines_of_frames_of_the_size_that_is_named(
    hw: tuple[int, int],
    untrained_run: Callable[..., RunDir],
    tiny_config: Config,
    tmp_path: Path,
) -> None:
    data = {"depth_scale": 0.00025, "depth_invalid": (0, 77), "fov": 57.0}
    config = changed(tiny_config, model={"input": "rgbdn"}, data=data)
    chosen = choose_runs([untrained_run(tmp_path / "rgbdn", 0, config).root], Sight())
    graph = open_graph(chosen, needed_hw(chosen, hw))
    assert graph.flips
    check(chosen, graph, [hw])


def test_networks_that_see_different_things_are_the_engines(
    untrained_run: Callable[..., RunDir], tiny_config: Config, tmp_path: Path
) -> None:
    training = {"members": 3, "member_inputs": ("rgbdn", "rgbd")}
    run = untrained_run(tmp_path / "three", 0, changed(tiny_config, training=training))
    chosen = choose_runs([run.root], Sight())
    assert chosen[0].inputs == ("rgb", "rgbdn", "rgbd")
    with pytest.raises(ConfigError, match="model.input = 'rgbdn', whose surfaces"):
        needed_hw(chosen, None)
    check(chosen, open_graph(chosen, needed_hw(chosen, (48, 64))), [(48, 64)])


@pytest.mark.parametrize("hw", [(240, 320), (241, 481), (123, 900)])
def test_normals_of_a_smooth_scene_are_those_of_its_cells(hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[: hw[0], : hw[1]] / max(hw)
    depth_HW = 4000 + 3000 * rows + 900 * np.sin(5 * columns) + 8000 * (columns > 0.6)
    depth_HW[rng.random(hw) < 0.02] = 0
    depth_HW = (depth_HW + rng.normal(0, 4, hw) * (depth_HW > 0)).astype(np.uint16)
    surface = Surface("normals", 57.0, 0.0005)
    cells_hw = surface.cells(depth_HW)
    expected_hw3 = np.ascontiguousarray(cells_hw).view(np.int8).reshape(*cells_hw.shape, 4)[..., :3]
    thousandths = torch.from_numpy(depth_HW.astype(np.float32) / 1000)
    found_hw3 = 127 * normal_cells(thousandths[None], surface)[0].permute(1, 2, 0).numpy()
    apart = np.abs(found_hw3 - expected_hw3)
    # Few are at the edge of what counts as the same surface, or of a rounding.
    assert (apart > 0.5).any(axis=-1).mean() < 0.0005
    assert (expected_hw3 != 0).any(axis=-1).mean() > 0.9


def test_one_fold_and_one_view_are_the_engines(runs: list[Path]) -> None:
    chosen = choose_runs(runs[:1], Sight(None, (1.0,), flip=False), fold=1)
    graph = open_graph(chosen, None)
    assert (len(graph.members[0].networks), graph.flips) == (1, False)  # type: ignore[arg-type]
    check(chosen, graph)


def test_a_blend_is_the_engines_with_a_weight_by_class(runs: list[Path]) -> None:
    one, other = choose_runs(runs, Sight())
    names = one.config.data.classes
    shares = np.linspace(0.1, 0.9, len(names)).tolist()
    chosen = (
        one._replace(weight=dict(zip(names, shares, strict=True))),
        other._replace(weight={name: 1 - share for name, share in zip(names, shares, strict=True)}),
    )
    check(chosen, open_graph(chosen, None))


def test_where_views_follow_the_frame_a_size_is_asked_for(
    untrained_run: Callable[..., RunDir], tiny_config: Config, tmp_path: Path
) -> None:
    config = changed(tiny_config, inference={"base_hw": "own"})
    chosen = choose_runs([untrained_run(tmp_path / "own", 0, config).root], Sight())
    with pytest.raises(ConfigError, match=r"by larger views .*such as --size 480x640"):
        needed_hw(chosen, None)
    graph = open_graph(chosen, needed_hw(chosen, (70, 100)))
    assert graph.views_hw == [(32, 64), (64, 96)]
    check(chosen, graph, [(70, 100)])


def test_what_is_told_changes_with_what_the_graph_does_alone(runs: list[Path]) -> None:
    keys = set()
    for sight, hw in ((Sight(), None), (Sight(flip=False), None), (Sight(), (48, 64))):
        chosen = choose_runs(runs[:1], sight)
        keys |= {describe(chosen, open_graph(chosen, hw))["key"] for _ in range(2)}
    warmer = [one._replace(temperature=0.95) for one in choose_runs(runs[:1], Sight())]
    keys.add(describe(warmer, open_graph(warmer, None))["key"])
    assert len(keys) == 4
