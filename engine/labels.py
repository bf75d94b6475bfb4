"""What the values of label files stand for: `data.label_map` and `data.ignore` in one form.

Without either, a value is a class's index and 255 is unlabelled. A `data.label_map` names the class
of every value that may occur: others are faults, but for those of `data.ignore` and 255.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence

from engine.nyuv2 import IGNORE_INDEX

UNLABELLED = "ignore"
"""Stands for no class in a `data.label_map`."""

MOST = 65535
"""The largest value that a label file holds: 16 bits."""

Table = tuple[tuple[int, int], ...]
"""Each value that may occur, ascending, and its class, or 255; empty: a value is its class."""


def unknown_class(key: str, name: str, classes: Sequence[str]) -> ValueError:
    """What to do about a name that is no class, at the `key` of a config."""
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(classes)}"
    return ValueError(f"{key} names the class {name!r}, which data.classes lacks; {hint}")


def plain_map(given: Mapping[str, int | str], classes: Sequence[str]) -> dict[str, int | str]:
    """A `data.label_map` by ascending value, each with a class's index or "ignore".

    A class may be given by its name, or by its index, also as text, as the command line has it.

    Raises:
        ValueError: a key is no value, a value is given twice, or a class does not exist.
    """
    plain: dict[int, int | str] = {}
    for key, found in given.items():
        if not (key.isascii() and key.isdigit() and int(key) <= MOST):
            what = f"data.label_map has the key {key!r}; keys are the values in label files"
            raise ValueError(f'{what}, 0..{MOST}: data.label_map = {{"0" = "ignore", "1" = 0}}')
        if int(key) in plain:
            raise ValueError(f"data.label_map gives the value {int(key)} twice; give it one class")
        plain[int(key)] = _class_or_ignore(int(key), found, classes)
    return {str(value): plain[value] for value in sorted(plain)}


def label_table(
    label_map: Mapping[str, int | str], ignore: Collection[int], classes: Sequence[str]
) -> Table:
    """What each value stands for, by a `plain_map` and the values that are unlabelled.

    Raises:
        ValueError: a value is given twice, or no value stands for a class.
    """
    if not label_map and {*ignore} <= {IGNORE_INDEX}:
        return ()
    table = {int(key): _index(found) for key, found in label_map.items()}
    if both := sorted(table.keys() & set(ignore)):
        raise ValueError(
            f"data.label_map and data.ignore both name the value {both[0]}; take it out of one"
        )
    if not label_map:
        table = {index: index for index in range(len(classes)) if index not in ignore}
    for index, name in enumerate(classes):
        if index in table.values():
            continue
        if label_map:
            told = f"data.label_map has no value for the class {name!r}"
            raise ValueError(f"{told}; add one, or take the class out of data.classes")
        others = ", ".join(f'"{one}" = {one}' for one in range(len(classes)) if one not in ignore)
        raise ValueError(
            f"data.ignore names {index}, the one value of the class {name!r}; say which value each "
            f"class has, as in data.label_map = {{{others}, ...}}"
        )
    unlabelled = dict.fromkeys((*ignore, IGNORE_INDEX), IGNORE_INDEX)
    return tuple(sorted((unlabelled | table).items()))


def likely_table(values: Collection[int], classes: Sequence[str]) -> str:
    """What to type where label files hold these values, 255 among them or not; at best a guess."""
    count, plain = len(classes), sorted({*values} - {IGNORE_INDEX})
    strays = [value for value in plain if value >= count]
    far = strays and strays[0] >= 2 * count and len(plain) - len(strays) > 1
    if far and (len(plain) != count or len(strays) == 1):
        return f"data.ignore = {strays} if that is unlabelled"
    masks = plain == [0] and IGNORE_INDEX in values and count == 2
    table: dict[int, int | None] = {0: 0, IGNORE_INDEX: 1}
    if not masks:
        table = _likely_map(plain, count)
    if table:
        pairs = (
            f'"{value}" = ' + (f'"{UNLABELLED}"' if found is None else str(found))
            for value, found in table.items()
        )
        told = f"data.label_map = {{{', '.join(pairs)}}}"
        if None in table.values():
            told += f" if 0 is unlabelled, else name {count + 1} data.classes"
        return told
    if plain and plain[-1] < min(2 * len(plain), IGNORE_INDEX):
        return named(plain[-1] + 1)
    shown = ", ".join(f'"{value}" = CLASS' for value in plain[:40])
    more = ", ..." if plain[40:] else ""
    return (
        f"data.label_map = {{{shown}{more}}}, each CLASS an index 0..{count - 1}, a name of "
        f'data.classes or "{UNLABELLED}"'
    )


def _likely_map(plain: Sequence[int], count: int) -> dict[int, int | None]:
    """The class, None for unlabelled, of each of some ascending values; empty: no guess."""
    if plain[:1] == [0] and (len(plain) == count + 1 or plain[-1] == count > 2):
        given = range(1, count + 1) if plain[-1] == count else plain[1:]
        return {0: None, **{value: index for index, value in enumerate(given)}}
    if len(plain) == count:
        # Whatever their numbers are, there are as many as classes.
        return {value: index for index, value in enumerate(plain)}
    if plain and plain[0] > 0 and plain[-1] == count:
        return {value: value - 1 for value in range(1, count + 1)}
    return {}


def named(count: int) -> str:
    """How so many classes are named where nobody said their names."""
    names = ", ".join(f'"class{index}"' for index in range(count))
    return f"data.classes = [{names}], or the names that they have"


def _class_or_ignore(value: int, found: int | str, classes: Sequence[str]) -> int | str:
    if isinstance(found, str):
        if found == UNLABELLED:
            return UNLABELLED
        if found in classes:
            return classes.index(found)
        if not (found.isascii() and found.isdigit()):
            raise unknown_class("data.label_map", found, classes)
        found = int(found)
    if found == IGNORE_INDEX:
        return UNLABELLED
    if not 0 <= found < len(classes):
        raise ValueError(
            f"data.label_map gives the value {value} the class {found}; data.classes has "
            f"0..{len(classes) - 1}, and no class is {UNLABELLED!r}"
        )
    return found


def _index(found: int | str) -> int:
    return IGNORE_INDEX if isinstance(found, str) else found
