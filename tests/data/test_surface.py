"""Surfaces of rendered rooms, whose geometry is known, and the crops of every source."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import Config
from engine.data.batch import Draws
from engine.data.inputs import InputSpec, Normalisation, crop_frames, plain_draws
from engine.data.surface import Surface, cell_side, upwards
from engine.frames.decode import Sample
from engine.nyuv2 import CLASSES
from engine.rooms.layout import build_scene
from engine.rooms.render import render
from kernels.crop_resize import Frames, crop_resize
from kernels.surface import surface_normals
from tests.frames_on_disk import has_dali

HW, FOV = (120, 160), math.degrees(1.1)  # the field of view of `engine.rooms.render`
NORMALISATION = Normalisation((127.0,) * 3, (128.0,) * 3)
NORMALS, HHA = (Surface(kind, FOV, 0.001) for kind in ("normals", "hha"))
KINDS = ("rgbdn", "rgbhha")


@cache
def views() -> list[tuple[Any, Any, Any]]:
    """Cameras of four rooms, with depth and label of what they see."""
    random = np.random.Generator(np.random.Philox(3))
    scenes = [build_scene(random, kind, 3) for kind in range(4)]
    cameras = [(scene, camera) for scene in scenes for camera in scene.cameras]
    return [(camera, *render(scene, camera, HW, random)[1:]) for scene, camera in cameras]


def unpacked(cells: Any, channels: int) -> Any:
    return cells.view(np.int8).reshape(*cells.shape, 4)[..., :channels] / 127


def degrees(cosine: Any) -> Any:
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_gravity_is_found_in_rooms_by_their_depth_alone() -> None:
    off = []
    for camera, depth, _ in views():
        inverse = np.divide(1000, depth, out=np.zeros(HW, np.float32), where=depth > 0)
        pitch = 2 * math.tan(math.radians(FOV) / 2) / HW[1]
        up = upwards(surface_normals(inverse.astype(np.float32), pitch))
        truth = np.array([0, -math.cos(camera.pitch), math.sin(camera.pitch)])
        off.append(degrees(up @ truth))
    assert np.median(off) < 1
    assert max(off) < 5


def test_floors_face_upwards_and_lie_at_0_ceilings_downwards_walls_sideways() -> None:
    means: dict[str, list[Any]] = {name: [] for name in ("floor", "ceiling", "wall")}
    for _, depth, label in views():
        part = unpacked(HHA.cells(depth), 2)
        for name, found in means.items():
            seen = (label == CLASSES.index(name)) & (depth > 0)
            if seen.sum() > 500:
                found.append(np.median(part[seen], axis=0))
    height, cosine = (np.array(means["floor"]).T[axis] for axis in (0, 1))
    assert (cosine > 0.98).all()
    assert (height < 0.05).all()  # 15 cm
    assert (np.array(means["ceiling"])[:, 1] < -0.97).all()
    assert (np.abs(np.array(means["wall"])[:, 1]) < 0.1).all()


def test_a_frame_without_depth_or_floor_is_0_and_measured_from_the_camera() -> None:
    for surface in (NORMALS, HHA):
        assert not surface.cells(np.zeros(HW, np.uint16)).any()
    # A wall ahead, of which no part is 0.9 m below the camera: its middle is 1.3 m high.
    part = unpacked(HHA.cells(np.full(HW, 1500, np.uint16)), 2)
    assert part[60, 80, 0] == pytest.approx(1.3 / 3, abs=0.02)
    assert np.abs(part[..., 1]).max() < 0.01


def test_large_frames_are_seen_in_cells_and_their_borders_too() -> None:
    assert [cell_side((side, 30)) for side in (20, 480, 640, 4000)] == [1, 2, 2, 12]
    assert NORMALS.cells(np.full((641, 333), 1500, np.uint16)).shape == (321, 167)
    assert (unpacked(NORMALS.cells(np.full((641, 333), 1500, np.uint16)), 3)[..., 2] < -0.99).all()


def frames() -> Frames:
    """The first two views, without colours."""
    depth = np.stack([depth for _, depth, _ in views()[:2]])
    grey = torch.full((2 * HW[0] * HW[1], 3), 90, dtype=torch.uint8)
    hw = torch.tensor([HW, HW])
    offset = torch.tensor([0, HW[0] * HW[1]])
    return Frames(grey, torch.from_numpy(depth.reshape(-1)), None, offset, hw)


def spec_of(kind: str) -> InputSpec:
    config = Config.model_validate({"data": {"fov": FOV}, "model": {"input": kind}})
    assert config.needs_depth
    spec = InputSpec.of(config, NORMALISATION)
    assert (
        spec.channels + (spec.surface.channels if spec.surface else 0) == config.model.in_channels
    )
    return spec


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_crop_is_the_crop_in_a_mirror_and_normals_turn(kind: str) -> None:
    given, spec = frames(), spec_of(kind)
    box = np.array([[10.0, 20.0, 64.0, 96.0], [0.0, 0.0, *HW]])
    draws = plain_draws(np.array([0, 1]), box)
    plain = crop_frames(given, draws, (64, 96), spec, crop_resize).image_BChw
    mirrored = Draws(draws.index, box, np.array([True, True]), draws.light)
    flipped = crop_frames(given, mirrored, (64, 96), spec, crop_resize).image_BChw
    assert torch.equal(flipped, spec.mirrored(plain))
    assert torch.equal(spec.mirrored(flipped), plain)
    turned = torch.equal(flipped.flip(-1)[:, 4], plain[:, 4])
    assert turned == (kind == "rgbhha")
    assert torch.equal(flipped.flip(-1)[:, 5:], plain[:, 5:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_of_any_zoom_sees_the_surfaces_of_its_frame(kind: str) -> None:
    given, spec = frames(), spec_of(kind)
    box = np.array([[8.0, 16.0, 64.0, 96.0]])
    large, small = (
        crop_frames(given, plain_draws(np.array([1]), box), hw, spec, crop_resize).image_BChw
        for hw in ((192, 288), (64, 96))
    )
    assert torch.equal(large[:, 4:, 1::3, 1::3], small[:, 4:])
    assert spec.surface is not None
    assert given.depth_P is not None
    cells = spec.surface.cells(given.depth_P.view(2, *HW)[1].numpy())
    part = torch.from_numpy(unpacked(cells, spec.surface.channels)[8:72, 16:112])
    torch.testing.assert_close(small[0, 4:].permute(1, 2, 0).double(), part, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", [pytest.param("dali", marks=has_dali), "torch"])
def test_sources_of_files_have_the_surfaces_of_the_resident_one(
    source: str,
    kind: str,
    png: list[Sample],
    source_of: Callable[..., Any],
    epoch: Callable[..., Any],
) -> None:
    spec = spec_of(kind)
    ours, theirs = (replace(source_of(name, png), spec=spec) for name in (source, "resident"))
    some = 0
    for a, b in zip(ours.batches(epoch(png)), theirs.batches(epoch(png)), strict=True):
        assert a.image_BCHW.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(a.image_BCHW[:, 4:], b.image_BCHW[:, 4:])
        some += int((b.image_BCHW[:, 4:] != 0).sum())
        assert (b.image_BCHW[:, 4:].permute(0, 2, 3, 1)[b.depth_BHW == 0] == 0).all()
    assert some > 1000


def test_other_inputs_have_no_surfaces() -> None:
    for kind in ("rgb", "rgbd"):
        spec = InputSpec.of(Config.model_validate({"model": {"input": kind}}), NORMALISATION)
        assert spec.surface is None
        image = torch.rand(1, spec.channels, 3, 4)
        assert torch.equal(spec.mirrored(image), image.flip(-1))
