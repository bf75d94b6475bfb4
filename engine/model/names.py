"""Names of timm's networks, known by sight: timm itself loads PyTorch, which takes seconds."""

import difflib
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from engine.config import is_code

_REGISTERED = re.compile(r"^@register_model\s+def (\w+)", re.MULTILINE)


def check_seen(name: str) -> None:
    """Refuse, by a ValueError with the nearest names, an encoder that timm's sources never mention.

    What they mention may still be no network: `engine.model.encoder.check_name` asks timm. Where
    timm is loaded already, somebody may have added networks to it, and nothing is refused here.
    """
    plain = "timm" not in sys.modules and not is_code(name)
    spec = find_spec("timm") if plain else None
    if spec is None or spec.origin is None:
        return
    source = models_source(Path(spec.origin).parent)
    architecture = name.partition(".")[0]
    if not re.search(rf"\b{re.escape(architecture)}\b", source):
        raise no_model(name, _REGISTERED.findall(source))


def models_source(timm: Path) -> str:
    """All that stands in the modules of timm's networks."""
    files = sorted((timm / "models").glob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def no_model(name: str, known: Sequence[str]) -> ValueError:
    """The error of an encoder that is none of the `known`."""
    near = difflib.get_close_matches(name.partition(".")[0], known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
    return ValueError(f"model.encoder = {name!r} is not a timm model; {hint}")
