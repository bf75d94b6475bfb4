"""One operation is timed with its own rivals' libraries, and what cannot be measured is said."""

import importlib
import sys

import pytest
import torch

pytest.importorskip("cv2", reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks import kernel_speed, timing
from engine.mistakes import ConfigError


def test_an_operation_needs_no_library_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("albumentations", "sklearn", "torchmetrics"):
        monkeypatch.setitem(sys.modules, library, None)
    for module in ("benchmarks.cases", "benchmarks.crop_case"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    cases = importlib.import_module("benchmarks.cases").CASES
    assert list(cases) == list(kernel_speed.OPERATIONS)
    case = cases["tta_accumulate"](torch.device("cpu"))
    assert list(case.sides) == ["ours", "eager", "torch.compile", "opencv"]
    monkeypatch.setattr(sys, "argv", ["kernel_speed", "tta_accumulate", "crop_resize"])
    with pytest.raises(ConfigError, match="^albumentations cannot be imported; pip install"):
        kernel_speed.main()


def test_a_system_that_tells_no_peak_is_named_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert timing.status_mib("VmHWM") >= timing.status_mib("VmRSS") > 50
    tell = timing.status_mib
    monkeypatch.setattr(timing, "status_mib", lambda key: tell(f"{key}Lacking"))
    monkeypatch.setattr(sys, "argv", ["kernel_speed", "boundary_ce"])
    with pytest.raises(RuntimeError, match="no line VmHWMLacking here.*measure on a system whose"):
        kernel_speed.main()
