"""What mkdocs needs to know of this repository: links that leave `docs/` name files of the tree."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

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
