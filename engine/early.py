"""Faults that need no decoding and no PyTorch, told before it is loaded: that takes seconds.

What is refused here, the stages would refuse too, later and in the same words.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from engine.config import ROOMS, Config, ReportConfig, RuntimeConfig, TrainingConfig, data_root
from engine.data.folds import cut_folds
from engine.epochs import epochs_of, is_trained
from engine.frames.decode import Sample
from engine.frames.glance import foreign_labels
from engine.frames.index import DatasetError, list_dataset
from engine.mistakes import ConfigError, to_install
from engine.model.names import check_seen
from engine.model.sources import check_source
from engine.resume import check_same_experiment, stopped
from engine.rundir import RunDir, to_complete
from engine.teacher import find_teacher, nothing_to_label

_BY_NAME = ("random", "blocked", "scene")
"""Kinds of folds that are cut without a look at what frames show."""


def check_train(config: Config, run: RunDir, chosen: Sequence[int], *, resume: bool) -> None:
    """Refuse what `engine.train` cannot do with these folds of a run that is not finished.

    Raises:
        ConfigError: the run folder cannot be one, or holds another experiment or a stopped fold.
        DatasetError: files are missing, or none are there.
        ValueError: the frames do not fill the folds, or the source of weights is unknown.
        FileNotFoundError: the weights do not exist.
        RuntimeError: a package is not installed.
    """
    check_out(run.root, is_read=run.summary.exists())
    if run.config.is_file():
        check_same_experiment(config, run)
    training = config.training
    check_inputs(config, [fold for fold in chosen if not _is_begun(run, fold, training)])
    if not all(is_trained(run, fold, training) for fold in chosen):
        _check_trackers(config.report)
    for fold in chosen if not resume else ():
        if run.last(fold).exists() and not is_trained(run, fold, training):
            raise stopped(run, fold, epochs_of(run, fold), training.epochs)


def check_inputs(config: Config, folds: Sequence[int]) -> None:
    """Refuse a dataset, an encoder or a package that is not there, or weights to begin folds with.

    Errors as of `check_train`.
    """
    check_seen(config.model.encoder)
    check_packages(config.runtime)
    if config.int8 and not _is_installed("nncf"):
        needed = f"{to_install('nncf')}, or use --runtime.inference openvino"
        raise RuntimeError(f"runtime.inference = 'openvino-int8' quantises by NNCF: {needed}")
    if (tune := config.runtime.tune) not in ("off", "auto") and not Path(tune).is_file():
        raise FileNotFoundError(f"runtime.tune = {tune!r} is no file; name one, or use auto or off")
    if folds and config.taught_by_run:
        find_teacher(config)
    # Rooms are rendered where they are not there.
    if config.data.root != ROOMS:
        _check_dataset(config)
    if config.model.weights != "none":
        models = map(config.model.of_fold, folds)
        for model in {model.weights: model for model in models}.values():
            check_source(model)


def check_weights(config: Config, run: RunDir, folds: Sequence[int] | None = None) -> None:
    """Refuse, by a FileNotFoundError, a run that has lost the weights of one of some folds, or all.

    In INT8, if that is asked for.
    """
    for fold in range(config.networks) if folds is None else folds:
        if not (path := run.best(fold)).exists():
            lost = f"restore it, or move {run.fold(fold)} away to train the fold again, then "
            lost = lost if _is_begun(run, fold, config.training) else ""
            raise FileNotFoundError(f"{path} is missing; {lost}{to_complete(run.root)}")
    if config.int8:
        check_int8(config, run, folds)


def check_int8(config: Config, run: RunDir, folds: Sequence[int] | None = None) -> None:
    """Refuse, by a FileNotFoundError, a run whose folds have no networks in INT8."""
    for fold in range(config.networks) if folds is None else folds:
        if not (path := run.int8(fold)).exists():
            raise FileNotFoundError(
                f"{path} is missing: networks are quantised on their training frames, before they "
                f"predict out-of-fold. Move {run.oof} away, and make them: python -m engine.train "
                f"--out {run.root} --runtime.inference openvino-int8; or use --runtime openvino"
            )


def check_blend(config: Config, inferences: Sequence[str], out: RunDir) -> None:
    """Refuse what `engine.blend` cannot do; errors as of `check_train`.

    Args:
        config: what its dataset and device are chosen by.
        inferences: `runtime.inference` of each run.
        out: the folder of the blend.
    """
    check_out(out.root)
    if out.config.is_file():
        raise ConfigError(f"{out.root} is a run of engine.train; choose another --out")
    for inference in inferences:
        check_packages(config.runtime.model_copy(update={"inference": inference}))
    if config.data.root != ROOMS:
        root = data_root(config)
        listing = list_dataset(root, need_depth=config.needs_depth)
        if listing.faults:
            raise DatasetError(root, listing.faults)


def check_out(folder: Path, *, is_read: bool = False) -> None:
    """Refuse, by a ConfigError, a folder that cannot be made or, unless it `is_read`, written."""
    # What is there already of the way to it. A link that leads nowhere is there, and no folder.
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ConfigError(f"--out {folder}: {there} is no folder; choose another --out")
    if not is_read and not os.access(there, os.W_OK | os.X_OK):
        needed = "choose another --out, or give yourself the right to write there"
        raise ConfigError(f"--out {folder}: {there} cannot be written; {needed}")


def _check_dataset(config: Config) -> None:
    data, root = config.data, data_root(config)
    if not root.is_dir():
        there = "a file" if root.exists() else "no such folder"
        needed = "name a folder with train/image and train/label: --data.root FOLDER"
        raise ConfigError(f"data.root = {str(root)!r}: {there}; {needed}")
    train, test, scenes, faults = list_dataset(root, need_depth=config.needs_depth)
    if faults:
        raise DatasetError(root, faults)
    if config.training.teacher and not test:
        raise nothing_to_label(config)
    if not (data.label_map or data.ignore) and (told := foreign_labels(root, train, data.classes)):
        raise ConfigError(told)
    samples = [
        Sample(files.stem, files.image, None, None, (0, 0), scenes.get(files.stem))
        for files in train
        if files.image is not None
    ]
    if data.splits or data.fold_kind in _BY_NAME:
        cut_folds(config, samples)


def check_packages(runtime: RuntimeConfig) -> None:
    """Refuse, by a RuntimeError, what runs by a package that is not installed."""
    if runtime.inference != "torch":
        asked = f"runtime.inference = {runtime.inference!r}"
        if runtime.device.startswith("cuda"):
            raise RuntimeError(
                f"{asked} runs on the CPU, not on {runtime.device}; "
                "use --runtime.inference torch or --runtime.device cpu"
            )
        if not _is_installed("openvino"):
            packages = (
                ("openvino", "nncf") if runtime.inference == "openvino-int8" else ("openvino",)
            )
            needed = f"{to_install(*packages)}, or use --runtime.inference torch"
            raise RuntimeError(f"{asked}, but OpenVINO is not installed: {needed}")
    if runtime.source == "dali" and not _is_installed("nvidia.dali"):
        raise RuntimeError(
            f"runtime.source = 'dali', which is not installed: {to_install('nvidia-dali-cuda130')} "
            "(Linux x86-64 only), or use --runtime.source torch"
        )


def _check_trackers(report: ReportConfig) -> None:
    """Refuse to train for trackers that are not installed: nobody could show the epochs later."""
    needed = {"tensorboard": ["tensorboard"], "wandb": ["wandb"], "mlflow": ["mlflow"]}
    if not report.online:
        needed["mlflow"].append("sqlalchemy")  # mlflow-skinny has no database
    for name, packages in needed.items():
        if getattr(report, name) and not all(map(_is_installed, packages)):
            raise RuntimeError(
                f"report.{name} = true, but {' and '.join(packages)} "
                f"{'are' if packages[1:] else 'is'} not installed: {to_install(name)}, or use "
                f"--report.{name} false"
            )


def _is_installed(package: str) -> bool:
    with suppress(ModuleNotFoundError):  # what it is a part of
        return find_spec(package) is not None
    return False


def _is_begun(run: RunDir, fold: int, training: TrainingConfig) -> bool:
    """Whether a fold needs no starting weights: it can go on, or was trained to its last epoch."""
    return run.last(fold).exists() or is_trained(run, fold, training)
