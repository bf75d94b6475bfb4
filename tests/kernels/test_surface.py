"""Normals of a depth map, and crops of what is made of them, against the mathematics."""

from typing import Any

import numpy as np
import pytest
import torch

from kernels.surface import append_cells, reference, surface_normals

HW, PITCH = (37, 46), 0.01


def plane(normal: tuple[float, float, float], distance: float) -> np.ndarray[Any, Any]:
    """(H, W) float32 inverse depth of the plane n . X = distance."""
    v, u = ((np.arange(side) + 0.5 - side / 2) * PITCH for side in HW)
    slope = normal[0] * u + (normal[1] * v + normal[2])[:, None]
    return (slope / distance).astype(np.float32)


def test_the_normals_of_planes_are_exact_up_to_edges_and_holes() -> None:
    near, far = (0.6, 0.0, 0.8), (-0.48, 0.6, 0.64)
    inverse = plane(near, 1.5)
    inverse[:, 23:] = plane(far, 2.5)[:, 23:]
    inverse[10:14, 5:9] = 0
    found = surface_normals(inverse, PITCH)
    expected = np.where(np.arange(HW[1])[:, None] < 23, -np.array(near), -np.array(far))
    expected = np.where(inverse[..., None] > 0, expected, 0)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_normals_are_those_of_the_reference() -> None:
    random = np.random.Generator(np.random.Philox(7))
    inverse = plane((0.48, -0.6, 0.64), 2) * random.normal(1, 0.02, HW).astype(np.float32)
    inverse[random.random(HW) < 0.3] = 0
    inverse[:, 30:32] *= np.float32(1.3)
    # Next to nothing: alone, in a line, and as much as is needed.
    inverse[:, :20] = 0
    inverse[5, 5] = inverse[20, 4:13] = inverse[30:34, 2:6] = 0.5
    expected = reference.surface_normals(inverse, PITCH)
    found = surface_normals(inverse, PITCH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not found[5, 5].any()
    assert not found[20, 4:13].any()
    length = np.linalg.norm(found, axis=-1)
    np.testing.assert_allclose(length[length > 0], 1, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"dtype": np.float64}, {"shape": 3}, {"pitch": 0.0}])
def test_other_arrays_and_pitches_are_refused(wrong: dict[str, Any]) -> None:
    inverse = np.ones((4, 4) if "shape" not in wrong else (4,), wrong.get("dtype", np.float32))
    with pytest.raises(ValueError, match=r"\(H, W\) float32 and its pitch positive, got"):
        surface_normals(inverse, wrong.get("pitch", PITCH))


def crops(K: int = 3) -> list[Any]:
    """Two images of 5 x 7 pixels, and cells of frames of two sizes."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 5, 7, 4, generator=generator).permute(0, 3, 1, 2)
    depth = torch.rand(2, 5, 7, generator=generator) * (torch.arange(7) % 3 > 0)
    sizes = ((3, 4), (6, 2))
    cells = [
        torch.randint(-(2**31), 2**31, hw, generator=generator, dtype=torch.int32) for hw in sizes
    ]
    rows = torch.tensor([[0, 0, 1, 2, 2], [5, 4, 2, 1, 0]])
    columns = torch.tensor([[0, 0, 1, 2, 2, 3, 3], [1, 1, 1, 0, 0, 0, 0]])
    return [image, depth, cells, rows, columns, torch.tensor([[1.0, -1.0, 0.5]] * 2)[:, :K]]


@pytest.mark.parametrize("K", [2, 3])
def test_cells_come_behind_the_channels_as_the_reference_has_it(K: int) -> None:
    given = crops(K)
    found, expected = append_cells(*given), reference.append_cells(*given)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found[:, :4], given[0])
    cell = given[2][1][4, 1].item() & 0xFF
    signed = cell - 256 if cell > 127 else cell
    assert found[1, 4, 1, 1].item() == pytest.approx(signed / 127, rel=1e-6)
    assert (found[:, 4:, :, 0] == 0).all()


def test_cells_of_no_rows_are_none() -> None:
    image, depth, _, rows, columns, sign = (part[:0] for part in crops())
    for append in (append_cells, reference.append_cells):
        assert append(image, depth, [], rows, columns, sign).shape == (0, 7, 5, 7)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (1, torch.zeros(2, 5, 8), "do not fit depth"),
        (2, [], "0 frames of cells"),
        (3, torch.full((2, 5), 3), "a row of cells lies outside"),
        (4, torch.full((2, 7), -1), "a column of cells lies outside"),
        (5, torch.ones(2, 5), "at most 4 channels"),
        (5, torch.ones(2, 3, dtype=torch.float64), "got .*float64"),
    ],
)
def test_what_does_not_fit_is_refused(place: int, wrong: Any, message: str) -> None:
    given = crops()
    given[place] = wrong
    with pytest.raises(ValueError, match=message):
        append_cells(*given)
