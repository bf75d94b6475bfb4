"""Forms of a training step: what may differ in how it is computed, an axis a field.

A form changes rounding and seconds, never what is trained. Which of them are to be had on a device
stands in `engine.training.tuning.options`.
"""

from typing import Literal, get_args

from engine.rundir import Record


class StepForm(Record):
    """How a training step is computed; the tuner varies the axes in the order of the fields.

    A new axis is a field here, with the default that leaves the step as it was, whoever reads it,
    and where it has one, its obstacle. Files that lack it mean that default.
    """

    optimizer: Literal["fused", "foreach", "one_pass"] = "fused"
    """AdamW in one kernel over all weights, or one for each of its operations; one_pass: with the
    gradients' norm and the weights' average (`kernels.adamw`)"""
    cudnn: Literal["heuristic", "race"] = "heuristic"
    """how cuDNN chooses convolutions: by rules, or by trying (`torch.backends.cudnn.benchmark`)"""
    depthwise_norm: Literal["off", "on"] = "off"
    """these seven: what of the network is in one pass, see `engine.model.fused.Fusions`"""
    norm: Literal["off", "on"] = "off"
    layer_scale: Literal["off", "on"] = "off"
    weight_gradient: Literal["off", "on"] = "off"
    residual: Literal["off", "on"] = "off"
    group_norm: Literal["off", "on"] = "off"
    heads: Literal["off", "on"] = "off"
    parts: Literal[1, 2, 4] = 1
    """in which a batch passes the network, where that changes no more than rounding"""
    compile: Literal["off", "on", "channels_last"] = "off"
    """torch.compile; channels_last: every convolution in that layout, whatever inductor's rules"""

    def departures(self) -> dict[str, str | int]:
        """The axes that are not as in the plain form."""
        plain = PLAIN.model_dump()
        return {axis: option for axis, option in self.model_dump().items() if option != plain[axis]}

    def told(self) -> str:
        """The form in a line."""
        named = (f"{axis} = {option}" for axis, option in self.departures().items())
        return ", ".join(named) or "plain"

    def at(self, axis: str, option: str | int) -> "StepForm":
        """The same form but for one axis; a ValueError where it has no such option."""
        return StepForm.model_validate({**self.model_dump(), axis: option})


AXES: dict[str, tuple[str | int, ...]] = {
    name: get_args(field.annotation) for name, field in StepForm.model_fields.items()
}
"""The options of each axis, by its name."""

# All fields set, so that all are written.
PLAIN = StepForm.model_validate({axis: options[0] for axis, options in AXES.items()})
"""Eager, as PyTorch and the device's fused operations are by themselves."""
