"""Folds that the user cut: `data.splits`, a file that says of each training frame which it is of.

    stem,fold            CSV with this header, and a fold 0, 1, ... or train, validation a line
    stem                 text: the frames that are validated, one a line; all others train
    {"stem": fold}       JSON: the same as the CSV; or {"train": [...], "validation": [...]};
    [{"train": [...], "val": [...]}, ...]    or a list of folds, as nnU-Net writes it

Frames to train and to validate are fold 1 and fold 0: `--folds 0` trains on the one and validates
on the other. N: training frames.
"""

import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.mistakes import ConfigError

_ROLES = {"train": 1, "training": 1, "val": 0, "valid": 0, "validation": 0}
"""Fold of a frame that is named so."""

_SHOWN = 3


def find_split_file(name: str, root: Path) -> Path:
    """The file that `data.splits` names: as it is typed, or in the dataset's folder `root`."""
    for path in (Path(name), root / name):
        if path.is_file():
            return path
    raise ConfigError(f"data.splits = {name!r}: no such file, here or in {root}")


def read_split_file(path: Path, stems: Sequence[str], folds: int) -> NDArray[np.int64]:
    """(N,) the fold that each frame validates, by a file.

    Args:
        path: the file.
        stems: of the training frames; names in the file may end in a file's suffix.
        folds: as many as the config says.

    Raises:
        ConfigError: the file is of another form, names a frame that there is not, or one twice, or
            lacks one; or its folds are not 0 to `folds` - 1.
    """
    told = f"data.splits = {str(path)!r}"
    found = _read(path, told)
    known = set(stems)
    pairs = [(_stem(name, known), _fold(word, told, name)) for name, word in found]
    _check_names(pairs, stems, told)
    fold_of = dict(pairs)
    if all(word is None for _, word in found):
        fold_of = dict.fromkeys(stems, _ROLES["train"]) | fold_of
    if lost := [stem for stem in stems if stem not in fold_of]:
        raise ConfigError(f"{told} lacks {_some(lost, len(stems))}; add them with their folds")
    held = sorted(set(fold_of.values()))
    if held != [*range(len(held))] or len(held) < 2:
        raise ConfigError(f"{told} has the folds {', '.join(map(str, held))}; needed: 0, 1, ...")
    if len(held) != folds:
        raise ConfigError(f"{told} has {len(held)} folds; type --data.folds {len(held)}")
    return np.array([fold_of[stem] for stem in stems], np.int64)


_Pairs = list[tuple[str, Any]]


def _read(path: Path, told: str) -> _Pairs:
    """Names with what the file says of each, as it stands there; None of those of a plain list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{told} is no UTF-8 text") from None
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return _of_json(text, told)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    rows = [row for row in rows if any(row)]
    if not rows:
        raise ConfigError(f"{told} is empty; it says which fold each frame is of")
    header = [cell.lower() for cell in rows[0]]
    if header in (["stem", "fold"], ["stem", "split"]):
        if wrong := next((row for row in rows[1:] if len(row) != 2 or not all(row)), None):
            raise ConfigError(f"{told} has the line {','.join(wrong)!r}; needed: a stem and a fold")
        return [(name, fold) for name, fold in rows[1:]]
    if all(len(row) == 1 for row in rows):
        return [(row[0], None) for row in rows]
    shown = ",".join(rows[0])
    raise ConfigError(f"{told} begins with {shown!r}; needed: the header 'stem,fold'")


def _of_json(text: str, told: str) -> _Pairs:
    try:
        held = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{told} is no JSON: {error}") from None
    if isinstance(held, dict) and held and all(isinstance(v, list) for v in held.values()):
        if strange := next((key for key in held if key not in _ROLES), None):
            raise ConfigError(f"{told} has the list {strange!r}; needed: train and validation")
        return [(str(name), key) for key, names in held.items() for name in names]
    if isinstance(held, dict) and held:
        return list(held.items())
    if isinstance(held, list) and held and all(isinstance(each, Mapping) for each in held):
        return _of_list(held, told)
    raise ConfigError(f'{told} is other JSON; needed: {{"STEM": FOLD}} or lists of train and val')


def _of_list(held: Sequence[Mapping[str, Any]], told: str) -> _Pairs:
    """A list of folds: what each validates, and that all others train in it."""
    validated: list[set[str]] = []
    for number, fold in enumerate(held):
        key = next((key for key in ("val", "validation") if key in fold), "")
        if not key or not isinstance(fold[key], list):
            raise ConfigError(f"{told} has no list val in fold {number}")
        validated.append(set(map(str, fold[key])))
    if len(held) == 1:
        return [(str(name), key) for key in held[0] if key in _ROLES for name in held[0][key]]
    everything = set[str]().union(*validated)
    for number, fold in enumerate(held):
        trains = set(map(str, fold.get("train", everything - validated[number])))
        if trains != everything - validated[number]:
            raise ConfigError(
                f"{told}: fold {number} does not train on all frames that it does not validate "
                f"({len(trains)} for {len(everything - validated[number])}); every frame has to be "
                "validated by one fold and trained by all others"
            )
    return [(name, number) for number, names in enumerate(validated) for name in sorted(names)]


def _fold(word: Any, told: str, name: str) -> int:
    text = "validation" if word is None else str(word).strip().lower()
    if text in _ROLES:
        return _ROLES[text]
    if text.isascii() and text.isdigit():
        return int(text)
    raise ConfigError(f"{told} has {word!r} for {name}; needed: 0, 1, ... or train, validation")


def _stem(name: str, known: set[str]) -> str:
    """The frame's stem, which may be named by its file."""
    plain = Path(name).stem
    return name if name in known or plain not in known else plain


def _check_names(pairs: Iterable[tuple[str, Any]], stems: Sequence[str], told: str) -> None:
    counts = Counter(name for name, _ in pairs)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise ConfigError(f"{told} names {twice} twice; give it one fold")
    if strange := sorted(counts.keys() - set(stems)):
        near = difflib.get_close_matches(strange[0], stems, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; a frame is {stems[0]}"
        count = f"{len(strange)} names that are no training frames"
        shown = ", ".join(strange[:_SHOWN]) + (", ..." if strange[_SHOWN:] else "")
        raise ConfigError(f"{told} has {count}: {shown}{hint}")


def _some(names: Sequence[str], total: int) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if names[_SHOWN:] else "")
    return f"{len(names)} of {total} training frames ({shown})"
