"""One thing bent in a folder or a config; each says what it did and whom a message may name."""

import random
import re
import stat
from pathlib import Path
from typing import NamedTuple

from tests.fuzzing.files import BYTES, ENTRIES, Act
from tests.fuzzing.pictures import FRAMES


class Bend(NamedTuple):
    """What was bent.

    Attributes:
        told: what was done, for whoever reads of a failure.
        names: an error has to say one of these.
    """

    told: str
    names: tuple[str, ...]


def bend_data(rng: random.Random, root: Path) -> Bend:
    """Bend one file of a data folder."""
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    # The groups weigh the same, not their members.
    pictures = [BYTES, ENTRIES, FRAMES, FRAMES]
    return _bend(rng, root, path, rng.choice(pictures if path.suffix != ".csv" else pictures[:2]))


def bend_run(rng: random.Random, root: Path) -> Bend:
    """Bend one file of a finished run."""
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    return _bend(rng, root, path, rng.choice([BYTES, BYTES, ENTRIES]))


def _bend(rng: random.Random, root: Path, path: Path, group: dict[str, Act]) -> Bend:
    name, before = rng.choice(sorted(group)), _snapshot(root)
    group[name](rng, path)
    after = _snapshot(root)
    changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    # A frame of which one file is missing may be named by its stem.
    names = {path.stem, *(Path(other).stem for other in changed)}
    return Bend(f"{path.relative_to(root)}: {name}", tuple(sorted(names)))


def _snapshot(root: Path) -> dict[str, bytes | str]:
    """Contents by name; of what is no file, what it is."""
    return {
        str(path.relative_to(root)): path.read_bytes() if _is_plain(path) else "no plain file"
        for path in root.rglob("*")
    }


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


_VALUES = (
    *("-1", "0", "1", "2", "3", "7", "-0.5", "0.5", "1.5", "nan", "inf", "-inf", "1e300"),
    *("true", "false", '""', '"x"', '"none"', '"cuda:99"', '"../x"', '"ü"', "[]", "[1]", "{}"),
    *("[32, 32]", "[64, 64]", "[0, 0]", "[-32, 32]", "[1, 2, 3]", '["x"]', '["floor", "floor"]'),
    *("{lamp = 2}", "{lamp = -1}", "{nobody = 1}", "1979-05-27", "9223372036854775808", "4096"),
)


def bend_config(rng: random.Random, path: Path) -> Bend:
    """Bend one line, or some bytes, of a config file."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    fields = [number for number, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    number, kind = rng.choice(fields), rng.randrange(8)
    key, told = lines[number].split(" = ")[0], ""
    names: tuple[str, ...] = (key,)
    if kind < 5:
        # A value over several lines keeps its brackets: broken TOML, which names the file.
        value = rng.choice(_VALUES)
        lines[number] = f"{key} = {value}"
        told, names = lines[number], (key, path.name)
        if key == "root":
            names = *names, f"in {value.strip(chr(34))}:"
    elif kind == 5:
        lines[number] = f"{key}_{rng.choice('xyz')} = 1"
        told, names = f"unknown key {lines[number]}", (key, path.name)
    elif kind == 6:
        lines.insert(number, lines[number])
        told, names = f"twice: {lines[number]}", (path.name, key)
    if kind < 7:
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return Bend(f"{path.name}: {told}", names)
    act = rng.choice(sorted(BYTES))
    BYTES[act](rng, path)
    # Whatever was hit, the file is named, or a key that it held before.
    return Bend(f"{path.name}: {act}", (path.name, *re.findall(r"(\w+) = ", text)))
