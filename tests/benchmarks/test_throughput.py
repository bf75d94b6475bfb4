"""Every row runs on both sides and agrees; the command says what is wrong before it measures."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import command, throughput
from benchmarks.subset import Job, Subset, with_section
from benchmarks.throughput import CURVES, ROWS, main
from engine.config import Config
from engine.mistakes import ConfigError

_SIDE_MIB = {
    f"{side}peak_{kind}_mib": 1.0 for side in ("", "rival_") for kind in ("extra", "mapped")
}
_STAGE: dict[str, Any] = {
    "rival": "plain",
    "rounds": 3,
    "frames": 12,
    "median_s": 1.0,
    "rival_median_s": 2.0,
    "share_of_floor": 0.5,
    **_SIDE_MIB,
}
_LAW = {"exponent": 1.0, "constant_s": 1.0, "startup_s": 0.0, "worst": 0.0}
_CURVE: dict[str, Any] = {
    "name": "frames",
    "row": "epoch",
    "unit": "frames",
    "rival": "plain",
    "points": [{"work": n, "median_s": n, "rival_median_s": 2 * n, **_SIDE_MIB} for n in (1, 2)],
    "fit": _LAW,
    "rival_fit": _LAW,
}

RunCommand = Callable[..., subprocess.CompletedProcess[str]]

# At 0.5, the smallest of the published scales, a view still has 32 pixels.
_BASE_HW = (64, 96)


@pytest.fixture(scope="module")
def tiny_job(tiny_subset: Subset, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    config = with_section(tiny_subset.config, "inference", base_hw=_BASE_HW)
    subset = tiny_subset.configured(config)
    folders = folder / "networks", folder / "shared", folder
    return Job(subset.config, subset.dataset, subset.folds, *folders, models=2)


@pytest.fixture(scope="module", params=ROWS)
def row_job(request: pytest.FixtureRequest, tiny_job: Job) -> Any:
    """A row, its job, and what our side found."""
    from benchmarks.known_rows import rows

    row = rows("cpu")[request.param]
    job = tiny_job.configured(row.configured(tiny_job.config))
    job = replace(job, shared=tiny_job.shared / row.name)
    if row.shared is not None:
        row.shared(job)
    prepared = row.ours(replace(job, folder=job.folder / row.name / "ours"))
    prepared.reset()
    return row, job, prepared.run()


_MORE = [
    *(("decode", "imagecodecs"), ("decode", "pyspng")),
    *(("validation", "onnxruntime"), ("oof", "onnxruntime")),
    *(("train step", "lightning"), ("epoch", "lightning")),
]
"""Rows with rivals by libraries that a row can do without."""


@pytest.mark.parametrize(
    ("row_job", "library"),
    [
        *((row, "") for row in ROWS),
        *(pytest.param(*pair, marks=pytest.mark.bench(pair[1])) for pair in _MORE),
    ],
    indirect=["row_job"],
)
@pytest.mark.bench("albumentations")
def test_both_sides_of_a_row_agree(library: str, row_job: Any) -> None:
    row, job, ours = row_job
    named = command._LIBRARIES
    rivals = {name: r for name, r in row.rivals.items() if named.get(name, ("",))[0] == library}
    assert rivals
    assert ours.frames > 0
    for name, rival in rivals.items():
        own = replace(job, folder=job.folder / row.name / name.replace(" ", "-"))
        given: dict[str, Any] = getattr(rival, "keywords", {})
        # Forked from a test that has run threads already, a worker might hang.
        alone = {"recipe": given["recipe"]._replace(workers=0)} if "recipe" in given else {}
        prepared = rival(own, **alone)
        prepared.reset()
        theirs = prepared.run()
        row.check(ours, theirs)
        prepared.reset()
        assert prepared.run().frames == ours.frames
    work = row.work(job)
    assert work.bytes > 0
    assert work.floor_s({"copy_bytes_s": 1e10, "gemm_flop_s": 1e11}) > 0


@pytest.mark.bench("albumentations")
def test_the_command_knows_every_row_and_curve() -> None:
    from benchmarks import measure
    from benchmarks.known_rows import rows

    assert tuple(rows("cpu")) == tuple(rows("cuda")) == ROWS
    assert tuple(measure.CURVES) == CURVES
    assert {curve.row for curve in measure.CURVES.values()} <= set(ROWS)
    several = ((row, command._LIBRARIES.get(n)) for row in ROWS for n in rows("cpu")[row].rivals)
    assert {(row, needed[0]) for row, needed in several if needed} == set(_MORE)
    gpu_rivals: dict[str, Any] = dict(rows("cuda")["train step"].rivals)
    assert gpu_rivals["plain, AMP"].keywords["recipe"].amp
    assert gpu_rivals["plain"].keywords["recipe"].device == "cuda"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "steps"], "--rows: invalid choice: 'steps' .choose from 'data cached'"),
        (["--curves", "time"], "--curves: invalid choice: 'time'"),
        (["--rounds", "0"], "--rounds: must be at least 1, got 0"),
        (["--frames", "1"], "--frames: must be at least 2"),
        (["--training.epoch", "3"], "--training.epoch"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)


@pytest.mark.bench("albumentations")
def test_a_wrong_gate_file_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["--gate", str(tmp_path / "none.json")])


@pytest.mark.bench("albumentations")
def test_the_command_measures_a_row_in_processes_of_its_own(
    tiny_config: Config, run_command: RunCommand, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    chosen = ["--rows", "train step", "--rivals", "plain", "--frames", "12", "--rounds", "2"]
    done = run_command("benchmarks.throughput", *_flags(tiny_config), *chosen, "--json", out)
    assert done.returncode == 0, done.stderr
    assert "train step" in done.stdout
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    (row,) = content["rows"]
    assert (row["name"], row["rival"], row["frames"]) == ("train step", "plain", 2)
    assert row["ratio"] > 0
    assert row["peak_extra_mib"] > 0
    assert row["rival_peak_extra_mib"] > 0
    phases = sum(figures["median_s"] for figures in row["phases"].values())
    assert phases == pytest.approx(row["median_s"], rel=0.5)
    assert content["machine"]["rates"]["gemm_flop_s"] > 0
    assert content["curves"] == []
    assert "unfinished" not in content
    assert row["rounds"] == 2
    assert "train step: first call of ours, not timed; at most " in done.stderr
    assert "train step against plain: ours " in done.stdout


@pytest.fixture
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose rates nobody measures: the test above shows that they are."""
    rates = {"copy_bytes_s": 1e10, "gemm_flop_s": 1e11}
    monkeypatch.setattr("benchmarks.timing.machine_rates", lambda *_: rates)


@pytest.mark.bench("albumentations")
@pytest.mark.usefixtures("known_rates")
@pytest.mark.parametrize(("ratio", "code"), [(3.0, 0), (1.5, 1)])
def test_the_gate_decides_the_exit_code(
    ratio: float,
    code: int,
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*_flags(tiny_config), "--rows", "epoch", "--curves", "frames"]
    out, picture = tmp_path / "figures.json", tmp_path / "curves.png"

    def measured(ratio: float) -> Callable[..., Any]:
        # What takes the time, measuring, is shown by the test above.
        row = _STAGE | {"name": "epoch", "ratio": ratio, "quartiles": [ratio, ratio + 0.1]}
        parts = ("epoch", "rows", [row]), ("curve of frames", "curves", [_CURVE])
        return lambda *_: iter(parts)

    monkeypatch.setattr(throughput, "_measured", measured(2.0))
    assert main([*arguments, "--json", str(out), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(throughput, "_measured", measured(ratio))
    assert main([*arguments, "--gate", str(out)]) == code
    assert ("epoch against plain: ratio 1.50, was 2.00" in capsys.readouterr().err) == bool(code)


@pytest.mark.bench("albumentations")
@pytest.mark.usefixtures("known_rates")
def test_an_interrupted_run_leaves_the_rows_that_it_has_and_names_the_others(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(*_: Any) -> Iterator[Any]:
        yield "epoch", "rows", [_STAGE | {"name": "epoch", "ratio": 2.0, "quartiles": [2.0, 2.1]}]
        raise KeyboardInterrupt

    monkeypatch.setattr(throughput, "_measured", measured)
    out = tmp_path / "figures.json"
    chosen = ["--rows", "epoch", "oof", "--curves", "runs", "--json", str(out)]
    with pytest.raises(KeyboardInterrupt):
        main([*_flags(tiny_config), *chosen])
    content = json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in content["rows"]] == ["epoch"]
    assert content["unfinished"] == ["oof", "curve of runs"]


@pytest.mark.bench("albumentations")
def test_what_is_not_installed_and_what_has_no_time_is_left_out(
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks import measure
    from benchmarks.pace import Pace

    found = []

    def measured(_: Any, row: Any, __: Job, rivals: list[str], ___: int) -> list[Any]:
        found.append((row.name, rivals))
        return []

    monkeypatch.setattr(measure.Bench, "measure", measured)
    monkeypatch.setattr(measure.Bench, "job", lambda *_: None)
    monkeypatch.setitem(sys.modules, "lightning", None)
    arguments = [*_flags(tiny_config), "--rows", "train step", "epoch", "--rivals"]
    names = ["plain", "Lightning, channels-last"]
    options, config = throughput._parse([*arguments, *names])
    no_time = Pace(0.0, ["epoch"])
    for pace in (Pace(), no_time):
        list(throughput._measured(measure.Bench(config, tmp_path, {}, pace=pace), options))
    assert found == [("train step", ["plain"]), ("epoch", ["plain"])]
    told = capsys.readouterr().err
    assert told.count("Lightning, channels-last is left out: lightning cannot be imported") == 4
    assert told.endswith("epoch: left out, the time is spent; give it a longer --budget-s\n")
    assert throughput._parse(_flags(tiny_config))[0].rows == list(ROWS[:-1])
    assert throughput._parse([*_flags(tiny_config), "--curves", "runs"])[0].rows == []


@pytest.mark.bench("albumentations")
@pytest.mark.usefixtures("known_rates")
def test_a_row_that_once_timed_other_work_is_not_compared_but_the_others_are(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [_STAGE | {"name": name, "ratio": 2.0, "quartiles": [2.0, 2.1]} for name in ROWS[-2:]]

    def measured(_: Any, options: Any) -> Iterator[Any]:
        return ((row["name"], "rows", [row]) for row in rows if row["name"] in options.rows)

    monkeypatch.setattr(throughput, "_measured", measured)
    out, older = tmp_path / "figures.json", tmp_path / "older.json"
    arguments = [*_flags(tiny_config), "--rows"]
    assert main([*arguments, "blend", "chain", "--json", str(out)]) == 0
    assert main([*arguments, "chain", "--gate", str(out)]) == 0
    # Written before the row's work had a version.
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["settings"].pop("work of chain") == 2
    older.write_text(json.dumps(content), encoding="utf-8")
    assert main([*arguments, "blend", "--gate", str(older)]) == 0
    with pytest.raises(ValueError, match="measured with work of chain None, now 2; measure anew"):
        main([*arguments, "blend", "chain", "--gate", str(older)])


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.bench("albumentations")
def test_a_curve_measures_its_points_and_fits_both_sides(
    name: str, tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks import measure
    from benchmarks.known_rows import Row

    jobs: list[Job] = []

    def measured(_bench: Any, row: Row, job: Job, *_: Any) -> list[dict[str, Any]]:
        """Ours costs as many seconds as there was work, the rival three times that."""
        jobs.append(job)
        amount = float(row.name.rpartition(", ")[2].split(maxsplit=1)[0])
        return [_STAGE | {"median_s": amount, "rival_median_s": 3 * amount}]

    monkeypatch.setattr(measure.Bench, "measure", measured)
    config = with_section(tiny_config, "data", crop_hw=(32, 32))
    bench = measure.Bench(config, tmp_path, {})
    # The points of "frames" are numbers of frames: more than there are means all.
    made = bench.measure_curve(name, 1, None if name == "frames" else 12)
    assert made["fit"]["exponent"] == made["rival_fit"]["exponent"] == pytest.approx(1, abs=0.006)
    assert made["fit"]["constant_s"] == pytest.approx(1, rel=0.05)
    assert made["rival_fit"]["constant_s"] == pytest.approx(3, rel=0.05)
    assert [point["work"] for point in made["points"]] == list(measure.CURVES[name].points)
    assert all(set(point) == set(_CURVE["points"][0]) for point in made["points"])
    areas = [job.config.data.crop_hw[0] * job.config.data.crop_hw[1] for job in jobs]
    if name == "crops":
        assert [area / areas[0] for area in areas] == [1, 2, 4]
    if name == "runs":
        assert [job.models for job in jobs] == [2, 3, 4, 6, 8]
    with pytest.raises(ValueError, match="needs two points"):
        bench.measure_curve("frames", 1, 60)


def _flags(config: Config) -> list[str]:
    """The tiny experiment as flags: the command has configs of its own."""
    changed = {
        "data": ("root", "folds", "blocks_per_fold", "input_hw", "crop_hw"),
        "model": ("encoder", "weights", "pyramid_channels"),
        "training": ("batch_size",),
        "runtime": ("threads",),
    }
    flags = []
    for section, keys in changed.items():
        for key in keys:
            value = getattr(getattr(config, section), key)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags += [f"--{section}.{key}", text]
    return flags
