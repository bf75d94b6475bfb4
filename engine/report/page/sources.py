"""Where the pictures of a page are from: the dataset as it is now, and the stored predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.config import Config, data_root
from engine.data.folds import FoldsFile
from engine.frames.reading import Reading
from engine.report.atlas import MaskOf, stored_masks
from engine.report.page.frame_block import FrameSource
from engine.report.page.frames import FrameReader
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, operations_of
from engine.selection.blend_search import Blend, BlendSearch
from engine.selection.members import check_members
from engine.views.store import open_store


def reader_of(config: Config, data: Path | None) -> FrameReader:
    """Reads the training frames of a config, from `data` if that is given."""
    root = data_root(config) if data is None else data
    return FrameReader(root, Reading.of(config.data), len(config.data.classes))


def run_source(
    runs: Mapping[str, RunDir], config: Config, folds: FoldsFile, data: Path | None
) -> FrameSource:
    """The frames of one run, called "", or of several on the same frames, by name."""
    reader, masks, why_not = reader_of(config, data), dict[str, MaskOf](), ""
    for name, run in runs.items():
        if not (run.manifest.exists() and run.store.exists()):
            why_not = f"{run.root} has no stored predictions"
        elif not reader.why_not:
            prob_NChw = open_store(run.oof).prob_NChw
            weight_1C = np.ones((1, prob_NChw.shape[1]))
            masks[name] = stored_masks([prob_NChw], weight_1C, _policy(config))
    stems, fold_of = list(folds.fold_of), list(folds.fold_of.values())
    return FrameSource(stems, fold_of, config.data.classes, reader, masks, why_not)


def blend_source(
    blend: Blend, classes: Sequence[str], data: Path | None
) -> tuple[FrameSource | None, Config | None]:
    """The frames of a blend and the first run's config; None if its runs are not there any more.

    A run that was made again since is as good as gone: the weights are not of its predictions.
    """
    roots = [Path(member.run) for member in blend.members]
    if not all(RunDir(root).config.is_file() for root in roots):
        return None, None
    try:
        told = check_members(roots)
    except (ValueError, FileNotFoundError):
        return None, None
    search = BlendSearch(blend.method, blend.per_class, blend.plain_slsqp is not None)
    if search.key(told) != blend.key:
        return None, None
    config, manifest = told[0].config, told[0].manifest
    reader, masks = reader_of(config, data), dict[str, MaskOf]()
    if not reader.why_not:
        stores = [open_store(one.run.oof).prob_NChw for one in told]
        masks[""] = stored_masks(stores, blend.weights_of(classes), _policy(config))
    source = FrameSource(manifest.stems, manifest.folds, classes, reader, masks)
    return source, config


def _policy(config: Config) -> DevicePolicy:
    """A CPU, which is enough for a few frames, wherever the run was."""
    operations = operations_of(config.runtime.kernels)
    return DevicePolicy(torch.device("cpu"), None, compile=False, operations=operations)
