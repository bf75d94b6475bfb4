"""python -m benchmarks.full_size: does an experiment fit this machine, and how long is a step?

One training step (forward, loss, backward, update) and all views of one frame are run on real
frames; seconds and peak memory are printed. For random weights: --model.weights none. What a step
takes on a GPU once it is recorded or compiled, and why: python -m benchmarks.certify --only step.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from engine.cli import load_config, parse_command_line
from engine.command import run_main
from engine.config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print; returns the exit code."""
    parser = command.parser("full_size", __doc__)
    parser.add_argument("--config", type=Path, nargs="+", required=True, metavar="FILE")
    options, flags = parse_command_line(parser, arguments)
    figures = measure(load_config(options.config, flags))
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if options.json:
        content = {"machine": command.describe_machine(), "rows": [figures]}
        command.write_json(options.json, content)
    return 0


def measure(config: Config) -> dict[str, Any]:
    """One step and one frame's views; seconds, losses and peak resident memory of the process.

    Raises:
        DatasetError: the dataset has faults.
        RuntimeError: a loss, a gradient or a probability is not finite.
    """
    import torch

    from benchmarks.rows import ours
    from engine.experiment import open_experiment
    from engine.report.environment import peak_memory_mib
    from engine.rundir import RunDir

    with tempfile.TemporaryDirectory(prefix="roomsmith-full-size-") as empty:
        run = open_experiment(config, RunDir(Path(empty)))
        fold = ours.begin(run)
    batch = ours.first_batch(run)
    figures: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in fold.learner.network.parameters()),
        "batch": tuple(batch.image_BCHW.shape),
        "parts": config.training.accumulate,
        "before_step_mib": round(peak_memory_mib()),
    }
    (step,) = ours.timed_steps(fold, batch, 1)
    figures |= fold.learner.sums.means()._asdict()
    figures["step_s"] = round(step.seconds, 2)
    figures["step_mib"] = round(peak_memory_mib())
    # The views are to have their memory: predicting holds no moments.
    del batch, fold.step
    fold.learner.optimizer.state.clear()
    start_s = time.monotonic()
    prob_BTCHW = ours.all_views(run, fold)
    if not bool(torch.isfinite(prob_BTCHW).all()):
        raise RuntimeError("a probability is not finite")
    return figures | {
        "views": len(config.inference.scales) * (1 + config.inference.flip),
        "probabilities": tuple(prob_BTCHW.shape),
        "views_s": round(time.monotonic() - start_s, 2),
        "peak_mib": round(peak_memory_mib()),
    }


if __name__ == "__main__":
    run_main(main)
