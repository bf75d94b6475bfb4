"""Whether depth maps count in the unit that they are taken for, and the unit that would fit.

Judged by what a check found of every map, a regular part of its pixels each.
"""

import math
from collections.abc import Sequence
from statistics import median

from engine.frames.dataset import Split
from engine.frames.depth import FAR_M, NEAR_M, DepthSpread

_ODD_SHARE = 0.05
"""Share of the known pixels beyond 10 m, or nearer than 0.3 m, above which the unit is doubted, and
of the maps that hold one value: NYU Depth v2 has no such pixels, the rendered rooms 3 of 520 maps.
"""

_USUAL_UNIT_M = 0.001
"""What `data.depth_scale` is where nobody set it, metres."""

_UNITS = {
    _USUAL_UNIT_M: "millimetres",
    0.01: "centimetres",
    1.0: "metres",
    1 / 5000: "1/5000 m, as TUM has it",
    1 / 8000: "millimetres x 8, as SUN RGB-D has it",
    0.0001: "tenths of a millimetre",
}
"""Units that depth maps are known in, metres."""

_USUAL_M = 2.5
"""About the median depth of a room: of the units that fit, the one that gives it comes first."""

_FEW = 4
"""Distinct values of a map, below which it is no measurement of depth."""

_BYTE = 255
_STRETCHED = (256, 257)  # what 8 bits become in 16: shifted, or spread over all of them


def depth_notes(split: Split, scale_m: float) -> list[str]:
    """What is odd in the depth maps of a split, read in units of `scale_m` metres; with numbers."""
    spreads = [report.depth for report in split.reports if report.depth is not None]
    known = [spread for spread in spreads if spread.known]
    flat = [
        sample.stem
        for sample, report in zip(split.samples, split.reports, strict=True)
        if report.depth is not None and report.depth.distinct < 2
    ]
    notes = []
    if len(flat) > _ODD_SHARE * len(spreads):
        shown = ", ".join(flat[:5]) + (", ..." if flat[5:] else "")
        notes.append(f"depth: {len(flat)} of {len(spreads)} maps hold one value or none: {shown}")
    varied = [spread for spread in known if spread.distinct > 1]
    if invalid := _likely_invalid(varied, scale_m):
        return [*notes, invalid]
    doubt = _doubt(known, varied, scale_m) if known else ""
    if doubt:
        middle = median(spread.middle for spread in known)
        distinct = median(spread.distinct for spread in known)
        taken = f"data.depth_scale = {scale_m:g} puts the median at {middle * scale_m:.3g} m"
        told = f"depth: {doubt}; {taken}, of {distinct:g} distinct values a map"
        notes.append(f"{told}; {_likely_unit(known, scale_m)}")
    return notes


def usable_scale(split: Split, scale_m: float) -> float | None:
    """Metres a unit of depth maps that a network can use; None if they hold no distances.

    That of the config where it fits, else the one usual unit that does.
    """
    spreads = [report.depth for report in split.reports if report.depth is not None]
    known = [spread for spread in spreads if spread.known and spread.distinct > 1]
    if len(known) < (1 - _ODD_SHARE) * len(spreads) or not known:
        return None
    if not _doubt(known, known, scale_m):
        return scale_m
    fitting = [unit for unit in _UNITS if _fits(known, unit)]
    divisor = _divisor(known)
    exact = [unit for unit in fitting if math.isclose(unit * divisor, _USUAL_UNIT_M)]
    chosen = exact or fitting
    return chosen[0] if len(chosen) == 1 else None


def _likely_invalid(varied: Sequence[DepthSpread], scale_m: float) -> str:
    """Whether a largest value that many pixels share explains what is beyond the room."""
    pixels, most = sum(s.known for s in varied), max((s.most for s in varied), default=0)
    same = sum(s.at_most for s in varied if s.most == most)
    far = sum(s.far for s in varied)
    if most * scale_m <= FAR_M or same <= _ODD_SHARE * pixels or far - same > _ODD_SHARE * pixels:
        return ""
    share = f"{100 * same / pixels:.1f} % of the pixels hold {most}"
    told = f"depth: {share}, which is {most * scale_m:.3g} m at data.depth_scale = {scale_m:g}"
    return f"{told}; if it means missing, data.depth_invalid = [0, {most}]"


def _doubt(known: Sequence[DepthSpread], varied: Sequence[DepthSpread], scale_m: float) -> str:
    """Why the unit of maps is doubted; `varied` are those of them with more than one value."""
    pixels = sum(spread.known for spread in known)
    far, near = (sum(getattr(spread, end) for spread in known) / pixels for end in ("far", "near"))
    divisor, most = _divisor(varied), max(spread.most for spread in known)
    doubts = []
    if far > _ODD_SHARE:
        doubts.append(f"{100 * far:.1f} % of the pixels lie beyond {FAR_M:g} m")
    if near > _ODD_SHARE:
        doubts.append(f"{100 * near:.1f} % of the pixels lie nearer than {NEAR_M:g} m")
    if scale_m != _USUAL_UNIT_M or not varied:
        return ", ".join(doubts)  # who named the unit knows how fine it is
    if most <= _BYTE:
        doubts.append(f"no value is above {most}: 8 bits in 16")
    if any(divisor % step == 0 for step in _STRETCHED if divisor):
        doubts.append(f"every value is a multiple of {divisor}: 8 bits stretched to 16")
    elif divisor in (5, 8) and _fits(varied, scale_m / divisor):
        doubts.append(f"every value is a multiple of {divisor}")
    if median(spread.distinct for spread in varied) < _FEW:
        doubts.append("a map has few values")
    return ", ".join(doubts)


def _likely_unit(known: Sequence[DepthSpread], scale_m: float) -> str:
    middle, divisor = median(spread.middle for spread in known), _divisor(known)
    fitting = [unit for unit in _UNITS if unit != scale_m and _fits(known, unit)]
    fitting.sort(key=lambda unit: abs(math.log(middle * unit / _USUAL_M)))
    # What was multiplied by a number is divisible by it.
    exact = [unit for unit in fitting if math.isclose(unit * divisor, _USUAL_UNIT_M)]
    fitting = exact or fitting
    if not fitting:
        return "no usual unit fits: it may be disparity, or relative depth, which no scale mends"
    first, *others = (f"{unit:g} ({_UNITS[unit]})" for unit in fitting)
    told = f"if they are distances, data.depth_scale = {first}"
    told += f" puts it at {middle * fitting[0]:.2g} m" + (f", or {others[0]}" if others else "")
    most = max(spread.most for spread in known)
    if most > 65000 and not exact:
        told += "; values up to 65535 may be disparity, or relative depth, which no scale mends"
    return told


def _fits(spreads: Sequence[DepthSpread], scale_m: float) -> bool:
    """Whether nine tenths of the maps lie where rooms do, in units of so many metres."""
    within = sum(s.middle * scale_m >= NEAR_M and s.high * scale_m <= FAR_M for s in spreads)
    return within >= 0.9 * len(spreads)


def _divisor(spreads: Sequence[DepthSpread]) -> int:
    return math.gcd(*(spread.divisor for spread in spreads))
