"""What the sections rest on, where no GPU is needed to see it; the command runs them whole."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.certify import experiment
from benchmarks.certify.certificate import ROOT
from benchmarks.certify.checks import SMALLEST
from benchmarks.certify.decode import decode
from benchmarks.certify.kinds import kind_of, measure_kinds
from benchmarks.certify.notes import Notes, NotHereError, need
from benchmarks.certify.repeat import repeat
from benchmarks.certify.run import run
from benchmarks.certify.step import step
from benchmarks.subset import with_section
from engine.cli import to_toml
from engine.config import Config


def test_findings_are_on_disk_as_soon_as_they_are_noted(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "one.json")
    notes.note("rate", 2.0)
    assert json.loads(notes.path.read_text("utf-8"))["found"] == {"rate": 2.0}
    notes.add_rows([{"name": "a"}])
    notes.add_rows([{"name": "b"}])
    notes.close()
    content = json.loads(notes.path.read_text("utf-8"))
    assert [row["name"] for row in content["rows"]] == ["a", "b"]
    assert content["device"]
    assert content["state"] == "held"
    # Another process goes on with them.
    assert Notes(notes.path).content == content


def test_what_is_missing_is_named() -> None:
    need("torch")
    with pytest.raises(NotHereError, match=r"not here: no_such_library cannot be imported"):
        need("torch", "no_such_library")
    if not torch.cuda.is_available():
        with pytest.raises(NotHereError, match="^no GPU$"):
            need(gpu=True)


def test_the_tests_for_the_sanitizer_are_of_every_operation() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *SMALLEST]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {line.partition("::")[0] for line in done.stdout.splitlines() if "[" in line}
    operations = ("boundary", "confusion", "confusion_blend", "crop_resize", "tta_accumulate")
    for operation in operations:
        assert any(file.startswith(f"tests/kernels/test_{operation}") for file in files)
    assert "bfloat16" in done.stdout


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::_fused_adamw_", "optimizer and average"),
        ("aten::_to_copy", "casts and copies"),
        ("aten::linalg_vector_norm", "sums"),
        ("aten::add_.Tensor", "elementwise"),
        ("roomsmith::boundary_ce", "ours"),
        ("aten::gather", "other"),
    ],
)
def test_operations_are_told_apart_by_name(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind


def test_bytes_are_those_that_an_operation_reads_and_writes() -> None:
    a_88, b_88 = torch.ones(8, 8), torch.ones(8, 8)

    def step() -> None:
        (a_88 @ b_88).t().reshape(-1)[3:]  # a product, and what moves nothing

    longest, kinds = measure_kinds(step, torch.device("cpu"))
    assert kinds["matrix products"]["bytes"] == 3 * a_88.nbytes
    assert kinds["matrix products"]["ms"] > 0
    assert "aten::mm" in {row["kernel"] for row in longest}


@pytest.mark.parametrize(
    ("section", "found"),
    [
        pytest.param(
            run,
            ["fold 0 went on", "out-of-fold by ten views", "submission", "where the time goes"],
            marks=pytest.mark.full,
        ),
        (repeat, ["five equal steps", "replays that wait for nothing"]),
        (decode, ["label", "depth", "image"]),
        (step, ["eager, batch 8", "longest kernels", "time and bytes by kind"]),
    ],
)
def test_without_a_gpu_a_section_holds_at_a_small_size(
    section: Callable[[Notes], None],
    found: list[str],
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # Smaller than the demo's, which the command takes; its smallest view still has 32 pixels.
    config, file = with_section(tiny_config, "inference", base_hw=(64, 64)), tmp_path / "tiny.toml"
    file.write_text(to_toml(config), "utf-8")
    monkeypatch.setattr(experiment, "_SMALL", experiment._Size(str(file), (48, 64)))
    if section is step:
        rates = {"copy_bytes_s": 1e10, "gemm_flop_s": 1e11}
        monkeypatch.setattr("benchmarks.timing.machine_rates", lambda *_: rates)
    notes = Notes(tmp_path / f"{section.__name__}.json")
    section(notes)
    notes.close()
    assert notes.content["state"] == "held", notes.content
    assert set(found) <= set(notes.content["found"])
