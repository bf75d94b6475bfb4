"""What mkdocs needs of this repository: the notebook as a page, and links that leave `docs/`."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

_SVG = "http://www.w3.org/2000/svg"

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#]+)(?P<anchor>#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A site holds `docs/` alone: what stands beside it is named, by its path in the repository.

    Raises:
        FileNotFoundError: such a link leads nowhere.
    """

    def named(link: re.Match[str]) -> str:
        path = (ROOT / "docs" / link["target"]).resolve()
        if not path.exists():
            raise FileNotFoundError(f"docs link to {link['target']}, which is not there")
        return f"{link['text']} (`{path.relative_to(ROOT).as_posix()}` in the repository)"

    return _LINK.sub(named, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the executed notebook as a page."""
    path = ROOT / "docs" / "notebook.ipynb"
    content = notebook_page(json.loads(path.read_text(encoding="utf-8")))
    files.append(File.generated(config, "notebook.md", content=content))
    return files


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: its words, its code, and below each cell what that showed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return _picture("image/png", "".join(data["image/png"]).replace("\n", ""))
    if "image/svg+xml" in data:
        drawing = "".join(data["image/svg+xml"])
        if f'xmlns="{_SVG}"' not in drawing:  # a page's own need not say so, a picture has to
            drawing = drawing.replace("<svg ", f'<svg xmlns="{_SVG}" ', 1)
        return _picture("image/svg+xml", base64.b64encode(drawing.encode()).decode())
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


def _picture(kind: str, content: str) -> str:
    return f'<img alt="what the cell shows" src="data:{kind};base64,{content}">'
