"""The training step at full size: what the README says of a GPU, and where its time goes."""

import gc
import statistics
from dataclasses import replace

import torch

from benchmarks.certify.experiment import open_run
from benchmarks.certify.kinds import measure_kinds
from benchmarks.certify.notes import Notes, need
from benchmarks.figures import OURS, Called, Figures, Rates, Turns, rows_of
from benchmarks.rows import ours, work
from benchmarks.subset import with_section
from engine.experiment import Experiment

_FORMS = {"eager": (False, False), "recorded": (False, True), "compiled": (True, True)}
"""Whether the network is compiled, and whether the step is recorded and replayed."""

_BATCHES = (4, 8, 16)
_WARM, _TIMED = 8, 25
"""Steps before those that are timed: three of them are eager, then one is recorded."""
_BATCH_ON_CPU, _WARM_ON_CPU, _TIMED_ON_CPU = 8, 1, 3

_COMPILING_S = 95.0
"""Seconds that a compiled form is begun with at least: it took 68 of them on an H100."""


def step(notes: Notes) -> None:
    """Seconds and memory by form and batch; of the eager form what it spends them on."""
    need("cv2")
    from benchmarks.timing import machine_rates

    run = open_run(notes.folder)
    gpu = run.policy.device.type == "cuda"
    rates = machine_rates(torch.get_num_threads(), run.policy.device.type)
    batches = _BATCHES if gpu else (_BATCH_ON_CPU,)
    recorded = {}
    for batch in batches:
        eager = _measure(notes, run, "eager", batch)
        if gpu:
            recorded[batch] = _measure(notes, run, "recorded", batch)
            _add_row(notes, run, batch, {OURS: recorded[batch], "eager": eager}, rates)
    _note_kinds(notes, _formed(run, "eager", batches[0]))
    if not gpu:
        notes.note("recorded, compiled", "no GPU")
    for batch, calls in recorded.items():
        if notes.left_s < _COMPILING_S:
            notes.note(f"compiled, batch {batch}", "out of time")
            continue
        compiled = _measure(notes, run, "compiled", batch)
        _add_row(notes, run, batch, {OURS: calls, "compiled": compiled}, rates)


def _measure(notes: Notes, run: Experiment, form: str, batch: int) -> list[Called]:
    """Time one form of the step on its own; nothing where its memory does not fit."""
    gpu = run.policy.device.type == "cuda"
    warm, timed = (_WARM, _TIMED) if gpu else (_WARM_ON_CPU, _TIMED_ON_CPU)
    run, name = _formed(run, form, batch), f"{form}, batch {batch}"
    if gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        calls = ours.timed_steps(ours.begin(run), ours.first_batch(run), warm + timed)
    except torch.OutOfMemoryError as error:
        notes.note(name, f"does not fit: {error}")
        return []
    first, calls = calls[0], calls[warm:]
    seconds = [called.seconds for called in calls]
    quartiles = statistics.quantiles(seconds, method="inclusive")
    figures: Figures = {
        "median_ms": round(1000 * statistics.median(seconds), 2),
        "quartiles_ms": [round(1000 * second, 2) for second in quartiles[::2]],
        "first_step_s": round(first.seconds, 1),
        "images_s": round(batch / statistics.median(seconds), 1),
    }
    if gpu:
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        figures["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    notes.note(name, figures)
    return calls


def _add_row(notes: Notes, run: Experiment, batch: int, calls: Turns, rates: Rates) -> None:
    """Add the recorded step against another form, where the memory held both."""
    if all(calls.values()):
        mib = {side: {"peak_gpu_mib": made[-1].gpu_mib} for side, made in calls.items()}
        floor = work.step(_formed(run, "eager", batch).config)
        notes.add_rows(rows_of(f"step, batch {batch}", calls, mib, floor, rates))


def _note_kinds(notes: Notes, run: Experiment) -> None:
    fold, batch = ours.begin(run), ours.first_batch(run)
    ours.timed_steps(fold, batch, 2)
    longest, kinds = measure_kinds(lambda: ours.timed_steps(fold, batch, 1), run.policy.device)
    notes.note("longest kernels", [*longest])
    notes.note("time and bytes by kind", kinds)


def _formed(run: Experiment, form: str, batch: int) -> Experiment:
    compiled, replay = _FORMS[form]
    policy = replace(run.policy, compile=compiled, replay=replay)
    return replace(
        run, policy=policy, config=with_section(run.config, "training", batch_size=batch)
    )
