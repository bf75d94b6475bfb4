"""Let a call die at a named moment, as by a kill, inside the test's own process."""

from pathlib import Path

import pytest


class StoppedError(Exception):
    """Stands for a kill: nothing of the engine catches it."""


def stop_at(event: str, patch: pytest.MonkeyPatch) -> None:
    """Die before or after a file gets its name; `event` is "moment name count".

    The moment is "write" or "renamed", as in `tests/killing.py`.
    """
    moment, name, count = event.split()
    replace, seen = Path.replace, [0]

    def stopping(self: Path, target: Path) -> Path:
        seen[0] += target.name == name
        now = target.name == name and seen[0] == int(count)
        if now and moment == "write":
            raise StoppedError
        result = replace(self, target)
        if now:
            raise StoppedError
        return result

    patch.setattr(Path, "replace", stopping)
