"""From several runs' pixels to what `blend.json` holds: search, count, describe."""

import time
from collections.abc import Sequence
from typing import Any

from engine.report.blend_report import describe_blend, summarise_blend
from engine.selection.blend import Method, fit_weights
from engine.selection.counts import frame_confusions
from engine.selection.pixels import OofPixels
from engine.selection.soft import maximise_plainly
from engine.selection.statistics import Groups


def search_blend(
    pixels: OofPixels,
    classes: Sequence[str],
    runs: Sequence[tuple[str, float]],
    groups: Groups,
    method: Method,
    *,
    per_class: bool,
    compare: bool,
) -> dict[str, Any]:
    """Find the weights of a blend and what they gain.

    Args:
        pixels: all labelled frames, of M runs.
        classes: class names.
        runs: M names and temperatures.
        groups: the frames that a bootstrap draws together.
        method: see `fit_weights`.
        per_class: likewise.
        compare: run SciPy's SLSQP on the mIoU itself, too.

    Returns:
        What `describe_blend` returns, with `method`, `per_class`, `plain_slsqp`, `seconds` by stage
        and `summary`, the part of the blend's summary that follows from the counts.
    """
    start_s = time.monotonic()
    fit = fit_weights(pixels, method, per_class=per_class)
    found_s = time.monotonic()
    count_KNCC = frame_confusions(pixels, fit.weight_MC, fit.honest_FMC)
    counted_s = time.monotonic()
    described = describe_blend(runs, classes, fit, count_KNCC, groups)
    seconds = {"search": round(found_s - start_s, 3), "count": round(counted_s - found_s, 3)}
    plain = None
    if compare:
        plain = maximise_plainly(pixels)
        seconds["plain_slsqp"] = round(time.monotonic() - counted_s, 3)
    return {
        "method": method,
        "per_class": per_class,
        **described,
        "plain_slsqp": plain,
        "seconds": seconds,
        "summary": summarise_blend(described, classes, pixels.fold_of_N, count_KNCC[-2]),
    }
