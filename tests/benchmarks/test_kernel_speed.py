"""An operation is timed with the libraries that are there; what cannot be measured is said."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import crop_case, kernel_speed, layer_cases, timing
from benchmarks.figures import Work
from benchmarks.pace import Pace
from engine.mistakes import ConfigError

_CPU = torch.device("cpu")


def test_a_library_that_is_missing_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in ("albumentations", "kornia", "sklearn", "torchmetrics"):
        monkeypatch.setitem(sys.modules, library, None)
    for module in ("benchmarks.cases", "benchmarks.crop_case"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    cases = importlib.import_module("benchmarks.cases").CASES
    assert list(cases) == list(kernel_speed.OPERATIONS)
    case = cases["tta_accumulate"](_CPU)
    assert list(case.sides) == ["ours", "eager", "torch.compile", "opencv"]
    assert capsys.readouterr().err == ""
    assert list(cases["crop_resize"](_CPU).sides) == ["ours", "eager", "opencv"]
    assert capsys.readouterr().err.splitlines() == [
        f"{name} is left out: {name} cannot be imported; pip install 'roomsmith[bench]'"
        for name in ("albumentations", "kornia")
    ]


@pytest.mark.bench("kornia")
def test_kornia_crops_what_we_crop() -> None:
    case = crop_case.crop_resize(_CPU)
    ours, (theirs,) = case.sides["ours"](), case.sides["kornia"]()
    std = torch.tensor(crop_case._STD)[:, None, None]
    gap = (ours.image_BChw - theirs.image_BChw).abs() * std
    # It finds its taps in float32, by way of -1 to 1.
    assert float(gap.max()) < 0.1, "of 255"
    assert float((ours.label_Bhw != theirs.label_Bhw).double().mean()) < 1e-3
    # A centre that lies between two pixels of the frame, as one in 54 does, has two nearest ones.
    other = (ours.depth_Bhw - theirs.depth_Bhw).abs() > 1e-5
    assert float(other.double().mean()) < 0.03


@pytest.mark.parametrize("name", kernel_speed.LAYERS)
def test_layers_of_an_encoder_are_compared_with_pytorchs(name: str) -> None:
    assert list(layer_cases.LAYERS) == list(kernel_speed.LAYERS)
    case = layer_cases.LAYERS[name](_CPU)
    case.check(case.sides["ours"](), case.sides["eager"]())
    assert case.work.bytes > 0


def test_a_layer_is_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kernel_speed", "depthwise", "--gpu"])
    with pytest.raises(ConfigError, match="depthwise is a kernel for a CPU; leave out --gpu"):
        kernel_speed.main()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operations that take no time, on a machine whose rates and memory nobody measures."""

    def case(name: str) -> timing.Case:
        def work() -> float:
            if name == "confusion" and len(called) > _CALLS:
                raise KeyboardInterrupt
            called.append(name)
            return 1.0

        called: list[str] = []
        sides = {"ours": work, "eager": work}
        return timing.Case(name, sides, Work(1, 1), lambda *_: None, _CPU, threads=1)

    cases = importlib.import_module("benchmarks.cases").CASES
    for name in ("boundary_ce", "confusion"):
        monkeypatch.setitem(cases, name, lambda _, name=name: case(name))
    rates = {"copy_bytes_s": 1e10, "gemm_flop_s": 1e11}
    monkeypatch.setattr(timing, "machine_rates", lambda *_, **__: rates)
    peaks = {side: {"peak_extra_mib": 2.0} for side in ("ours", "eager")}
    monkeypatch.setattr(timing, "extra_memory", lambda _: peaks)


_CALLS = 5
"""Of both sides together, after which the second operation is interrupted."""


@pytest.mark.usefixtures("measured")
def test_an_interrupted_run_leaves_the_rows_that_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    arguments = ["kernel_speed", "boundary_ce", "confusion", "--rounds", "3", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        kernel_speed.main()
    content = json.loads(out.read_text("utf-8"))
    assert content["unfinished"] == ["confusion", "memory"]
    (row,) = content["rows"]
    assert (row["name"], row["rival"], row["rounds"]) == ("boundary_ce", "eager", 3)
    assert "peak_extra_mib" not in row
    shown = capsys.readouterr()
    assert shown.out.startswith("boundary_ce against eager: ours ")
    assert "boundary_ce, round 3/3: " in shown.err
    assert "; at most " in shown.err


@pytest.mark.usefixtures("measured")
def test_a_whole_run_has_memory_and_lacks_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["kernel_speed", "boundary_ce", "--json", str(out)])
    assert kernel_speed.main() == 0
    content = json.loads(out.read_text("utf-8"))
    assert "unfinished" not in content
    (row,) = content["rows"]
    assert (row["peak_extra_mib"], row["rival_peak_extra_mib"]) == (2.0, 2.0)
    assert 3 <= row["rounds"] <= 11


@pytest.mark.usefixtures("measured")
def test_an_operation_for_which_no_time_is_left_is_named_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    begin = Pace.begin
    monkeypatch.setattr(Pace, "begin", lambda pace, part: part != "confusion" and begin(pace, part))
    arguments = ["kernel_speed", "boundary_ce", "confusion", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert kernel_speed.main() == 0
    assert json.loads(out.read_text("utf-8"))["unfinished"] == ["confusion"]


def test_a_system_that_tells_no_peak_is_named_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert timing.status_mib("VmHWM") >= timing.status_mib("VmRSS") > 50
    tell = timing.status_mib
    monkeypatch.setattr(timing, "status_mib", lambda key: tell(f"{key}Lacking"))
    monkeypatch.setattr(sys, "argv", ["kernel_speed", "boundary_ce"])
    with pytest.raises(RuntimeError, match="no line VmHWMLacking here.*measure on a system whose"):
        kernel_speed.main()
