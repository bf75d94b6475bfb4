"""`export.json`: what a folder of exported files is of, and how each file was found right."""

from typing import Any

from pydantic import Field

from engine.rundir import Record

NAME = "export.json"


class Agreement(Record):
    """How far the masks of a form are the engine's."""

    frames: int
    """Training frames, and parts of them of other sizes."""
    sizes: list[tuple[int, int]]
    """Height and width, each once."""
    pixels: int
    equal: int
    """Those of the same class."""

    @property
    def share(self) -> float:
        """Of all pixels."""
        return self.equal / self.pixels


class Int8Loss(Record):
    """What the form in INT8 costs."""

    calibrated: list[str]
    """Training frames that the scales were chosen on."""
    scored: int
    """Labelled frames that both mIoUs are of."""
    held_out: bool
    """Whether no network of the graph was trained on them."""
    miou: float
    miou_float32: float


class Exported(Record):
    """A form."""

    files: dict[str, str]
    """SHA-256 by name."""
    versions: dict[str, str]
    """Of the packages that wrote it, and of what runs it."""
    agreement: Agreement
    processor: str | None = None
    """Which machine code is for."""
    int8: Int8Loss | None = None


class Export(Record):
    """`export.json`."""

    key: str
    """Hash of what the graph is made of."""
    told: dict[str, Any]
    """What every file holds: see `engine.export.open.describe`."""
    forms: dict[str, Exported] = Field(default_factory=dict)
