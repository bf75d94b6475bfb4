"""Whether a run sees frames in one zoom, and what it says if not."""

import pytest

from engine.config import Config
from engine.report.zoom_gap import ZoomGap, zoom_gap


def config_of(fit: str, base: object, input_hw: tuple[int, int] = (720, 960)) -> Config:
    data = {"fit": fit, "input_hw": input_hw, "crop_hw": (32, 32)}
    return Config.model_validate({"data": data, "inference": {"base_hw": base, "scales": [1.0]}})


@pytest.mark.parametrize("fit", ["keep", "stretch"])
@pytest.mark.parametrize("hw", [(480, 640), (640, 480), (97, 131), (50, 4000)], ids=str)
def test_training_s_zoom_is_nothing_to_tell_of(fit: str, hw: tuple[int, int]) -> None:
    assert zoom_gap(config_of(fit, "training"), [hw]) is None


def test_another_zoom_is_told_in_one_line_with_the_frames_that_it_concerns() -> None:
    gap = zoom_gap(config_of("keep", "own"), [(480, 640)] * 3 + [(640, 480)] * 2 + [(720, 960)])
    told = {"frames": 5, "frame_hw": (480, 640), "training_hw": (720, 960), "view_hw": (480, 640)}
    assert gap == ZoomGap.model_validate(told)
    assert gap.told() == (
        "zooms differ for 5 training frames: 480 x 640 is 720 x 960 in training, 480 x 640 in "
        'views of scale 1; inference.base_hw = "training" makes them one'
    )


def test_frames_that_only_one_side_squeezes_are_told_of() -> None:
    for fit, base in (("stretch", "own"), ("keep", (720, 960))):
        gap = zoom_gap(config_of(fit, base), [(720, 960), (960, 720)])
        assert gap is not None
        assert (gap.frames, gap.frame_hw) == (1, (960, 720))


def test_rounding_to_a_stride_is_no_other_zoom() -> None:
    # Views of 96 x 160 and of 704 x 960.
    assert zoom_gap(config_of("stretch", (120, 160), (120, 160)), [(480, 640)]) is None
    assert zoom_gap(config_of("stretch", "own"), [(720, 960)]) is None
    assert zoom_gap(config_of("stretch", (688, 928)), [(480, 640)]) is not None
