"""`parity.json`: what `engine.report.parity` found, to be shown without loading PyTorch."""

from engine.rundir import Record


class WorstTensor(Record):
    """The parameter whose gradient is furthest from float32's."""

    name: str
    error: float


class Parity(Record):
    """The step of fold 0 against eager float32: distances are relative, L2 over all batches."""

    step: str
    """Device, precision and form of the step that ran."""
    compared: bool
    why_not: str | None = None
    batches: int | None = None
    loss: float | None = None
    """Root mean square over the batches."""
    gradient: float | None = None
    worst_tensor: WorstTensor | None = None
    logits: float | None = None
    miou: float | None = None
    """Of the fold's validation frames by one view, as the run validates."""
    miou_float32: float | None = None
