"""`fold0/pseudo.zip`: the labels that a fold's teacher makes of test frames when the fold begins.

Of each frame STEM.png at its own size, as `engine.frames.decode` reads a label, stored as it is, so
that sources read it at its place in the file; and a note of what all were made from.

C: classes. H W: pixels of a frame. h w: pixels of the teacher's views.
"""

import logging
import struct
import zipfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import interrupts, sums
from engine.damage import DamageError
from engine.data.unlabelled import Unlabelled
from engine.frames.decode import Sample, in_order, places_of, read_label
from engine.frames.packed import Packed, Span
from engine.identity import file_hash
from engine.nyuv2 import IGNORE_INDEX
from engine.origin import Origin, check_teachers
from engine.rundir import Record, RunDir, load_run
from engine.runtime.device import DevicePolicy
from engine.runtime.graphs import free_recordings
from engine.runtime.progress import track
from engine.teacher import Teacher, check_teacher, find_teacher
from engine.training.task import FoldTask
from engine.views.masks import Rows
from engine.views.pictures import mask_png
from engine.views.predictor import open_predictor
from engine.whole import whole_file

_log = logging.getLogger(__name__)

_NOTE = "note.json"

_LOCAL_BYTES, _LENGTHS, _LENGTHS_AT = 30, "<HH", 26
"""Of an entry's header in a ZIP file: its size without name and extra field, and where their
lengths stand."""


class PseudoNote(Record):
    """`note.json` in `pseudo.zip`."""

    key: str
    """Of what the labels were made from: the experiment, and the networks of the teacher."""
    kept: float
    """Share of the pixels, 0..1, that have a class."""
    seconds: float | None = None
    """That labelling took; older releases did not tell."""


def taught(task: FoldTask, policy: DevicePolicy, is_trained: Callable[[int], bool]) -> FoldTask:
    """The task with what its teacher labels; that is made where the run folder lacks it.

    The fold has to be leased. What is damaged is made again, which the log says.

    Raises:
        ConfigError: the teacher, where it is needed, is not that which the run was begun with; or,
            a network of this run, not trained; or as `find_teacher`, whose FileNotFoundError it
            raises, too.
        DamageError: weights of the teacher are not as they were written.
        RuntimeError: a file cannot be read.
    """
    fold, run, config = task.fold, task.run, task.config
    check_teachers(config, [fold], is_trained)
    key = _key(task)
    if not _is_sound(run.pseudo(fold), key):
        # Members of one run learn from the same labels.
        others = (run.pseudo(k) for k in range(config.networks) if k != fold)
        made = next((path for path in others if _is_sound(path, key, tell=False)), None)
        if made is not None:
            with whole_file(run.pseudo(fold), summed=True) as temporary:
                temporary.write_bytes(sums.read(made))
        else:
            _make(task, policy, key)
        _tell(task, _note(run.pseudo(fold)).kept)
    return with_labels(task)


def with_labels(task: FoldTask) -> FoldTask:
    """The task with what its teacher labelled before; DamageError if that was changed since."""
    path, samples = task.run.pseudo(task.fold), _bare(task)
    sums.check(path)
    folder = path.with_suffix("")
    spans = _spans(path)
    labels = [
        Packed.at(folder / name, spans[name]) for name in (_entry(one.stem) for one in samples)
    ]
    found = Unlabelled(samples, labels, (), len(task.dataset.train.samples))
    data = task.config.data
    small = [data.classes.index(name) for name in data.small_classes]
    with closing(in_order(read_label, found.samples, task.config.runtime.workers)) as decoded:
        places = [np.array(places_of(label_HW, small), np.int32) for label_HW in decoded]
    small_pixels = [each.reshape(-1, 2) for each in places]
    return replace(task, unlabelled=replace(found, small_pixels=small_pixels))


def pseudo_label(prob_Chw: Tensor, hw: tuple[int, int], threshold: float) -> NDArray[np.uint8]:
    """(H, W) likeliest class of each pixel; 255 where its probability is below `threshold`.

    Probabilities are resized to the frame's size `hw` first, bilinear, as for a mask.
    """
    prob_CHW = Rows(prob_Chw[None], hw).at_size()[0]
    most_HW, label_HW = prob_CHW.max(dim=0)
    label: NDArray[np.uint8] = (
        torch.where(most_HW < threshold, IGNORE_INDEX, label_HW).to(torch.uint8).cpu().numpy()
    )
    return label


def labelling_s(run: RunDir, networks: Iterable[int]) -> float:
    """Seconds that the labels of these networks took, those of several counted once.

    What an older release labelled does not tell, and counts as nothing. Raises DamageError.
    """
    made = dict[str, float]()
    for path in map(run.pseudo, networks):
        if path.is_file():
            sums.check(path)
            note = _note(path)
            made[note.key] = note.seconds or 0.0
    return sum(made.values())


def _make(task: FoldTask, policy: DevicePolicy, key: str) -> None:
    """Label the test frames, whole or not at all: stopped on the way, it begins anew."""
    config, samples, teacher = task.config, _bare(task), _teacher(task)
    # Its own views and temperature: by these it would predict the frames itself.
    runtime = config.runtime.model_copy(update={"inference": "torch"})
    theirs = teacher.config.model_copy(update={"runtime": runtime})
    networks = config.teachers(task.fold)
    if config.taught_by_run:
        networks = teacher.networks(task.fold, holds_out=config.holds_out)
    opened = open_predictor(theirs, teacher.run, networks, policy).at(teacher.temperature)
    threshold, kept, pixels = config.training.teacher_threshold, 0, 0
    begun_s = monotonic()
    with (
        interrupts.at_checkpoints(),
        track(f"fold {task.fold} pseudo-labels", len(samples)) as advance,
        whole_file(task.run.pseudo(task.fold), summed=True) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for frames, prob_BTChw in opened.predict(samples):
            for number, prob_TChw in enumerate(prob_BTChw, frames.first):
                label_HW = pseudo_label(prob_TChw[0], frames.hw, threshold)
                kept += int((label_HW != IGNORE_INDEX).sum())
                pixels += label_HW.size
                _write(archive, _entry(samples[number].stem), mask_png(label_HW))
            advance(len(frames.index))
            interrupts.checkpoint()
        spent_s = round(monotonic() - begun_s, 3)
        note = PseudoNote(key=key, kept=kept / pixels, seconds=spent_s)
        _write(archive, _NOTE, note.model_dump_json().encode())
    del opened
    free_recordings()


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # An entry's time is 1980 unless it is told another: the clock is in the note alone.
    archive.writestr(zipfile.ZipInfo(name), content)


def _teacher(task: FoldTask) -> Teacher:
    run = task.run
    if not task.config.taught_by_run:
        # As it stands in the folder: a task has the config of its own network. Views, which are no
        # part of what a network is trained by, may change: it looks as training does, and mirrored
        # where it is alone: several correct each other as mirrored views would, at half the time.
        theirs, alone = load_run(run), len(task.config.teachers(task.fold)) == 1
        looks = {"scales": (1.0,), "flip": alone, "base_hw": "training"}
        views = theirs.inference.model_copy(update=looks)
        return Teacher(run, theirs.model_copy(update={"inference": views}), 1.0)
    known = Origin.read(run.origin).teacher if run.origin.is_file() else None
    if known is None:  # nobody has written what the run was begun with
        return find_teacher(task.config)
    return check_teacher(task.config, run, known)


def _fold(task: FoldTask) -> int:
    """The fold that a network is of."""
    return task.fold % task.config.data.folds


def _key(task: FoldTask) -> str:
    """What labels are made from: the hash has the frames, the teacher and the threshold."""
    whose = f"fold {_fold(task)}" if task.config.holds_out else "all networks"
    if teachers := task.config.teachers(task.fold):
        for best in map(task.run.best, teachers):
            sums.check(best)
        whose = " ".join(f"network {k} {file_hash(task.run.best(k))}" for k in teachers)
    return f"{task.config_hash} {whose}"


def _is_sound(path: Path, key: str, *, tell: bool = True) -> bool:
    """Whether labels made from that are there, as they were written."""
    try:
        sums.check(path)
        return _note(path).key == key
    except FileNotFoundError:
        return False
    except (DamageError, zipfile.BadZipFile, KeyError) as error:
        if tell:
            told = error.told if isinstance(error, DamageError) else f"{path} is damaged: {error}"
            _log.warning("%s; it is made again", told)
        return False


def _note(path: Path) -> PseudoNote:
    with zipfile.ZipFile(path) as archive:
        return PseudoNote.parse(archive.read(_NOTE), path)


def _spans(path: Path) -> dict[str, Span]:
    """Where the content of each entry stands."""
    spans = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        for entry in archive.infolist():
            stream.seek(entry.header_offset + _LENGTHS_AT)
            name, extra = struct.unpack(_LENGTHS, stream.read(struct.calcsize(_LENGTHS)))
            start = entry.header_offset + _LOCAL_BYTES + name + extra
            spans[entry.filename] = Span(path, start, entry.file_size)
    return spans


def _bare(task: FoldTask) -> list[Sample]:
    """The test frames without the labels that they may have: those are for scores alone."""
    return [replace(one, label=None) for one in task.dataset.test.samples]


def _entry(stem: str) -> str:
    return f"{stem}.png"


def _tell(task: FoldTask, kept: float) -> None:
    training, count = task.config.training, len(task.dataset.test.samples)
    whose = f"fold {_fold(task)}" if task.config.holds_out else "all networks"
    least, pixels = training.teacher_threshold, "all pixels"
    if least:
        pixels = f"{100 * kept:.1f} % of their pixels, the others are below {least:g} and ignored"
    root: object = training.teacher.removeprefix("run:")
    if teachers := task.config.teachers(task.fold):
        whose = f"network{'s' * (len(teachers) > 1)} {' '.join(map(str, teachers))}"
        root = "this run"
    told = "fold %d: %d test frames labelled by %s of %s: %s; %d of the %d samples of a batch"
    rows = task.config.unlabelled, task.batch_size
    _log.info(told, task.fold, count, whose, root, pixels, *rows)
