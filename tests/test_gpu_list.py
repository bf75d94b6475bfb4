"""`docs/gpu.md` lists every function that does something else where there is a GPU."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.certify.sections import SECTIONS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
ROW = re.compile(r"^\| `(\w[\w/]+\.py)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
PACKAGES = ("benchmarks", "engine", "kernels")


def asks_for_a_gpu(node: ast.AST) -> bool:
    """Whether a part of a program is `x.is_cuda`, `torch.cuda`, `== "cuda"` or `@triton.jit`."""
    match node:
        case ast.Attribute(attr="is_cuda") | ast.Attribute(value=ast.Name(id="torch"), attr="cuda"):
            return True
        case ast.Attribute(value=ast.Name(id="triton"), attr="jit"):
            return True
        case ast.Compare(left=left, comparators=others):
            named = (part.value for part in (left, *others) if isinstance(part, ast.Constant))
            return any(value in ("cuda", "gpu") for value in named)
    return False


def functions_for_a_gpu(source: str) -> set[str]:
    """The outermost functions, methods by their class, that ask; "module" for what is in none."""

    def named(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
        for part in body:
            if isinstance(part, ast.ClassDef):
                yield from named(part.body, f"{part.name}.")
            elif isinstance(part, ast.FunctionDef):
                yield f"{prefix}{part.name}", part
            else:
                yield prefix.rstrip(".") or "module", part

    parts = named(ast.parse(source).body, "")
    return {name for name, part in parts if any(map(asks_for_a_gpu, ast.walk(part)))}


@pytest.fixture(scope="module")
def listed() -> list[tuple[str, list[str], str, str]]:
    """File, functions, sections and date of each row of the page."""
    rows = ROW.findall(PAGE.read_text("utf-8"))
    return [(file, re.findall(r"`([^`]+)`", names), *rest) for file, names, *rest in rows]


def test_every_function_that_asks_for_a_gpu_is_listed_and_none_that_is_gone(
    listed: list[tuple[str, list[str], str, str]],
) -> None:
    found = {}
    for path in (path for top in PACKAGES for path in (ROOT / top).rglob("*.py")):
        if names := functions_for_a_gpu(path.read_text("utf-8")):
            found[str(path.relative_to(ROOT))] = names
    told = defaultdict[str, set[str]](set)
    for file, functions, *_ in listed:
        assert not told[file] & set(functions), f"{file} lists a function twice"
        told[file] |= set(functions)
    assert dict(told) == found


def test_the_page_has_every_section_with_its_limit() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (\d+) \| .* \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert rows == [(section.name, str(section.limit_s)) for section in SECTIONS]


def test_every_row_names_sections_that_exist_and_when_they_last_held(
    listed: list[tuple[str, list[str], str, str]],
) -> None:
    known = {section.name for section in SECTIONS}
    for file, _, sections, date in listed:
        named = set(re.findall(r"\w+", sections))
        assert named, f"{file} is proved by no section"
        assert named <= known, f"{file}: unknown sections {named - known}"
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}|never", date.strip()), f"{file}: {date}"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(x):\n    return x.is_cuda", {"f"}),
        ("class A:\n    def f(self):\n        torch.cuda.synchronize()", {"A.f"}),
        ("def f(d):\n    def g():\n        return d.type == 'cuda'", {"f"}),
        ("@triton.jit\ndef f():\n    pass", {"f"}),
        ("@triton.jit(do_not_specialize=['h'])\ndef f():\n    pass", {"f"}),
        ("class A:\n    graph: torch.cuda.CUDAGraph", {"A"}),
        ("GPU = torch.cuda.is_available()", {"module"}),
        ("def f(device):\n    return device == 'gpu'", {"f"}),
        ("def f():\n    '''torch.cuda'''  # x.is_cuda", set()),
    ],
)
def test_asking_for_a_gpu_is_recognised(source: str, names: set[str]) -> None:
    assert functions_for_a_gpu(source) == names
