"""Exports files one by one: each written, held to the engine, and published whole or not at all."""

import importlib.metadata
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from engine.cli import to_toml
from engine.config import Config, DataConfig, RuntimeConfig, data_root
from engine.data.checked import read_dataset
from engine.data.folds import FoldsFile
from engine.export import int8_form
from engine.export.card import model_card
from engine.export.check import LEAST, Asked, agreement, asked_frames
from engine.export.examples import example
from engine.export.form import FORMS, ExportError
from engine.export.graph import Graph
from engine.export.layers import find_culprit
from engine.export.open import describe, open_graph
from engine.export.records import NAME, Agreement, Export, Exported, Int8Loss
from engine.export.sizes import Size
from engine.frames.decode import Sample
from engine.identity import file_hash
from engine.lease import Place, attempt_folder, hold
from engine.mistakes import ConfigError
from engine.runtime.device import set_up_device
from engine.runtime.machine import processor
from engine.trained import Sight, TrainedRun, open_system
from engine.whole import whole_file, write_summed, write_text

_log = logging.getLogger(__name__)

INT8 = "openvino-int8"


class Order(NamedTuple):
    """What is exported."""

    root: Path
    """The run's or the blend's folder."""
    chosen: Sequence[TrainedRun]
    """Of `choose_runs`."""
    sight: Sight
    fold: int | None
    """Whose network alone, if so."""
    hw: Size | None
    """The one size of frames, if it is one."""
    data: Path | None
    """Where the dataset is, if not where it was."""


class _Held(NamedTuple):
    """What a form is held to."""

    asked: list[Asked]
    training: Sequence[Sample]
    scored: Sequence[Sample]
    held_out: bool


def place(out: Path) -> Place:
    """What is leased to export."""
    return Place(out, "export", str(out), (out,))


def export(order: Order, forms: Sequence[str], out: Path) -> None:
    """Write what `forms` name into `out`, with model card and examples.

    Raises:
        ConfigError: `out` holds an export of something else.
        RuntimeError: a form's masks are not the engine's, or a layer cannot be exported; the
            message names it.
        DatasetError: naming every file of the dataset that cannot be used.
    """
    graph = open_graph(order.chosen, order.hw)
    told = describe(order.chosen, graph)
    note = _begun(out, told)
    left = [name for name in forms if not _is_there(note, name, out)]
    for name in forms:
        if name not in left:
            _log.info("%s is there: %s", name, ", ".join(note.forms[name].files))
    if not left:
        return
    with hold(place(out)):
        note.write(out / NAME)
        held = _held(order, graph)
        for name in left:
            note = _one(name, order, graph, held, note, out)


def _begun(out: Path, told: dict[str, object]) -> Export:
    """What the folder holds so far, of the same graph."""
    key = str(told["key"])
    if not (out / NAME).is_file():
        return Export(key=key, told=told, forms={})
    found = Export.read(out / NAME)
    if found.key != key:
        was = ", ".join(run["name"] for run in found.told["runs"])
        raise ConfigError(
            f"--out {out} holds another export (of {was}: other weights, views, sizes or "
            "temperature); choose another --out"
        )
    return found


def _is_there(note: Export, name: str, out: Path) -> bool:
    files = note.forms[name].files if name in note.forms else None
    return files is not None and all(
        (out / file).is_file() and file_hash(out / file) == digest for file, digest in files.items()
    )


def _held(order: Order, graph: Graph) -> _Held:
    """The engine's masks of some training frames; the frames that INT8 is made and scored on."""
    first = next((o for o in order.chosen if o.config.needs_depth), order.chosen[0])
    config = first.config
    if order.data is not None:
        data = config.data.model_copy(update={"root": str(order.data)})
        config = config.model_copy(update={"data": data})
    samples = read_dataset(config).train.samples
    fold_of = FoldsFile.read(first.run.folds).fold_of
    training, scored = list(samples), list(samples)
    held_out = order.fold is not None and config.holds_out
    if held_out:
        training = [s for s in samples if fold_of.get(s.stem) != order.fold]
        scored = [s for s in samples if fold_of.get(s.stem) == order.fold]
    if graph.hw is not None:
        training, scored = (
            [s for s in each if s.hw == graph.hw] or each for each in (training, scored)
        )
    system = open_system(order.chosen, order.sight, set_up_device(config.runtime))
    asked = asked_frames(system, training, graph.hw, depth=graph.has_depth)
    return _Held(asked, training, scored, held_out)


def _one(name: str, order: Order, graph: Graph, held: _Held, note: Export, out: Path) -> Export:
    """Write a form, hold it to the engine and publish it; returns what the folder holds now."""
    start_s, work = time.monotonic(), attempt_folder(out) / f"{name}.making"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        files, found, loss = _made(name, graph, held, note, work)
        digests = {file.name: file_hash(file) for file in files}
        for file in files:
            with whole_file(out / file.name) as temporary:
                file.replace(temporary)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if name == "torch":
        digests |= _carry_weights(order, out)
    made = Exported(
        files=digests,
        versions={package: importlib.metadata.version(package) for package in _packages(name)},
        agreement=found,
        **({"processor": processor()} if name == "aoti" else {}),
        **({"int8": loss} if loss else {}),
    )
    note = note.model_copy(update={"forms": {**note.forms, name: made}})
    file_name, script = example(name, depth=graph.has_depth)
    write_text(out / file_name, script)
    write_text(out / "README.md", model_card(order.root, order.chosen, note, fold=order.fold))
    note.write(out / NAME)
    _tell(name, made, out, time.monotonic() - start_s)
    return note


def _made(
    name: str, graph: Graph, held: _Held, note: Export, work: Path
) -> tuple[list[Path], Agreement, Int8Loss | None]:
    """A form's files in a folder, how far it agrees, and what it loses if it is in INT8."""
    form, loss = FORMS[name], None
    try:
        if name == INT8:
            frames = held.training, held.scored
            files, loss = int8_form.quantise(
                graph, note.told, work, *frames, held_out=held.held_out
            )
        else:
            files = form.write(graph, note.told, work)
    except ExportError as error:
        raise RuntimeError(f"--to {name}: {_culprit(name, graph, held, str(error))}") from error
    found = agreement(form.open_model(work), held.asked)
    if found.share < LEAST and loss is None:
        wrong = found.pixels - found.equal
        apart = f"{wrong:,} of {found.pixels:,} pixels differ from the engine's"
        raise RuntimeError(f"--to {name}: {_culprit(name, graph, held, apart)}")
    return files, found, loss


def _culprit(name: str, graph: Graph, held: _Held, told: str) -> str:
    """What is wrong with a form, and which layer it is."""
    _log.info("%s: %s; looking for the layer", name, told)
    frame = tuple(torch.from_numpy(each)[None] for each in held.asked[0].frame)
    found = find_culprit(graph, frame, FORMS[name].ran)
    if found is None:
        return f"{told}; each layer alone gives what PyTorch gives"
    return f"the layer {found.layer} cannot be exported or differs: {found.told}"


def _carry_weights(order: Order, out: Path) -> dict[str, str]:
    """The weights' files as they are, and each run's config, so that `run:FOLDER` finds them."""
    digests = {}
    for one in order.chosen:
        folder = out if len(order.chosen) == 1 else out / one.run.root.resolve().name
        folder.mkdir(exist_ok=True)
        for fold in one.folds:
            target = folder / one.run.fold(fold).name / one.run.best(fold).name
            with whole_file(target, summed=True) as temporary:
                shutil.copyfile(one.run.best(fold), temporary)
            digests[str(target.relative_to(out))] = file_hash(target)
        write_summed(folder / one.run.config.name, to_toml(_anywhere(one.config)))
        digests[str((folder / one.run.config.name).relative_to(out))] = file_hash(
            folder / one.run.config.name
        )
    return digests


def _anywhere(config: Config) -> Config:
    """A run's config without what is of this computer: the dataset's folder, and what runs it."""
    data: DataConfig = config.data.model_copy(update={"root": data_root(config).name})
    return config.model_copy(update={"data": data, "runtime": RuntimeConfig()})


def _packages(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("torch", "timm", *FORMS[name].made_with)))


def _tell(name: str, made: Exported, out: Path, took_s: float) -> None:
    seen: Agreement = made.agreement
    sizes = ", ".join(f"{h} x {w}" for h, w in seen.sizes[:4])
    _log.info(
        "%s: %s in %s, %.1f s; %.3f %% of %s pixels as the engine's, on %d frames (%s%s)",
        *(name, ", ".join(made.files), out, took_s, 100 * seen.share, f"{seen.pixels:,}"),
        *(seen.frames, sizes, ", ..." if len(seen.sizes) > 4 else ""),
    )
    if made.int8 is not None:
        note = made.int8
        _log.info(
            "%s: mIoU %.4f for float32's %.4f on %d frames%s",
            *(name, note.miou, note.miou_float32, note.scored),
            "" if note.held_out else ", which networks were trained on (--fold K holds out)",
        )
