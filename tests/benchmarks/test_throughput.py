"""Every row runs on both sides and agrees; the command says what is wrong before it measures."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows.job import Job, with_section
from benchmarks.subset import Subset
from benchmarks.throughput import CURVES, ROWS, main
from engine.cli import ConfigError
from engine.config import Config

RunCommand = Callable[..., subprocess.CompletedProcess[str]]

# At 0.5, the smallest of the published scales, a view still has 32 pixels.
_BASE_HW = (64, 96)


@pytest.fixture(scope="module")
def tiny_job(tiny_subset: Subset, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    config = with_section(tiny_subset.config, "inference", base_hw=_BASE_HW)
    subset = tiny_subset.configured(config)
    return Job(subset, folder / "networks", folder / "shared", folder, models=2)


@pytest.mark.parametrize("name", ROWS)
def test_both_sides_of_a_row_agree(name: str, tiny_job: Job) -> None:
    pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")
    from benchmarks.rows.catalogue import rows

    row = rows("cpu")[name]
    subset = tiny_job.subset.configured(row.configure(tiny_job.config))
    job = replace(tiny_job, subset=subset, shared=tiny_job.shared / name)
    if row.shared is not None:
        row.shared(job)
    prepared = row.ours(replace(job, folder=job.folder / name / "ours"))
    prepared.reset()
    ours = prepared.run()
    assert ours["frames"] > 0
    for number, rival in enumerate(row.rivals.values()):
        # Forked from a test that has run threads already, a worker might hang.
        recipe = replace(rival.recipe, workers=0)
        prepared = rival.prepare(replace(job, folder=job.folder / name / str(number)), recipe)
        prepared.reset()
        theirs = prepared.run()
        row.check(ours, theirs)
        prepared.reset()
        assert prepared.run()["frames"] == ours["frames"]
    work = row.work(job)
    assert work.bytes > 0
    assert work.floor_s({"copy_bytes_s": 1e10, "gemm_flop_s": 1e11}) > 0


def test_the_command_knows_every_row_and_curve() -> None:
    pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")
    from benchmarks.curves import curves
    from benchmarks.rows.catalogue import rows

    assert tuple(rows("cpu")) == tuple(rows("cuda")) == ROWS
    assert tuple(curves()) == CURVES
    assert {curve.row for curve in curves().values()} <= set(ROWS)
    gpu_rivals = rows("cuda")["train step"].rivals
    assert gpu_rivals["plain, AMP"].recipe.amp
    assert gpu_rivals["plain"].recipe.device == "cuda"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "steps"], "--rows: unknown 'steps'; there are 'data cached'"),
        (["--curves", "time"], "--curves: unknown 'time'"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--frames", "1"], "--frames must be at least 2"),
        (["--training.epoch", "3"], "--training.epoch"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)


def test_a_wrong_gate_file_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")
    with pytest.raises(FileNotFoundError):
        main(["--gate", str(tmp_path / "none.json")])


def test_the_command_measures_writes_and_gates(
    tiny_config: Config, run_command: RunCommand, tmp_path: Path
) -> None:
    pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")
    flags = _flags(tiny_config)
    chosen = ["--rows", "train step", "--curves", "crops", "--rivals", "plain", "--frames", "12"]
    out, picture = tmp_path / "figures.json", tmp_path / "curves.png"
    files = ["--json", out, "--plot", picture]
    done = run_command("benchmarks.throughput", *flags, *chosen, "--rounds", "2", *files)
    assert done.returncode == 0, done.stderr
    assert "train step" in done.stdout
    assert "exponent" in done.stdout
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    (row,) = content["rows"]
    assert row["ratio"] > 0
    assert row["peak_extra_mib"] > 0
    assert sum(row["phases"][phase]["median_s"] for phase in row["phases"]) == pytest.approx(
        row["median_s"], rel=0.5
    )
    assert [point["work"] for point in content["curves"][0]["points"]] == [1, 2, 4]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert content["machine"]["rates"]["gemm_flop_s"] > 0

    content["rows"][0] |= {"ratio": 1e6, "quartiles": [1e6, 1e6]}
    out.write_text(json.dumps(content), encoding="utf-8")
    chosen = ["--rows", "train step", "--rivals", "plain", "--frames", "12", "--rounds", "1"]
    gated = run_command("benchmarks.throughput", *flags, *chosen, "--gate", out)
    assert gated.returncode == 1, gated.stderr
    assert "train step against plain" in gated.stderr


def _flags(config: Config) -> list[str]:
    """The tiny experiment as flags: the command has configs of its own."""
    changed = {
        "data": ("root", "folds", "blocks_per_fold", "input_hw", "crop_hw"),
        "model": ("encoder", "weights", "pyramid_channels"),
        "training": ("batch_size", "threads"),
    }
    flags = []
    for section, keys in changed.items():
        for key in keys:
            value = getattr(getattr(config, section), key)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags += [f"--{section}.{key}", text]
    return flags
