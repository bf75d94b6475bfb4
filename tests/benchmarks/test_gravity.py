"""Up by depth alone against up by a file of rotations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.gravity import main, published_up


def test_a_camera_that_looks_down_at_a_floor_is_as_far_off_as_its_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Pitched downwards by 30 degrees, 1.5 m above a floor; the file says 30 and 20.
    pitch = np.radians(30)
    up = np.array([0, -np.cos(pitch), -np.sin(pitch)])
    v = (np.arange(120) + 0.5 - 60) * 4 / 518.86
    slope = -(up[1] * v + up[2])
    depth = np.tile(1500 / np.maximum(slope, 0.1), (160, 1)).T.astype(np.uint16)
    (tmp_path / "depth").mkdir()
    for stem in ("000001", "000002"):
        Image.fromarray(depth).save(tmp_path / "depth" / f"{stem}.png")
    rotations = tmp_path / "rotations.txt"
    rows = []
    for degrees in (0, 30, 20):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        rows += [[1, 0, 0], [0, cos, sin], [0, -sin, cos]]
    np.savetxt(rotations, rows)
    np.testing.assert_allclose(published_up(rotations)[1], up, atol=1e-9)
    assert main([str(tmp_path), str(rotations)]) == 0
    found, own, _ = capsys.readouterr().out.splitlines()
    assert "2 frames" in found
    assert float(found.split("100 %: ")[1].split(";")[0]) == pytest.approx(10, abs=0.6)
    assert float(own.split("100 %: ")[1].split(";")[0]) == pytest.approx(30, abs=0.01)
