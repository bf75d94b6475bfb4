"""Test frames that a teacher labels: who labels them, how they are trained on, what is noticed."""

import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import train
from engine.cli import load_config
from engine.config import Config
from engine.data.inputs import epoch_order
from engine.data.unlabelled import MixedSource
from engine.experiment import Experiment
from engine.frames.decode import read_label
from engine.identity import identity
from engine.nyuv2 import IGNORE_INDEX
from engine.origin import Origin
from engine.report.seen import seen_stems
from engine.rundir import RunDir, load_run
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training import pseudo
from engine.training.loop import FoldTask, FoldTraining
from engine.training.pseudo import pseudo_label, taught, with_labels
from engine.training.step import TrainStep
from engine.views.pictures import mask_png
from engine.views.predictor import open_predictor
from tests.conftest import FinishedRun
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)

THRESHOLD = 0.6
"""Some pixels are above it, some below."""

# Six frames of a fold, one labelled in each batch of two, and five test frames.
STEPS, FRAMES, LABELLED = 6, 5, 12

ReadRun = Callable[[Path], dict[str, Any]]
Taught = Callable[..., FoldTask]


@pytest.fixture
def make_taught(
    open_run: Callable[..., Experiment], finished_run: FinishedRun, tmp_path: Path
) -> Taught:
    """`make_taught(name, training={...})`: fold 1 of a run with a teacher, its labels made."""

    def make(name: str = "run", **changes: dict[str, Any]) -> FoldTask:
        teacher = {"teacher": f"run:{finished_run.dir.root}", "teacher_threshold": THRESHOLD}
        changes["training"] = {**teacher, **changes.get("training", {})}
        run = open_run(tmp_path / name, **changes)
        return taught(run.task(1), POLICY, run.is_trained)

    return make


@pytest.fixture(scope="module")
def typed(tiny_toml: Path, finished_run: FinishedRun) -> list[str]:
    teacher = f"training.teacher=run:{finished_run.dir.root}"
    return ["--config", str(tiny_toml), teacher, f"training.teacher_threshold={THRESHOLD}"]


@pytest.fixture(scope="module")
def student(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run with a teacher; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("student") / "run")
    assert train.main([*typed, "--out", str(run.root), "report.page=true"]) == 0
    return run


def labels_in(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(".png")}


def stop_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Let the process die when it has done `steps` steps."""
    call, done = TrainStep.__call__, list[int]()

    def counted(self: TrainStep, *arguments: Any) -> None:
        call(self, *arguments)
        done.append(1)
        if len(done) == steps:
            raise StoppedError

    patch.setattr(TrainStep, "__call__", counted)


def test_a_run_learns_from_its_teacher_up_to_its_report(
    student: RunDir, finished_run: FinishedRun, typed: list[str]
) -> None:
    assert student.summary.exists()
    page = student.report.read_text("utf-8")
    assert f"Its test frames were labelled by {finished_run.dir.root} and trained on." in page
    log, root = student.log.read_text("utf-8"), finished_run.dir.root
    assert f"{FRAMES} test frames are labelled by {root}" in log
    for fold in range(2):
        with zipfile.ZipFile(student.pseudo(fold)) as archive:
            kept = json.loads(archive.read("note.json"))["kept"]
        assert 0 < kept < 1
        told = f"fold {fold}: {FRAMES} test frames labelled by fold {fold} of {root}: "
        assert f"{told}{100 * kept:.1f} % of their pixels" in log
        lines = student.metrics(fold).read_text("utf-8").splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    origin = Origin.read(student.origin)
    assert origin.teacher is not None
    assert len(set(origin.teacher.networks)) == 2
    assert train.main([*typed, "--out", str(student.root)]) == 0  # it is complete


def test_fold_k_is_labelled_by_fold_k_alone_and_below_the_threshold_not_at_all(
    student: RunDir, finished_run: FinishedRun, open_run: Callable[..., Experiment]
) -> None:
    theirs, root = load_run(finished_run.dir), finished_run.dir
    temperature = json.loads(root.temperature.read_text("utf-8"))["best"]
    run = open_run(student.root, training={"teacher": f"run:{root.root}"})
    samples = [replace(sample, label=None) for sample in run.dataset.test.samples]
    for fold in range(2):
        predictor = open_predictor(theirs, root, [fold], POLICY).at(temperature)
        prob_NChw = torch.cat([prob[:, 0] for _, prob in predictor.predict(samples)])
        most_NHW, class_NHW = prob_NChw.max(dim=1)
        expected = torch.where(most_NHW < THRESHOLD, IGNORE_INDEX, class_NHW).numpy()
        unlabelled = with_labels(run.task(fold)).unlabelled
        assert unlabelled is not None
        found = np.stack([read_label(sample) for sample in unlabelled.samples])
        np.testing.assert_array_equal(found, expected)
    assert labels_in(student.pseudo(0)) != labels_in(student.pseudo(1))


def test_probabilities_are_resized_before_they_are_held_to_the_threshold() -> None:
    prob_Chw = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    # Of four columns the two outer are sure, the others three quarters.
    assert pseudo_label(prob_Chw, (1, 4), 0.0).tolist() == [[0, 0, 1, 1]]
    assert pseudo_label(prob_Chw, (1, 4), 0.8).tolist() == [[0, 255, 255, 1]]
    assert pseudo_label(prob_Chw, (1, 2), 1.0).tolist() == [[0, 1]]


def test_labels_that_test_frames_have_are_never_trained_on(
    make_taught: Taught, tiny_root: Path
) -> None:
    task = make_taught()
    test, label = task.dataset.test, tiny_root / "train" / "label" / "000.png"
    cheating = replace(test, samples=[replace(one, label=label) for one in test.samples])
    other = replace(task, dataset=replace(task.dataset, test=cheating), unlabelled=None)
    other = replace(other, run=RunDir(task.run.root.parent / "other"))
    found = taught(other, POLICY, lambda _: False)
    assert found.unlabelled is not None
    assert [one.label for one in found.unlabelled.frames] == [None] * FRAMES
    assert labels_in(found.run.pseudo(1)) == labels_in(task.run.pseudo(1))


@pytest.mark.parametrize("source", ["resident", "torch", "dali"])
def test_a_batch_is_labelled_frames_and_behind_them_those_of_the_teacher(
    source: str, make_taught: Taught, tmp_path: Path
) -> None:
    runtime = {"source": source, "cache": str(tmp_path / "cache")}
    still = {"flip_p": 0.0, "jitter_p": 0.0, "scale_p": 0.0, "class_aware_p": 0.0}
    # The crop is the frame: a label comes out as it is in its file.
    whole = {"crop_hw": (32, 64), "input_hw": (48, 64), **still}
    task = make_taught(training={"batch_size": 4}, runtime=runtime, data=whole)
    assert (task.labelled, task.batch_size, task.steps_per_epoch) == (3, 4, 2)
    fold = FoldTraining(task, POLICY)
    opened = fold.open_source()
    assert isinstance(opened, MixedSource)
    for epoch in range(2):  # the second time by what the first has built
        batches, draws = opened.batches(fold.draws(epoch, 0)), fold.draws(epoch, 0)
        for batch, rows in zip(batches, draws, strict=True):
            assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)
            assert batch.index.tolist() == rows.index.tolist()
            assert (rows.index >= LABELLED).tolist() == [False] * 3 + [True]
            assert task.unlabelled is not None
            samples = [*task.dataset.train.samples, *task.unlabelled.samples]
            for index, box, label_HW in zip(
                rows.index, rows.box, batch.label_BHW.numpy(), strict=True
            ):
                top, left = (int(np.floor(side + 0.5)) for side in box[:2])
                whole_HW = read_label(samples[index])
                assert (left, *box[2:]) == (0, 32, 64)
                np.testing.assert_array_equal(label_HW, whole_HW[top : top + 32])


def test_unlabelled_frames_come_in_rounds_and_by_the_step_alone(make_taught: Taught) -> None:
    task = make_taught()
    fold = FoldTraining(task, POLICY)
    drawn = [rows for epoch in range(3) for rows in fold.draws(epoch, 0)]
    frames = [int(rows.index[1]) - LABELLED for rows in drawn]
    rounds = [frames[start : start + FRAMES] for start in range(0, 15, FRAMES)]
    assert all(sorted(each) == list(range(FRAMES)) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    boxes = {tuple(rows.box[1]) for rows in drawn}
    assert len(boxes) > FRAMES  # the same frame is drawn otherwise in another round
    later = next(fold.draws(1, 4))
    assert later.index.tolist() == drawn[STEPS + 4].index.tolist()
    assert later.box.tolist() == drawn[STEPS + 4].box.tolist()
    # What is labelled comes once an epoch, in the order that it has without a teacher.
    first = [int(rows.index[0]) for rows in drawn[:STEPS]]
    assert first == epoch_order(42, 0, task.training).tolist()


def test_without_a_teacher_draws_and_hash_are_what_they_were(
    open_run: Callable[..., Experiment], tmp_path: Path
) -> None:
    task = open_run(tmp_path / "run").task(1)
    assert (task.labelled, task.batch_size, task.steps_per_epoch) == (2, 2, 3)
    rows = [part.index.tolist() for part in FoldTraining(task, POLICY).draws(1, 0)]
    order = epoch_order(42, 1, task.training).tolist()
    assert rows == [order[:2], order[2:4], order[4:]]
    named = Config.model_validate({"training": {"teacher": "", "teacher_threshold": 0}})
    assert identity(named, sections=("training",)) == identity(Config(), sections=("training",))


@pytest.mark.parametrize("steps", [1, 4, STEPS, 8, 2 * STEPS])
def test_stopped_after_any_step_it_goes_on_to_the_same_bytes(
    steps: int, make_taught: Taught, read_run: ReadRun
) -> None:
    mixed = {"data": {"class_mix": 0.5}, "runtime": {"source": "resident"}}
    whole, broken = make_taught("whole", **mixed), make_taught("broken", **mixed)
    FoldTraining(whole, POLICY).run()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(StoppedError):
            FoldTraining(broken, POLICY).run()
    FoldTraining(make_taught("broken", **mixed), POLICY).run()
    assert read_run(broken.run.root) == read_run(whole.run.root)


def test_what_it_labels_changes_what_is_learned(make_taught: Taught) -> None:
    one, other = make_taught("one"), make_taught("other", training={"teacher_threshold": 0.99})
    for task in (one, other):
        FoldTraining(task, POLICY).run()
    assert one.run.best(1).read_bytes() != other.run.best(1).read_bytes()


def test_parts_of_a_batch_go_with_a_teacher(make_taught: Taught) -> None:
    parted = {"batch_size": 4, "parts": 2, "teacher_share": 0.5}
    task = make_taught(training=parted, runtime={"source": "resident"})
    fold = FoldTraining(task, POLICY)
    whole = fold.open_source()
    assert isinstance(whole, MixedSource)
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    draws = [*fold.draws(0, 0)]
    together = [*whole.batches(draws)]
    for rows in parts:  # as several processes have them
        for batch, part in zip(together, whole.batches(d.at(rows) for d in draws), strict=True):
            assert torch.equal(batch.image_BCHW[rows], part.image_BCHW)
            assert torch.equal(batch.label_BHW[rows], part.label_BHW)
            assert batch.index[rows].tolist() == part.index.tolist()
    fold.run()
    assert task.run.best(1).exists()


def test_labelling_that_is_stopped_leaves_nothing_and_begins_anew(
    make_taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = make_taught("whole"), list[int]()

    def dies(label_HW: Any) -> bytes:
        made.append(1)
        if len(made) == 3:
            raise StoppedError
        return mask_png(label_HW)

    with monkeypatch.context() as patch:
        patch.setattr(pseudo, "mask_png", dies)
        with pytest.raises(StoppedError):
            make_taught("broken")
    broken = RunDir(whole.run.root.parent / "broken")
    assert [*broken.fold(1).iterdir()] == []
    make_taught("broken")
    assert labels_in(broken.pseudo(1)) == labels_in(whole.run.pseudo(1))


@pytest.mark.parametrize("lost", ["a byte", "half of it", "all of it"])
def test_damage_to_the_labels_is_noticed_and_they_are_made_again(
    lost: str, make_taught: Taught, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_taught().run.pseudo(1)
    content, labels = path.read_bytes(), labels_in(path)
    bad = bytearray(content)
    bad[len(bad) // 3] ^= 1
    path.unlink()
    if lost != "all of it":
        path.write_bytes(bad if lost == "a byte" else content[: len(content) // 2])
    with caplog.at_level(logging.INFO, logger="engine"):
        make_taught()
    assert labels_in(path) == labels
    assert ("is damaged: " in caplog.text) == (lost != "all of it")
    assert ("it is made again" in caplog.text) == (lost != "all of it")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="engine"):
        make_taught()
    assert caplog.text == ""  # it is there


def test_frames_that_were_labelled_for_it_are_not_new_to_a_network(
    student: RunDir, finished_run: FinishedRun, open_run: Callable[..., Experiment]
) -> None:
    samples = open_run(student.root).dataset.test.samples
    stems = {sample.stem for sample in samples}
    assert seen_stems(load_run(student), student, [0], samples) == stems
    assert seen_stems(load_run(finished_run.dir), finished_run.dir, [0], samples) == set()


def test_a_task_whose_frames_nobody_labelled_is_measured_and_never_trained(
    make_taught: Taught,
) -> None:
    task = replace(make_taught(training={"batch_size": 4}), unlabelled=None)
    fold = FoldTraining(task, POLICY)
    assert [len(rows.index) for rows in fold.draws(0, 0)] == [4, 4]
    with pytest.raises(ValueError, match="trained with what that labels"):
        fold.run()


@pytest.mark.parametrize(
    ("batch", "share", "rows"), [(8, 0.25, 2), (8, 0.9, 7), (4, 0.01, 1), (2, 0.99, 1)]
)
def test_a_share_of_a_batch_is_one_frame_at_least_and_never_all(
    batch: int, share: float, rows: int
) -> None:
    training: dict[str, Any] = {"teacher": "run:x", "teacher_share": share, "batch_size": batch}
    assert load_config([], {"training": training}).unlabelled == rows
    assert load_config([], {"training": {"batch_size": batch}}).unlabelled == 0
