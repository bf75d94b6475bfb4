"""Which scene each frame shows, from a dataset's scenes.csv."""

import csv
from pathlib import Path

from engine.exits import is_typed
from engine.frames.kinds import Fault


def read_scenes(path: Path, faults: list[Fault]) -> dict[str, str]:
    """The scene of each stem; `faults` is extended by what is wrong with the file."""
    if not path.is_file():  # to open a pipe may take for ever
        faults.append(Fault(path.name, "no file, or a link to none", "UTF-8 CSV"))
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, OSError) and not is_typed(error):
            raise
        faults.append(Fault(path.name, f"an unreadable file ({error})", "UTF-8 CSV"))
        return {}
    if not rows or [cell.strip() for cell in rows[0]] != ["stem", "scene"]:
        found = f"the header {','.join(rows[0])!r}" if rows else "an empty file"
        faults.append(Fault(path.name, found, "the header 'stem,scene'"))
        return {}
    scenes: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells, where = [cell.strip() for cell in row], f"{path.name} line {number}"
        if any(cells) and (len(cells) != 2 or not all(cells)):
            faults.append(Fault(where, repr(",".join(row)), "a stem and its scene"))
        elif any(cells) and scenes.setdefault(cells[0], cells[1]) != cells[1]:
            faults.append(Fault(where, f"a second scene for {cells[0]}", "one scene a stem"))
    return scenes
