"""The pages' templates, filled in: whatever stands in a value is escaped."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.runtime.progress import duration

_TEMPLATES = Path(__file__).resolve().parent / "templates"

NOTHING = "\u2013"
"""In place of a figure that there is none of."""


def render(template: str, **values: Any) -> str:
    """The HTML of a template; the page holds all that it shows, and runs no scripts."""
    text = _environment().get_template(template).render(**values).strip() + "\n"
    # Names of files may hold bytes that are no text.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=_score, share=_share, change=_change, time=_time, value=_value, weight=_weight
    )
    return environment


def _score(value: float | None, digits: int = 4) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _share(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}\u00a0%"


def _change(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.4f}"


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else duration(seconds)


def _value(value: object) -> str:
    """A field of a config, as its file has it but for quotes of words."""
    if isinstance(value, str):
        return value or '""'
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _weight(value: float | dict[str, float]) -> str:
    return "by class" if isinstance(value, dict) else f"{value:.4f}"
