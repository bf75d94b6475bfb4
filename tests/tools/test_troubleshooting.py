"""Troubleshooting quotes messages that the code still gives."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"


def texts_of_the_code() -> str:
    """Every literal, and every literal part of an f-string, a line each."""
    files = [
        file for top in ("engine", "kernels", "roomsmith") for file in (ROOT / top).rglob("*.py")
    ]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return "\n".join(
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings
    )


def test_every_message_of_the_page_stands_in_the_code() -> None:
    quoted = re.findall(r"^### `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) > 20
    texts = texts_of_the_code()
    for message in quoted:
        for part in (part.strip() for part in message.split("...")):
            assert part in texts, f"no message of the engine says {part!r}"
