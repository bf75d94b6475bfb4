"""What `engine.prepare check` shows of a sound dataset: its frames, classes and folds."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Table

from engine.config import Config, DataConfig
from engine.data.alike import Alike, alike_frames
from engine.data.folds import OWN, Folds, cut_folds, make_folds
from engine.data.other_folds import KINDS
from engine.frames.cache import cache_folder
from engine.frames.index import Dataset
from engine.frames.samples import hw_of


def dataset_tables(root: Path, dataset: Dataset, config: Config) -> list[Table]:
    """Frames by split, pixels by class and folds by kind; `config` says what classes and folds."""
    data = config.data
    alike = alike_frames(dataset.train, folder=cache_folder(config.runtime.cache))
    kinds = {kind: _folds(dataset, kind, data, alike) for kind in KINDS}
    used: Folds | str = kinds[data.fold_kind]
    if data.splits:
        used = kinds[OWN] = _told(lambda: cut_folds(config, dataset.train.samples, alike))
    classes = _class_table(dataset, data.classes, used)
    return [_frame_table(root, dataset), classes, _fold_table(kinds)]


def _folds(dataset: Dataset, kind: str, data: DataConfig, alike: Alike | None) -> Folds | str:
    cut = data.folds, data.fold_seed, data.blocks_per_fold
    return _told(lambda: make_folds(dataset.train.samples, kind, *cut, alike))


def _told(cut: Callable[[], Folds]) -> Folds | str:
    """The folds of a kind, or why there are none."""
    try:
        return cut()
    except ValueError as error:
        return str(error)


def _frame_table(root: Path, dataset: Dataset) -> Table:
    table = Table("split", "frames", "scenes", "height x width", "no depth", title=str(root))
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        samples = split.samples
        sizes = Counter((h, w) for h, w in hw_of(samples).tolist())
        most = sizes.most_common(5)
        shown = [f"{h} x {w}" + (f" ({n})" if len(sizes) > 1 else "") for (h, w), n in most]
        if len(sizes) > len(shown):
            shown.append(f"and {len(sizes) - len(shown)} more sizes")
        scenes = len({sample.scene for sample in samples} - {None})
        missing = [r.missing_depth for r in split.reports if r.missing_depth is not None]
        no_depth = _percent(float(np.mean(missing))) if missing else "-"
        sizes_shown = ", ".join(shown) or "-"
        table.add_row(name, str(len(samples)), str(scenes or "-"), sizes_shown, no_depth)
    table.caption = f"fingerprint {dataset.fingerprint[:16]}"
    return table


def _class_table(dataset: Dataset, classes: tuple[str, ...], folds: Folds | str) -> Table:
    reports = dataset.train.reports
    pixels_NC = np.array([report.class_pixels for report in reports], np.int64)
    ignored = sum(report.ignored_pixels for report in reports)
    labelled = int(pixels_NC.sum())
    table = Table("class", title="labelled training pixels")
    for heading in ("share", "frames", "lowest fold", "highest fold"):
        table.add_column(heading, justify="right")
    sums = []
    if not isinstance(folds, str):
        sums = [pixels_NC[folds.validation(fold)].sum(0) for fold in range(folds.count)]
    for index, name in enumerate(classes):
        shares = [float(counts[index] / max(1, counts.sum())) for counts in sums]
        extremes = [_percent(min(shares)), _percent(max(shares))] if shares else ["-", "-"]
        share = _percent(float(pixels_NC[:, index].sum()) / labelled)
        table.add_row(name, share, str(int((pixels_NC[:, index] > 0).sum())), *extremes)
    table.caption = f"{_percent(ignored / (ignored + labelled))} of all pixels carry no label"
    return table


def _fold_table(kinds: dict[str, Folds | str]) -> Table:
    title = "folds; leakage = validation frames with a neighbour in training"
    table = Table("kind", "leakage", "by content", "frames in each", title=title)
    measured = ""
    for kind, folds in kinds.items():
        if isinstance(folds, str):
            table.add_row(kind, "-", "-", folds)
            continue
        sizes = [str(len(folds.validation(fold))) for fold in range(folds.count)]
        number, content = _percent(folds.leakage) if folds.numbered else "not measured", "-"
        if folds.content is not None:
            share, measured = folds.content.share, folds.content.method
            content = "not measured" if share is None else _percent(share)
            if pair := folds.content.closest:
                content += f"\n{pair[0]} and {pair[1]}: {folds.content.alike}"
        table.add_row(kind, number, content, " ".join(sizes))
    table.caption = f"by content: {measured}; below it the closest pair of two folds"
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
