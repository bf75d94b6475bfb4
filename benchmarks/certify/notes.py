"""What a section finds, on disk at every moment, and how it says that it cannot run here."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from benchmarks.command import check_ready, write_json
from benchmarks.figures import Figures
from engine.mistakes import ConfigError


class NotHereError(Exception):
    """A section, or what is left of it, cannot run on this machine; the message says why."""


class Notes:
    """The findings of one section.

    Attributes:
        path: of their JSON; what the certificate's own process wrote there is kept.
        folder: of all sections' files, which may share what they make there.
        content: of the JSON; `found` holds the findings by name.
    """

    def __init__(self, path: Path, deadline_s: float = math.inf) -> None:
        """Take notes until a moment of `time.monotonic`, at which the process will be killed."""
        self.path, self.folder, self._deadline_s = path, path.parent, deadline_s
        self.content: Figures = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.content.setdefault("found", {})

    @property
    def left_s(self) -> float:
        """Seconds until the section is killed."""
        return self._deadline_s - time.monotonic()

    def note(self, name: str, value: JsonValue) -> None:
        """Add one finding and write them all, whole or not at all."""
        self.content["found"][name] = value
        write_json(self.path, self.content)

    def check(self, name: str, holds: bool, told: str) -> None:
        """Note whether something holds, and what was seen; what does not fails the section."""
        self.note(name, {"holds": bool(holds), "told": told})

    def add_rows(self, rows: Sequence[Figures]) -> None:
        """Add rows of `benchmarks.figures.rows_of`, which `benchmarks.gate` compares."""
        from engine.report.environment import describe_environment

        machine = describe_environment("").machine
        self.content["device"] = machine.gpu or machine.processor
        self.content["rows"] = [*self.content.get("rows", []), *rows]
        write_json(self.path, self.content)

    def close(self, state: str = "", told: str = "") -> None:
        """Write how the section ended; a check that does not hold has failed it in any case."""
        checks = [found for found in self.content["found"].values() if isinstance(found, dict)]
        if any(found.get("holds") is False for found in checks):
            state = "failed"
        self.content |= {"state": state or "held", "told": told}
        write_json(self.path, self.content)


def need(*libraries: str, gpu: bool = False) -> None:
    """Raise NotHereError if a library of the extra "bench", or a GPU that is needed, is missing."""
    import torch

    try:
        check_ready(*libraries)
    except ConfigError as error:
        raise NotHereError(f"not here: {error}") from error
    if gpu and not torch.cuda.is_available():
        raise NotHereError("no GPU")
