"""The files that name the release name the same one."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_pyproject_changelog_and_citation_name_the_same_release() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    newest = re.search(r"^## \[(\d\S*)\] - (\S+)$", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    cited = dict(
        re.findall(r"^(version|date-released): (\S+)$", text("CITATION.cff"), re.MULTILINE)
    )
    assert (version, version) == (newest[1], cited["version"])
    assert cited["date-released"] == newest[2]
