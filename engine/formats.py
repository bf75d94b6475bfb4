"""The formats of config files, and how what an older one says is read today.

1   no number; what runs an experiment stood among the fields of the experiment
2   `format = 2`; it stands in [runtime]
"""

from collections.abc import Mapping

from pydantic import JsonValue

FORMAT = 2
"""The format that run folders are written in."""

Sections = dict[str, dict[str, JsonValue]]
"""Fields of a config by section and key."""

INTRODUCED: Sections = {}
"""Fields of the experiment that format 1 lacked, each with the default that it was introduced with:
older folders were made with that one. It is no part of an identity, and stays here even when
`engine.config` gets another default."""

_MOVED = {
    "data.source": "source",
    "data.cache": "cache",
    "data.workers": "workers",
    "training.device": "device",
    "training.precision": "precision",
    "training.compile": "compile",
    "training.kernels": "kernels",
    "training.threads": "threads",
    "training.log_every": "log_every",
    "training.save_every": "save_every",
    "inference.runtime": "inference",
}
"""What stood elsewhere in format 1, by its name then, each with its name in [runtime]."""

OLD_NAMES = tuple(_MOVED)
"""Full names that only format 1 has; files and flags may still use them."""

FieldPath = tuple[str, ...]
"""Section and key of a field, or a section alone that is, by mistake, no table."""


def fields_of(
    sections: Mapping[str, JsonValue | Mapping[str, JsonValue]],
) -> tuple[dict[FieldPath, JsonValue], list[str]]:
    """The fields that a file or the flags set, under the names that they have today.

    Where one is given under both names the one of today wins.

    Returns:
        Value by path; and what was renamed, as "training.device is runtime.device now".
    """
    moved: dict[FieldPath, JsonValue] = {}
    others: dict[FieldPath, JsonValue] = {}
    renamed = []
    for section, values in sections.items():
        if not isinstance(values, Mapping):
            others[(section,)] = values
            continue
        for key, value in values.items():
            now = _MOVED.get(f"{section}.{key}")
            if now is None:
                others[section, key] = value
                continue
            moved["runtime", now] = value
            renamed.append(f"{section}.{key} is runtime.{now} now")
            if now == "compile":
                # It was one switch: "off" meant no CUDA graphs either.
                moved["runtime", "cuda_graphs"] = "off" if value == "off" else "auto"
    return {**moved, **others}, renamed
