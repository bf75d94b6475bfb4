"""Write docs/configuration.md from the fields of the config: `python -m tools.config_reference`.

What stands in the page's first part is written here; each table follows from `engine.settings`.
"""

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal

from pydantic.fields import FieldInfo

from engine.config import Config
from engine.settings import Section

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

OPENING = """\
# Configuration

<!-- Written by `python -m tools.config_reference` from engine/settings.py; edit those. -->

A config is a TOML file that sets only what differs from the defaults below. Several are merged from
left to right, then flags are put over them:

```
roomsmith train exp093_5 lite --data.root DATA --training.epochs 3
```

In a file a field stands in its section, on the command line it has its full name:

```toml
[training]
epochs = 3
class_weights = {books = 1.5}
```

is `--training.epochs 3 --training.class_weights books=1.5`. A list is one word
(`--data.crop_hw 192,256`), and so is a table (`--data.label_map 0=ignore,1=wall`). A name that is
no field is refused with the one that it resembles. A run folder keeps the resolved `config.toml`.

What a run is made of, its hash, covers `[data]`, `[model]`, `[training]`, `[inference]` and
`[selection]`. `[runtime]` is what runs an experiment and no part of it; its fields that change
rounding are recorded when a fold begins and kept when it is resumed. `[report]` changes no result.
"""

_RANGES = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def page() -> str:
    """The whole page, as Markdown."""
    parts = [OPENING]
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        parts.append(f"\n## [{name}]\n\n{_prose(section.__doc__ or '')}\n\n")
        parts.append("| field | default | values | what it is |\n| --- | --- | --- | --- |\n")
        parts += (f"| {' | '.join(row)} |\n" for row in _rows(section))
    return "".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def _rows(section: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    for key, field in section.model_fields.items():
        what = _cell(" ".join((field.description or "").split()))
        yield f"`{key}`", f"`{_default(field.default)}`", _values(field), what


def _prose(docstring: str) -> str:
    return "\n".join(line.strip() for line in docstring.strip().splitlines())


def _default(value: Any) -> str:
    """As TOML has it, which is as JSON does for all that a default is."""
    return "none" if value is None else _cell(json.dumps(value))


def _values(field: FieldInfo) -> str:
    """Type and range, in words."""
    parts = [_kind(field.annotation)]
    for rule in field.metadata:
        parts += [
            f"{sign} {limit:g}"
            for name, sign in _RANGES.items()
            if (limit := getattr(rule, name, None)) is not None
        ]
        if (step := getattr(rule, "multiple_of", None)) is not None:
            parts.append(f"multiple of {step}")
    return _cell(", ".join(parts))


def _kind(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (UnionType, typing.Union):
        return " or ".join("none" if one is type(None) else _kind(one) for one in inner)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is tuple:
        one = _kind(inner[0])
        return f"list of {one}s" if inner[-1] is ... else f"{len(inner)} {one}s"
    if origin is dict:
        return f"table of {_kind(inner[1])}s"
    names = {int: "integer", float: "number", str: "word", bool: "`true` or `false`"}
    return names[annotation]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
