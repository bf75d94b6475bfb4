"""A kernel's case whose sides run in processes of their own."""

from dataclasses import replace

import pytest
import torch

for _library in ("albumentations", "cv2"):
    pytest.importorskip(_library, reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks.apart import run_apart  # noqa: E402
from benchmarks.cases.crop_resize import cases  # noqa: E402
from benchmarks.timing import Case  # noqa: E402
from kernels.crop_resize import Crops  # noqa: E402


def one_frame() -> Case:
    (case,) = (made for made in cases(torch.device("cpu")) if made.apart)
    return case


def test_every_side_is_timed_in_every_round() -> None:
    said: list[str] = []
    timed = run_apart("crop_resize", one_frame(), 2, said.append)
    assert set(timed.rivals_s) == {"eager", "opencv", "albumentations"}
    for seconds in (timed.ours_s, *timed.rivals_s.values()):
        assert len(seconds) == 2
        assert min(seconds) > 0
    assert said[-1].startswith("  round 2/2: ours ")
    assert timed.case.name == "crop_resize, one frame"


def test_nothing_is_timed_if_a_rival_differs() -> None:
    case = one_frame()

    def wrong() -> list[Crops]:
        return [Crops(image * 0, depth, label) for image, depth, label in [case.ours()]]

    rivals = {**case.rivals, "opencv": wrong}
    with pytest.raises(AssertionError, match="opencv: images differ"):
        run_apart("crop_resize", replace(case, rivals=rivals), 1, print)
