"""The error atlas: which classes, edges, object sizes, depths and frames the errors are in.

One pass over the frames, one at a time: what is kept grows with their number only by one
confusion matrix a frame, which the bootstrap of `statistics` needs.

Axes: M stores, N frames, C class (truth by prediction), h w stored pixels, H W label pixels.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from engine.frames.decode import read_depth, read_label
from engine.frames.index import Sample
from engine.report.atlas_report import describe
from engine.report.contact_sheet import contact_sheet
from engine.report.frame_errors import FrameErrors, count_frame
from engine.rundir import RunDir, read_json, whole_file, write_json
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import track
from engine.selection.statistics import group_of

Masks = Callable[[int, tuple[int, int]], NDArray[np.uint8]]
"""Gives the predicted classes, (H, W) uint8, of the sample at a position, at the size asked for."""


def has_atlas(run: RunDir, key: str) -> bool:
    """Whether the run holds a whole atlas of what `key` stands for."""
    paths = (run.atlas, run.frame_counts, run.worst_frames)
    return all(path.exists() for path in paths) and bool(read_json(run.atlas)["key"] == key)


def write_atlas(
    run: RunDir,
    key: str,
    samples: Sequence[Sample],
    fold_of: Sequence[int],
    classes: Sequence[str],
    masks: Masks,
) -> dict[str, Any]:
    """Write `frames.npy` (N, C, C) uint32, `worst.png` and, last, `atlas.json`.

    Args:
        run: where to write.
        key: hash of everything the masks are made from.
        samples: N labelled frames.
        fold_of: N folds.
        classes: C class names.
        masks: gives the predictions.

    Returns:
        What `atlas.json` holds: `describe` says what, beside `key`, `elapsed_s` and `groups` (which
        frames a bootstrap draws together).
    """
    start_s = time.monotonic()
    count_NCC, total = count_frames(samples, len(classes), masks)
    has_depth = any(sample.depth is not None for sample in samples)
    stems = [sample.stem for sample in samples]
    atlas = describe(classes, stems, fold_of, count_NCC, total, has_depth=has_depth)
    with whole_file(run.frame_counts) as temporary, temporary.open("wb") as stream:
        np.save(stream, count_NCC, allow_pickle=False)
    worst = [stems.index(frame["stem"]) for frame in atlas["worst_frames"]]
    sheet = contact_sheet([samples[n] for n in worst], [masks(n, samples[n].hw) for n in worst])
    with whole_file(run.worst_frames) as temporary:
        sheet.save(temporary, format="PNG")
    groups = group_of(samples)
    atlas |= {
        "key": key,
        "elapsed_s": round(time.monotonic() - start_s, 3),
        "groups": {"kind": groups.kind, "count": groups.count, "of": groups.of_N.tolist()},
    }
    write_json(run.atlas, atlas)
    return atlas


def stored_masks(
    prob_MNChw: Sequence[NDArray[np.float16]],
    weight_MC: NDArray[np.float64],
    policy: DevicePolicy,
) -> Masks:
    """Masks of a weighted sum of probability stores: bilinear to the size asked for, the largest.

    Args:
        prob_MNChw: M arrays (N, C, h, w), may be memory-mapped; one sample at a time is read.
        weight_MC: (M, C) weights; a lone store has ones.
        policy: device and operations.
    """

    def masks(index: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        prob_M1Chw = [
            torch.from_numpy(np.array(prob_NChw[index : index + 1])).to(policy.device).float()
            for prob_NChw in prob_MNChw
        ]
        if len({prob_1Chw.shape for prob_1Chw in prob_M1Chw}) > 1:
            # Maps of different sizes meet at the frame's.
            prob_M1Chw = [F.interpolate(prob_1Chw, hw, mode="bilinear") for prob_1Chw in prob_M1Chw]
        weight_MC11 = torch.from_numpy(weight_MC).to(prob_M1Chw[0])[:, :, None, None]
        blend_1Chw = torch.stack(
            [prob_1Chw * w_C11 for prob_1Chw, w_C11 in zip(prob_M1Chw, weight_MC11, strict=True)]
        ).sum(dim=0)
        mask_HW: NDArray[np.uint8] = (
            policy.operations.resized_argmax(blend_1Chw, hw)[0].cpu().numpy()
        )
        return mask_HW

    return masks


def count_frames(
    samples: Sequence[Sample], classes: int, masks: Masks
) -> tuple[NDArray[np.uint32], FrameErrors]:
    """The confusion matrix of each frame, (N, C, C), and the errors of all frames together."""
    count_NCC = np.zeros((len(samples), classes, classes), np.uint32)
    total = FrameErrors.none(classes)
    with track("error atlas", len(samples)) as advance:
        for n, sample in enumerate(samples):
            label_HW = read_label(sample)
            frame = count_frame(masks(n, sample.hw), label_HW, read_depth(sample), classes)
            count_NCC[n] = frame.size_SCC.sum(axis=0)
            total.add(frame)
            advance(1)
    return count_NCC, total
