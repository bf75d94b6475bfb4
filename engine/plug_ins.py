"""Encoders, decoders and loss terms of the user's own, by dotted path: `package.module:Name`.

Nothing is imported unless it was permitted: by a config or a flag that the user gave, or, where a
run folder names it, by `--allow-code`. So opening what somebody else made runs nothing of theirs.
"""

import difflib
import hashlib
import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.mistakes import ConfigError
from engine.sums import sum_file

_DEFINED = re.compile(r"^(?:class|def)\s+(\w+)|^(\w+)\s*=", re.MULTILINE)

_permitted: set[str] = set()
"""What this process may import."""


def permit(paths: Iterable[str]) -> None:
    """Let this process import these plug-ins, and whatever their modules import."""
    _permitted.update(paths)


def refuse_code(configs: Mapping[str, Config], *, allow: bool) -> None:
    """Refuse, by a ConfigError, run folders that name plug-ins, unless code is allowed.

    Args:
        configs: of each run, by its folder.
        allow: whether the user said `--allow-code`; then their plug-ins are permitted.
    """
    for root, config in configs.items():
        if config.code and allow:
            permit(config.code)
        elif strange := [path for path in config.code if path not in _permitted]:
            raise ConfigError(
                f"{root} was made with code that is not ours, {', '.join(strange)}, and opening it "
                "would run that code; if you trust it, type --allow-code (in Python: "
                "allow_code=True)"
            )


def permit_named(config: Config, files: Iterable[Path], flags: Mapping[str, Any]) -> None:
    """Permit the plug-ins of a config that the user's own files, or flags, name.

    A file in a run folder, which has checksums, is none of the user's own.
    """
    said = [str(flags)]
    said += [f.read_text("utf-8") for f in files if f.is_file() and not sum_file(f).exists()]
    permit(path for path in config.code if any(path in text for text in said))


def source_hash(path: str) -> str:
    """SHA-256 of the source of a plug-in's module, which is not imported; raises as `find_code`."""
    return hashlib.sha256(find_code(path).read_bytes()).hexdigest()


def find_code(path: str) -> Path:
    """The source file of a plug-in's module, found without importing it or its packages.

    Raises:
        ConfigError: there is no such module, or it is no Python source, or defines no such name.
    """
    module, _, name = path.partition(":")
    spec, above, places = None, "", None
    for word in module.split("."):
        above = f"{above}.{word}" if above else word
        spec = _spec(above, places)
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        if spec is None:
            raise ConfigError(
                f"{path}: there is no module {above} here; install its package, or call from the "
                "folder that holds it (PYTHONPATH names others)"
            )
    file = Path(spec.origin) if spec is not None and spec.origin else None
    if file is None or file.suffix != ".py":
        raise ConfigError(f"{path}: {module} is no Python file; name a module with its source")
    names = [a or b for a, b in _DEFINED.findall(file.read_text(encoding="utf-8"))]
    if name not in names and "import" not in file.read_text(encoding="utf-8"):
        raise _no_name(path, file, names)
    return file


def load_code(path: str) -> Any:
    """Import a plug-in that is permitted.

    Raises:
        ConfigError: it is not permitted, not there, or its module fails while it is imported.
    """
    if path not in _permitted:
        raise ConfigError(
            f"{path} is code that is not ours, and was not asked for here; if you trust it, type "
            "--allow-code (in Python: allow_code=True)"
        )
    file = find_code(path)
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        line = line_in(error, file)
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: {file}{line} fails when it is imported: {told}") from error
    if not hasattr(loaded, name):
        raise _no_name(path, file, [word for word in vars(loaded) if not word.startswith("_")])
    return getattr(loaded, name)


def _spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    """As Python would find it, but that packages on the way are not imported."""
    for finder in sys.meta_path:
        if spec := finder.find_spec(name, places):
            return spec
    return PathFinder.find_spec(name, [str(Path.cwd())]) if places is None else None


def _no_name(path: str, file: Path, names: list[str]) -> ConfigError:
    name = path.partition(":")[2]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names[:8]) or 'nothing'}"
    return ConfigError(f"{path}: {file} defines no {name}; {hint}")


def line_in(error: BaseException, file: Path) -> str:
    """The line of a file that an error came through, as `:12`; empty if it came through none."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
