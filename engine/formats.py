"""The formats of config files, and how what an older one says is read today.

1   no number; what runs an experiment stood among the fields of the experiment
2   `format = 2`; it stands in [runtime]
3   `format = 3`; how files are read and zoomed can be set (`INTRODUCED`, `ABSENT`); files of a run
    have checksums, and what is unfinished lies in a lease
"""

import logging
from collections.abc import Mapping, Sequence
from copy import copy

from pydantic import BaseModel, JsonValue
from pydantic_core import to_json

_log = logging.getLogger(__name__)

FORMAT = 3
"""The format that run folders are written in."""

Sections = dict[str, dict[str, JsonValue]]
"""Fields of a config by section and key."""

Source = tuple[str, Mapping[str, JsonValue]]
"""A config file or the command line, by name, and its sections; by mistake, one may be no table."""

INTRODUCED: Sections = {
    "data": {
        "fit": "stretch",
        "label_map": {},
        "ignore": [],
        "depth_scale": 0.001,
        "depth_invalid": [0],
        "fov": 63.31,
        "scale_range": [],
        "hue": 0.0,
        "saturation": 0.0,
        "depth_dropout": 0.0,
        "class_mix": 0.0,
        "exif": "ignore",
        "splits": "",
    },
    "model": {"supervision": 0.0, "depth_start": 1.0},
    "training": {
        "parts": 1,
        "reduce": "auto",
        "lr_of": {},
        "layer_decay": 1.0,
        "frozen": [],
        "frozen_norms": [],
        "loss_terms": {},
        "balance": 0.0,
        "dice_weight": 0.0,
        "lovasz_weight": 0.0,
        "focal_weight": 0.0,
        "focal_gamma": 2.0,
        "label_smoothing": 0.0,
        "frames": "folds",
        "members": 1,
        "member_inputs": [],
        "teacher": "",
        "teacher_share": 0.25,
        "teacher_threshold": 0.0,
        "patience": 0,
    },
}
"""Fields of the experiment that format 1 lacked, each with the default that it was introduced with:
older folders were made with that one. It is no part of an identity, and stays here even when
`engine.config` gets another default."""

ABSENT: Sections = {"inference": {"base_hw": "own"}}
"""Fields of `HASHED_1` that could be absent, each with the value that says so today. Older folders
lack it; it is hashed as null, as its absence was."""

READ_BY = ("data.exif", "data.splits", "training.reduce")
"""Fields of `INTRODUCED` in no hash: what they change is told elsewhere, by the dataset's
fingerprint file by file, by the fold of each frame, or by what a fold began with
(`engine.runtime.recorded`)."""

MOVED = {
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
"""What stood elsewhere in format 1, by its full name then, each with its name in [runtime]. Files
and flags may still use the old names."""

HASHED_1 = {
    "data": "classes source folds fold_kind fold_seed blocks_per_fold input_hw crop_hw scale_limit "
    "scale_p class_aware_p small_classes flip_p jitter_p brightness contrast",
    "model": "encoder weights decoder input pyramid_channels segmentation_channels dropout "
    "aspp_channels aspp_rates aspp_dropout drop_path",
    "training": "seed epochs batch_size accumulate lr weight_decay schedule warmup clip_norm "
    "ema_decay ema_warmup class_weights boundary_weight ignored_edges depth_weight validate_every "
    "precision compile kernels threads",
    "inference": "scales flip temperatures base_hw batch_size",
    "selection": "temperature",
}
"""The fields that format 1 hashed, in its order. Frozen: a change would orphan every run."""

RUNTIME_1: dict[str, JsonValue] = {
    "source": "auto",
    "precision": "auto",
    "compile": "auto",
    "kernels": "fused",
    "threads": 0,
}
"""Fields of `HASHED_1` that are none of the experiment, with their defaults at the time. Folders
that were begun then were hashed with what their config said; for all others these stand."""

_told: list[str] = []
"""What this process has said of renamed fields: it says it once."""


def rename(sources: Sequence[Source]) -> list[Source]:
    """Put what sources say under the names of today; where one uses both, today's name wins.

    The first fields that a process meets under an old name are told in one line.
    """
    renamed: list[Source] = []
    told = []
    for source, sections in sources:
        others = {name: copy(values) for name, values in sections.items()}
        moved: dict[str, JsonValue] = {}
        for name, now in MOVED.items():
            section, _, key = name.partition(".")
            values = others.get(section)
            if not isinstance(values, dict) or key not in values:
                continue
            moved[now] = values.pop(key)
            told.append(f"{name} is runtime.{now} now")
            if now == "compile":
                # It was one switch: "off" meant no CUDA graphs either.
                moved["cuda_graphs"] = "off" if moved[now] == "off" else "auto"
        renamed += [(source, {"runtime": moved} if moved else {}), (source, others)]
    if told and not _told:
        _told.extend(dict.fromkeys(told))
        _log.info("config: %s", ", ".join(_told))
    return renamed


def stood() -> Sections:
    """What a field that the config of a run folder does not name was when it was written."""
    names = {**INTRODUCED, **ABSENT}
    return {name: {**INTRODUCED.get(name, {}), **ABSENT.get(name, {})} for name in names}


def introduced_text(section: str, values: BaseModel) -> bytes:
    """What is hashed of the fields of a section that are younger than `HASHED_1`.

    A field is silent at the value that stood for it when there was no such field, so that adding
    one changes no hash that exists.
    """
    text = b""
    for key, default in INTRODUCED[section].items():
        value = to_json(getattr(values, key))
        if value != to_json(default) and f"{section}.{key}" not in READ_BY:
            text += f"{section}.{key}=".encode() + value + b"\n"
    return text
