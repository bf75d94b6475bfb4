"""What `runtime.tune = "auto"` chooses for the full-size step, and what it measured on the way."""

import shutil
from dataclasses import replace

from benchmarks.certify.experiment import make_config, open_run
from benchmarks.certify.notes import Notes
from benchmarks.subset import with_section
from engine.rundir import RunDir
from engine.training.tuning.choice import choose_form
from engine.training.tuning.tuner import Tuned


def tune(notes: Notes) -> None:
    """Tune fold 0 with an empty cache, then again with what the first call left there."""
    cache, folder = notes.folder / "tune-cache", RunDir(notes.folder / "tune")
    for left in (cache, folder.root):
        shutil.rmtree(left, ignore_errors=True)
    folder.fold(0).mkdir(parents=True)
    config = with_section(make_config(notes.folder), "runtime", tune="auto", cache=str(cache))
    run = open_run(notes.folder, with_section(config, "training", batch_size=4))
    task = replace(run.task(0), run=folder)
    chosen = choose_form(task, run.policy, begun=False)
    notes.note("chosen", chosen.form.told())
    for path in sorted(cache.glob("tuned-*.json")):
        tuned = Tuned.read(path)
        for tried in tuned.tried:
            notes.note(f"form {tried.form.told()}", tried.to_json())
        spent = {"measuring_s": tuned.measuring_s, "preparing_s": tuned.preparing_s}
        notes.note("spent", {**spent, "offer": tuned.offer})
    again = choose_form(task, run.policy, begun=False)
    notes.check("the same from the cache", again.form == chosen.form, again.form.told())
