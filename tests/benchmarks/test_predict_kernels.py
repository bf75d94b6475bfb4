"""Predicted times follow from counted instructions and bytes, of loops that are really there."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import predict_kernels
from benchmarks.lowering import Lowered
from benchmarks.predicted_cases import CASES
from benchmarks.prediction import (
    GPUS,
    Gpu,
    Nest,
    kernel_cost,
    pytorch_cost,
    total,
    warp_instructions,
)
from benchmarks.sass import Block
from engine.mistakes import ConfigError

PREDICTED = [name for name in CASES if not re.fullmatch("depthwise_norm_(256|512|1024)", name)]
# Those below are lowered in seconds each; all are in the full form.
FEW = ["boundary_ce", "tta_accumulate", "confusion", "confusion_3M", "crop_resize"]
FEW += ["group_norm_relu", "scaled_weight"]
ROOT = Path(__file__).resolve().parent.parent.parent

# 20 instructions of its own, then a loop of 30 with one of 12 in it, then one of 8.
CODE = Block(70, {}, (Block(42, {}, (Block(12, {}),)), Block(8, {})))
SLOW = Gpu("one multiprocessor", 90, 1, 1e6, 1e9)


def lowered(code: Block, loads: int = 0) -> Lowered:
    return Lowered(32, 0, 0, {"32": loads} if loads else {}, {}, code)


def test_loops_count_as_often_as_they_are_gone_through() -> None:
    loops = (Nest(5, (Nest(2.5),)), Nest(100))
    assert warp_instructions(CODE, loops) == 20 + 5 * (30 + 2.5 * 12) + 100 * 8
    assert warp_instructions(Block(7, {}), ()) == 7


@pytest.mark.parametrize(
    "loops",
    [
        (),
        (Nest(5, (Nest(2),)),),
        (Nest(5), Nest(1)),
        (Nest(5, (Nest(2, (Nest(1),)),)), Nest(1)),
        (Nest(5, (Nest(2),)), Nest(1), Nest(1)),
    ],
)
def test_other_loops_than_the_machine_code_has_are_an_error(loops: tuple[Nest, ...]) -> None:
    with pytest.raises(ValueError, match="the machine code has .* stated: the kernel was changed"):
        warp_instructions(CODE, loops)


def test_an_error_of_loops_says_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"has 2 loops \(of 42, 8 instructions\) where 1 are"):
        warp_instructions(CODE, (Nest(1),))
    with pytest.raises(ValueError, match="has no loop where 1 are stated"):
        warp_instructions(Block(7, {}), (Nest(1),))


def test_a_loop_that_ptxas_unrolled_is_an_error() -> None:
    loop = Block(40, {"LDG.32": 4})
    code = lowered(Block(50, {"LDG.32": 4}, (loop,)), loads=1)
    with pytest.raises(ValueError, match="ptxas made 4 LDG of 1: it has unrolled a loop"):
        kernel_cost(code, (Nest(8),), 1, {}, SLOW)
    kernel_cost(replace(code, loads={"32": 3, "128": 1}), (Nest(8),), 1, {}, SLOW)


def test_a_launch_takes_the_longer_of_issuing_and_moving() -> None:
    # Four schedulers at 1 MHz issue 4e6 instructions a second; a byte takes 1 ns.
    issued = kernel_cost(lowered(Block(400, {})), (), 10, {"x": 500e3}, SLOW)
    assert issued.warp_instructions == 4000
    assert (issued.issue_s, issued.memory_s) == pytest.approx((1e-3, 0.5e-3))
    assert issued.seconds == pytest.approx(1e-3 + 2e-6)
    moved = kernel_cost(lowered(Block(400, {})), (), 10, {"x": 1e6, "y": 3e6}, SLOW)
    assert moved.seconds == pytest.approx(4e-3 + 2e-6)
    whole = total([issued, moved, pytorch_cost(2e6, SLOW)])
    assert whole.launches == 3
    assert whole.seconds == pytest.approx(1e-3 + 4e-3 + 2e-3 + 3 * 2e-6)
    assert whole.bytes == 0.5e6 + 4e6 + 2e6


def test_the_bounds_of_an_h100() -> None:
    cost = kernel_cost(lowered(Block(1755, {})), (), 528_000, {"x": 3.35e9}, GPUS[90])
    assert cost.issue_s == pytest.approx(1e-3)
    assert cost.memory_s == pytest.approx(1e-3)


def test_every_operation_that_can_be_asked_for_has_a_case() -> None:
    assert list(CASES) == list(predict_kernels.OPERATIONS)
    assert list(GPUS) == list(predict_kernels.ARCHITECTURES)


def test_help_comes_without_torch() -> None:
    program = (
        "import sys; from benchmarks import predict_kernels\n"
        "try: predict_kernels.main(['--help'])\n"
        "finally: assert not {'torch', 'triton', 'numpy'} & set(sys.modules)"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    assert "max(warp instructions" in done.stdout


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match="TRITON_INTERPRET is set, .* makes no machine code"):
        predict_kernels.main(["confusion"])


@pytest.fixture(
    scope="module",
    params=[FEW, pytest.param(PREDICTED, marks=pytest.mark.full)],
    ids=["few", "all"],
)
def rows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the command says on an H100, by name; of one stage of ConvNeXt, as all are alike."""
    out = tmp_path_factory.mktemp("predicted") / "rows.json"
    done = run("-m", "benchmarks.predict_kernels", *request.param, "--json", out)
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(out.read_text("utf-8"))["rows"]}
    assert list(found) == request.param
    return found


def test_every_operation_is_predicted_from_loops_that_its_kernels_have(
    rows: dict[str, dict[str, Any]],
) -> None:
    for row in rows.values():
        kernels = row["kernels"].values()
        assert sum(kernel["launches"] for kernel in kernels) == row["launches"]
        assert row["seconds"] >= max(row["issue_s"], row["memory_s"]) + 2e-6 * row["launches"]
        assert row["warp_instructions"] > 0


def test_a_loop_over_pixels_costs_by_the_pixel(rows: dict[str, dict[str, Any]]) -> None:
    many, few = rows["confusion"], rows["confusion_3M"]
    assert list(many["kernels"]) == list(few["kernels"])
    pixels = 480 * 640
    assert many["bytes"] == pytest.approx(2 * 79 * pixels, rel=1e-3)
    ratio = many["warp_instructions"] / few["warp_instructions"]
    assert ratio == pytest.approx(79 / 10, rel=0.1)
    assert few["warp_instructions"] > 10 * pixels / 32


def test_what_was_measured_stands_beside_what_the_same_call_would_take(
    rows: dict[str, dict[str, Any]],
) -> None:
    measured = {name: row["measured_s"] for name, row in rows.items() if "measured_s" in row}
    assert set(measured) == {"boundary_ce", "confusion", "crop_resize"}
    # A bound: nothing that was measured took less than half of it, by other kernels' code.
    assert all(seconds > 0.5 * rows[name]["seconds"] for name, seconds in measured.items())


def test_the_kernels_stay_below_the_times_that_they_are_built_for(
    rows: dict[str, dict[str, Any]],
) -> None:
    most_us = {"boundary_ce": 30, "confusion_3M": 25, "tta_accumulate": 300, "crop_resize": 20}
    if len(rows) > len(FEW):
        most_us["crop_resize_bf16"] = 20
        assert rows["blend_64"]["seconds"] <= 2 * rows["blend_1"]["seconds"]
    for name, most in most_us.items():
        assert rows[name]["seconds"] <= most * 1e-6, name


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, in which Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
