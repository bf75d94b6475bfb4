"""The error atlas: which classes, edges, object sizes, depths and frames the errors are in.

One pass over the frames, one at a time: what is kept grows with their number only by one
confusion matrix a frame, which the bootstrap of `statistics` needs.

Axes: M stores, N frames, C class (truth by prediction), h w stored pixels, H W label pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from engine.frames.decode import Sample, read_depth, read_image, read_label
from engine.nyuv2 import IGNORE_INDEX
from engine.report.atlas_report import Atlas, AtlasFrames, atlas_of
from engine.report.frame_errors import FrameErrors, count_frame
from engine.report.tiles import class_picture
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import track
from engine.whole import whole_file
from kernels.compiling import work_s

MaskOf = Callable[[int, tuple[int, int]], NDArray[np.uint8]]
"""Gives the predicted classes, (H, W) uint8, of the sample at a position, at the size asked for."""

OpenMasks = Callable[[], MaskOf]
"""Opens the predictions where they are needed."""

TILE_HW = (180, 240)
"""Box that a picture is fitted into: NYU Depth v2's shape; a sheet of 12 frames is 1440 wide."""

CAPTION = 14
"""Height of a line of Pillow's built-in font, with a little air, pixels."""

COLUMNS = 2
"""Number of frames side by side: each is three tiles wide, so two fill a screen."""


def complete_atlas(run: RunDir, key: str, frames: AtlasFrames, open_masks: OpenMasks) -> Atlas:
    """The atlas that stands in the run folder if it is of what `key` stands for, else a new one.

    A new one is `frames.npy` (N, C, C) uint32, `worst.png` and, last, `atlas.json`.

    Args:
        run: where it stands.
        key: hash of everything the masks are made from.
        frames: what it is of.
        open_masks: gives the predictions; called if there is no such atlas.
    """
    if all(path.exists() for path in (run.atlas, run.frame_counts, run.worst_frames)):
        found = Atlas.read(run.atlas)
        if found.key == key:
            return found
    atlas, _ = map_errors(run, key, frames, open_masks())
    atlas.write(run.atlas)
    return atlas


def map_errors(
    run: RunDir, key: str, frames: AtlasFrames, mask_of: MaskOf, told: str = "error atlas"
) -> tuple[Atlas, NDArray[np.uint32]]:
    """The atlas of masks, and the (N, C, C) confusion of each frame; writes all but `atlas.json`.

    `mask_of` is asked for the frames in order, then for the worst again. `told` names the progress.
    """
    start_s = work_s()
    count_NCC, total = count_frames(frames, mask_of, told)
    with whole_file(run.frame_counts, summed=True) as temporary, temporary.open("wb") as stream:
        np.save(stream, count_NCC, allow_pickle=False)
    atlas = atlas_of(frames, count_NCC, total, key)
    place = {sample.stem: n for n, sample in enumerate(frames.samples)}
    worst = [place[frame.stem] for frame in atlas.worst_frames]
    sheet = contact_sheet(frames.samples, worst, mask_of)
    with whole_file(run.worst_frames, summed=True) as temporary:
        sheet.save(temporary, format="PNG")
    elapsed_s = round(work_s() - start_s, 3)
    return atlas.model_copy(update={"elapsed_s": elapsed_s}), count_NCC


def stored_masks(
    prob_MNChw: Sequence[NDArray[np.float16]], weight_MC: NDArray[np.float64], policy: DevicePolicy
) -> MaskOf:
    """Masks of a weighted sum of probability stores: bilinear to the size asked for, the largest.

    Args:
        prob_MNChw: M arrays (N, C, h, w), may be memory-mapped; one sample at a time is read.
        weight_MC: (M, C) weights; a lone store has ones.
        policy: device and operations.
    """

    def masks(index: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        stored = (torch.from_numpy(np.array(prob[index : index + 1])) for prob in prob_MNChw)
        prob_M1Chw = [prob_1Chw.to(policy.device).float() for prob_1Chw in stored]
        if len({prob_1Chw.shape for prob_1Chw in prob_M1Chw}) > 1:
            # Maps of different sizes meet at the frame's.
            prob_M1Chw = [F.interpolate(prob_1Chw, hw, mode="bilinear") for prob_1Chw in prob_M1Chw]
        weight_MC11 = torch.from_numpy(weight_MC).to(prob_M1Chw[0])[:, :, None, None]
        blend_1Chw = (torch.cat(prob_M1Chw) * weight_MC11).sum(dim=0, keepdim=True)
        mask_1HW = policy.operations.resized_argmax(blend_1Chw, hw)
        mask_HW: NDArray[np.uint8] = mask_1HW[0].cpu().numpy()
        return mask_HW

    return masks


def count_frames(
    frames: AtlasFrames, mask_of: MaskOf, told: str = "error atlas"
) -> tuple[NDArray[np.uint32], FrameErrors]:
    """The confusion matrix of each frame, (N, C, C), and the errors of all frames together."""
    samples, classes = frames.samples, len(frames.classes)
    count_NCC = np.zeros((len(samples), classes, classes), np.uint32)
    # A frame without labels counts nothing.
    nothing_HW = np.full((1, 1), IGNORE_INDEX, np.uint8)
    total = count_frame(nothing_HW, nothing_HW, None, classes)
    with track(told, len(samples)) as advance:
        for n, sample in enumerate(samples):
            mask_HW = mask_of(n, sample.hw)
            label_HW, scale_m = read_label(sample), sample.reading.depth_scale
            frame = count_frame(mask_HW, label_HW, read_depth(sample), classes, scale_m)
            count_NCC[n] = frame.size_SCC.sum(axis=0)
            total.add(frame)
            advance(1)
    return count_NCC, total


def contact_sheet(samples: Sequence[Sample], shown: Sequence[int], mask_of: MaskOf) -> Image.Image:
    """Draw image, truth and prediction of frames side by side, two frames a row, stems above.

    Args:
        samples: labelled frames.
        shown: the positions of those to draw.
        mask_of: gives their predictions.

    Returns:
        An RGB picture; classes in the colours of `engine.views.pictures.class_colours`, unlabelled
        pixels black. One empty line if there are no frames.
    """
    height, width = TILE_HW[0] + CAPTION, 3 * TILE_HW[1]
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, max(rows * height, 1)))
    draw = ImageDraw.Draw(sheet)
    for place, position in enumerate(shown):
        sample = samples[position]
        top, left = place // COLUMNS * height, place % COLUMNS * width
        draw.text((left + 2, top + 1), sample.stem)
        truth_HW, mask_HW = read_label(sample), mask_of(position, sample.hw)
        classes = class_picture(truth_HW), class_picture(mask_HW)
        for number, pixels in enumerate((read_image(sample), *classes)):
            # Nearest, as colours of classes do not mix.
            tile = Image.fromarray(pixels)
            fitted = ImageOps.contain(tile, TILE_HW[::-1], Image.Resampling.NEAREST)
            sheet.paste(fitted, (left + number * TILE_HW[1], top + CAPTION))
    return sheet
