"""The shared networks as the plain recipe's models."""

from safetensors.torch import load_file

from benchmarks.plain.model import DepthFpn, to_device
from benchmarks.plain.recipe import Recipe
from benchmarks.rows.job import Job


def trained_model(job: Job, number: int, recipe: Recipe) -> DepthFpn:
    """A network of `benchmarks.rows.shared.networks` in evaluation mode: same tensors, smp's code.

    Raises:
        RuntimeError: its keys are not the model's.
    """
    model = DepthFpn(job.config.model, len(job.config.data.classes))
    model.load_state_dict(load_file(job.networks / str(number) / "fold0" / "best.safetensors"))
    return to_device(model.eval(), recipe)
