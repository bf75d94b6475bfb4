"""What is the same when it is done again, and what a replay waits for."""

from statistics import median

import torch
from torch import Tensor

from benchmarks.certify.experiment import make_config, open_run
from benchmarks.certify.notes import Notes
from benchmarks.rows import ours
from benchmarks.subset import with_section
from engine.data.batch import Batch
from engine.experiment import Experiment
from engine.runtime.graphs import EAGER_CALLS

_TIMES, _REPLAYS = 5, 3
_WARM, _TIMED = EAGER_CALLS + 2, 9  # on a GPU the step is recorded after EAGER_CALLS


def repeat(notes: Notes) -> None:
    """Gradients of five equal first steps, and their price; replays under sync-debug "error"."""
    config = make_config(notes.folder)
    # Opened first: cuBLAS takes its memory with the process's first product.
    exact = open_run(notes.folder, with_section(config, "runtime", deterministic=True))
    quick = open_run(notes.folder, config)
    gpu = quick.policy.device.type == "cuda"
    batch = ours.first_batch(quick)
    if gpu:
        _replay_without_waiting(notes, quick, batch)
    else:
        notes.note("replays that wait for nothing", "no GPU")
    _compare(notes, "five equal steps", quick, batch, exact=not gpu)
    _compare(notes, "five equal steps, deterministic", exact, batch, exact=True)
    for name, run in (("step", quick), ("step, deterministic", exact)):
        calls = ours.timed_steps(ours.begin(run), batch, _WARM + _TIMED)[_WARM:]
        notes.note(f"{name}, ms", round(1000 * median(called.seconds for called in calls), 2))


def _compare(notes: Notes, name: str, run: Experiment, batch: Batch, *, exact: bool) -> None:
    """Note in how many gradients later steps differ from the first; `exact`: in none."""
    first, differ, worst = _gradients(run, batch), set[int](), 0.0
    for _ in range(_TIMES - 1):
        for number, (one, other) in enumerate(zip(first, _gradients(run, batch), strict=True)):
            if not torch.equal(one, other):
                differ.add(number)
                scale = float(one.abs().max().clamp(min=1e-30))
                worst = max(worst, float((one - other).abs().max()) / scale)
    told = f"{len(differ)} of {len(first)} gradients differ, by {worst:.1e} of their largest value"
    if exact:
        notes.check(name, not differ, told)
    else:
        notes.note(name, told)


def _gradients(run: Experiment, batch: Batch) -> list[Tensor]:
    """Those of a first step, which starts from the same weights every time."""
    fold, taken = ours.begin(run), list[Tensor]()

    def take(*_: object) -> None:
        parameters = fold.learner.network.parameters()
        taken.extend(p.grad.clone() for p in parameters if p.grad is not None)

    fold.learner.optimizer.register_step_pre_hook(take)
    ours.timed_steps(fold, batch, 1)
    return taken


def _replay_without_waiting(notes: Notes, run: Experiment, batch: Batch) -> None:
    fold, lr = ours.begin(run), run.config.training.lr
    ours.timed_steps(fold, batch, EAGER_CALLS + 1)
    told = f"{_REPLAYS} replayed steps"
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(_REPLAYS):
            fold.step(batch, lr, number, number)
    except RuntimeError as error:
        told = str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    notes.check("replays that wait for nothing", told.endswith("steps"), told)
