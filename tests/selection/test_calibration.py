"""NLL, ECE and the reliability bins of a fixed sample, by temperature."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import Config
from engine.experiment import open_experiment
from engine.frames.decode import read_label
from engine.report.show import temperature_table
from engine.rundir import RunDir
from engine.selection.calibration import calibration_of, why_not
from engine.selection.records import TemperatureChoice
from engine.views.predictor import open_predictor
from engine.views.records import CalibrationCounts, Manifest
from engine.views.sampled import BINS, CalibrationSum, SampledPixels

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def counted(truth: list[float], largest: list[float], batches: int = 1) -> CalibrationCounts:
    """Pixels of one temperature, in one row, cut into batches."""
    found = CalibrationSum(1)
    for part in np.array_split(np.arange(len(truth)), batches):
        truth_N, largest_N = (torch.tensor(values)[part] for values in (truth, largest))
        labelled_N = torch.ones(len(part), dtype=torch.bool)
        found.add(SampledPixels(truth_N[None, None], largest_N[None, None], labelled_N[None]))
    return found.counts()


def test_figures_are_those_of_their_definition() -> None:
    rng = np.random.default_rng(0)
    prob_NC = rng.dirichlet(np.full(4, 0.7), 2000)
    label_N = np.array([rng.choice(4, p=prob_C) for prob_C in prob_NC])
    truth_N, largest_N = prob_NC[np.arange(2000), label_N], prob_NC.max(axis=1)
    found = calibration_of([0.7], [counted(truth_N.tolist(), largest_N.tolist(), batches=7)])
    assert found is not None
    (one,) = found.temperatures
    assert found.pixels == sum(part.count for part in one.bins) == 2000
    assert one.nll == pytest.approx(-np.log(truth_N).mean(), rel=1e-6)
    right_N, ece = prob_NC.argmax(axis=1) == label_N, 0.0
    for k, part in enumerate(one.bins):
        inside_N = (largest_N > k / BINS) & (largest_N <= (k + 1) / BINS)
        assert part.count == inside_N.sum()
        if part.count:
            assert part.confidence == pytest.approx(largest_N[inside_N].mean(), rel=1e-6)
            assert part.accuracy == pytest.approx(right_N[inside_N].mean(), rel=1e-12)
            ece += inside_N.mean() * abs(largest_N[inside_N].mean() - right_N[inside_N].mean())
    assert one.bins[0].confidence is None
    assert one.ece == pytest.approx(ece, rel=1e-6)
    assert one.ece < 0.03, "the labels were drawn by these probabilities"


def test_ends_of_bins_rounded_sums_and_zeros_have_their_place() -> None:
    # The upper end belongs to a bin; a sum of float32 may exceed 1; 0 costs 87.3 nats.
    found = counted([1.0, 1.0000001, 0.0], [1.0, 1.0000001, np.float32(1 / 15).item()])
    assert [k for k, n in enumerate(found.count[0]) if n] == [0, BINS - 1]
    assert found.right[0][0] == 0
    assert found.right[0][BINS - 1] == 2
    assert found.loss[0] == pytest.approx(87.3365, abs=1e-3)


def test_it_goes_on_to_the_same_bytes() -> None:
    rng = np.random.default_rng(1)
    truth, largest = (rng.random(100).astype(np.float32).tolist() for _ in range(2))
    whole = counted(truth, largest, batches=4)
    begun = counted(truth[:50], largest[:50], batches=2)
    resumed = CalibrationSum(1, CalibrationCounts.model_validate_json(begun.model_dump_json()))
    for part in (slice(50, 75), slice(75, 100)):
        rows = (torch.tensor(values[part])[None, None] for values in (truth, largest))
        resumed.add([*rows, torch.ones(1, 25, dtype=torch.bool)])
    assert resumed.counts() == whole


def test_the_lowest_nll_has_its_temperature_and_folds_count_by_their_pixels() -> None:
    sums = CalibrationSum(2)
    truth = torch.tensor([[0.5, 0.9], [0.8, 0.9]])[None]  # two pixels
    sums.add(SampledPixels(truth, truth, torch.ones(1, 2, dtype=torch.bool)))
    one = sums.counts()
    found = calibration_of([0.7, 1.0], [one, one, one])
    assert found is not None
    assert (found.best_nll, found.pixels) == (1.0, 6)
    assert found.at(1.0).nll == pytest.approx(-np.log([0.8, 0.9]).mean())
    assert found.at(0.7).ece == pytest.approx(0.3)


def test_without_labels_or_with_a_fold_of_an_older_release_it_is_not_measured() -> None:
    none = CalibrationSum(1).counts()
    assert calibration_of([1.0], [none]) is None
    assert why_not({0: none}) == "no sampled pixel has a label"
    some = counted([0.5], [0.5])
    assert calibration_of([1.0], [some, none]) is not None
    assert calibration_of([1.0], [some, None]) is None
    assert why_not({0: some, 1: None}) == "an older release predicted, or began, folds 1"


def test_a_run_measures_what_its_predictor_says_at_every_temperature(
    finished_run: FinishedRun, tiny_config: Config
) -> None:
    run = finished_run.dir
    found = TemperatureChoice.read(run.temperature).calibration
    assert found is not None
    opened = open_experiment(tiny_config, run)
    loss_T, pixels = np.zeros(2), 0
    for fold in range(2):
        predictor = open_predictor(tiny_config, run, [fold], opened.policy)
        samples = [opened.dataset.train.samples[n] for n in opened.folds.validation(fold)]
        for frames, prob_BTCHW in predictor.predict(samples):
            for sample, prob_TCHW in zip(
                samples[frames.first : frames.first + len(prob_BTCHW)], prob_BTCHW, strict=True
            ):
                label_RS = read_label(sample)[4::8, 4::8]  # as large as the base
                prob_TCN = prob_TCHW[:, :, 4::8, 4::8][:, :, torch.from_numpy(label_RS != 255)]
                label_N = torch.from_numpy(label_RS[label_RS != 255]).long()
                loss_T -= (
                    prob_TCN[:, label_N, torch.arange(len(label_N))].double().log().sum(1).numpy()
                )
                pixels += len(label_N)
    assert found.pixels == pixels
    assert [one.nll for one in found.temperatures] == pytest.approx((loss_T / pixels).tolist())
    assert [one.temperature for one in found.temperatures] == [0.7, 1.0]
    counts = Manifest.read(run.manifest).predicted.values()
    assert calibration_of([0.7, 1.0], [state.calibration for state in counts]) == found
    said = f"NLL, ECE: of {pixels} pixels; lowest NLL at T = {found.best_nll:g}"
    assert said in " ".join(finished_run.stdout.split())


def test_tables_of_an_older_run_say_that_it_was_not_measured(
    finished_run: FinishedRun, tmp_path: Path, shown: Callable[..., str]
) -> None:
    choice = TemperatureChoice.read(finished_run.dir.temperature)
    older = TemperatureChoice.model_validate(choice.model_dump(exclude={"calibration"}))
    older.write(RunDir(tmp_path).temperature)
    assert "calibration" not in (tmp_path / "temperature.json").read_text(encoding="utf-8")
    assert "NLL and ECE are not measured" in " ".join(shown(temperature_table(older)).split())
    assert "lowest NLL at T" in " ".join(shown(temperature_table(choice)).split())


@pytest.fixture
def shown() -> Callable[..., str]:
    """What a table prints."""
    from rich.console import Console

    def show(table: Any) -> str:
        console = Console(width=100, record=True)
        console.print(table)
        return console.export_text()

    return show
