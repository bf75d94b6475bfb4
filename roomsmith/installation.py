"""Whether the packages that Roomsmith brings are its own still; asked before any is imported.

`engine` and `kernels` stand beside `roomsmith` under names that others use as well: pip installs
a package of such a name over ours without a word.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

PACKAGES = ("engine", "kernels")

_OURS = "Roomsmith"
"""What the first line of each package's docstring names."""


def refuse_foreign() -> None:
    """Raise an ImportError that names a package which is another's, whose, and what to do."""
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(_lost(name, home))
        origin = Path(spec.origin).resolve()
        if origin != home / name / "__init__.py":
            raise ImportError(_shadowed(name, origin.parent, home))
        if _OURS not in origin.read_text(encoding="utf-8").partition("\n")[0]:
            raise ImportError(_overwritten(name, origin.parent))


def version() -> str:
    """Roomsmith's own, as it was installed; of a checkout that is only on the path "unknown"."""
    try:
        return importlib.metadata.version("roomsmith")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _lost(name: str, home: Path) -> str:
    return f"{home / name} is no package of Roomsmith's any more; {_AGAIN}"


def _shadowed(name: str, found: Path, home: Path) -> str:
    return (
        f"Roomsmith needs its own package {name!r} of {home}, but {found} is found first: rename "
        "that folder, or start Python from another one (sys.path decides)"
    )


def _overwritten(name: str, folder: Path) -> str:
    owners = importlib.metadata.packages_distributions().get(name, [])
    others = sorted({owner for owner in owners if owner != "roomsmith"})
    whose = f"the package {' or '.join(others)}" if others else "another package"
    remove = f"pip uninstall {' '.join(others)}, then " if others else ""
    return (
        f"{folder} is not Roomsmith's: {whose} was installed over it, under the same name. To use "
        f"Roomsmith: {remove}{_AGAIN}; or give each an environment of its own"
    )


_AGAIN = "install it again: pip install --force-reinstall --no-deps roomsmith"

refuse_foreign()
