"""GroupNorm, ReLU and what follows them on the GPU, channels-last: gathered, without atomics.

The cells of an image are cut into R runs. A program goes over one run of up to C channels, a tile
of L cells at a time; sums stay apart for each place of the tile until the run ends, so that no
thread waits for another in the loop. Sums are of differences from the place's first value, else
float32 would lose the deviation of cells whose mean is large.

Doubled: with aligned corners, output rows 2k and 2k + 1 lie between the rows k - 1, k, k + 1 of h:

    out[2k]     = (k / D) in[k - 1] + (1 - k / D) in[k]                     D = 2h - 1
    out[2k + 1] = (1 - (h - 1 - k) / D) in[k] + ((h - 1 - k) / D) in[k + 1]

and so with columns. No position is rounded, and a row that does not exist has the share 0.

Axes: L cells of a tile, C channels, R runs, S channels of a group; h w rows and columns of cells.
"""

import triton
import triton.language as tl


@triton.jit
def run_moments(x, table, cells, run, CHANNELS: tl.constexpr, L: tl.constexpr, C: tl.constexpr):
    """Mean and sum of squared differences from it, of each channel of one run.

    Grid, as of all kernels that go over cells: (runs, blocks of C channels, images).

    Args:
        x: (B, cells, CHANNELS), floating.
        table: (B, runs, 2, CHANNELS) of the dtype of sums; written.
        cells: of an image.
        run: cells of a run, a multiple of L.
        CHANNELS: of a cell.
        L: cells of a tile, a power of two.
        C: channels of a program, a power of two.
    """
    c_C, known_C = _channels(CHANNELS, C)
    x_1C = x + tl.program_id(2).to(tl.int64) * cells * CHANNELS + c_C[None, :]
    start = tl.program_id(0) * run
    stop = tl.minimum(start + run, cells)
    l_L = tl.arange(0, L)
    first_LC = _load(x_1C, start + l_L, stop, known_C, CHANNELS).to(table.dtype.element_ty)
    sum_LC = tl.zeros_like(first_LC)
    square_LC = tl.zeros_like(first_LC)
    for at in range(start, stop, L):
        value_LC = _load(x_1C, at + l_L, stop, known_C, CHANNELS).to(first_LC.dtype)
        away_LC = tl.where((at + l_L < stop)[:, None], value_LC - first_LC, 0.0)
        sum_LC += away_LC
        square_LC += away_LC * away_LC
    # How often the loop came to each place: once more before the end of the last tile.
    visits_L1 = ((stop - start - l_L + L - 1) // L).to(first_LC.dtype)[:, None]
    away_LC = sum_LC / tl.maximum(visits_L1, 1.0)
    square_LC -= away_LC * sum_LC
    mean_LC = first_LC + away_LC
    mean_C = tl.sum(visits_L1 * mean_LC, 0) / (stop - start)
    apart_LC = mean_LC - mean_C[None, :]
    square_C = tl.sum(square_LC + visits_L1 * apart_LC * apart_LC, 0)
    _store_pair(table, mean_C, square_C, c_C, known_C, CHANNELS)


@triton.jit
def merge_moments(
    table,
    moment,
    cells,
    run,
    runs,
    eps,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
):
    """Mean and 1 / deviation of a group: the parts merged as by Chan, Golub and LeVeque, 1979.

    Grid: (groups, images).

    Args:
        table: as `run_moments` leaves it.
        moment: (B, groups, 2), of the same dtype; written.
        cells: of an image.
        run: cells of a run; the last has what is left.
        runs: of an image, at most R.
        eps: added to the variance.
        CHANNELS: of a cell.
        SHARE: of them, a group's.
        R: a power of two.
        S: a power of two, at least SHARE.
    """
    mean_RS, square_RS, r_R1, known_RS = _group(table, runs, CHANNELS, SHARE, R, S)
    left_RS = tl.where(known_RS, tl.minimum(run, cells - r_R1 * run), 0)
    count_RS = left_RS.to(mean_RS.dtype)
    mean = tl.sum(count_RS * mean_RS) / (cells * SHARE)
    apart_RS = mean_RS - mean
    variance = tl.sum(square_RS + count_RS * apart_RS * apart_RS) / (cells * SHARE)
    at = moment + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(at, mean)
    tl.store(at + 1, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def normalise(
    x,
    added,
    y,
    moment,
    weight,
    bias,
    cells,
    run,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
):
    """relu((x - mean) * weight / deviation + bias) + added for one run.

    Args:
        x: (B, cells, CHANNELS), floating.
        added: None, or as `x`.
        y: as `x`; written.
        moment: (B, groups, 2), as `merge_moments` leaves it; its dtype is that of all arithmetic.
        weight: (CHANNELS,), floating.
        bias: (CHANNELS,), floating.
        cells: of an image.
        run: cells of a run.
        CHANNELS: of a cell.
        SHARE: of them, a group's.
        L: cells of a tile.
        C: channels of a program.
    """
    c_C, known_C = _channels(CHANNELS, C)
    affine = _affine(moment, weight, bias, c_C, known_C, CHANNELS, SHARE)
    image_1C = tl.program_id(2).to(tl.int64) * cells * CHANNELS + c_C[None, :]
    start = tl.program_id(0) * run
    stop = tl.minimum(start + run, cells)
    l_L = tl.arange(0, L)
    for at in range(start, stop, L):
        y_LC = _relu(_load(x + image_1C, at + l_L, stop, known_C, CHANNELS), affine)
        if added is not None:
            y_LC += _load(added + image_1C, at + l_L, stop, known_C, CHANNELS)
        _store(y + image_1C, y_LC, at + l_L, stop, known_C, CHANNELS)


@triton.jit
def normalise_doubled(
    x,
    added,
    y,
    moment,
    weight,
    bias,
    h,
    w,
    run,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
):
    """As `normalise`, upsampled: a cell's four output pixels, from it and its eight neighbours.

    Args:
        x: (B, h, w, CHANNELS), floating.
        added: None, or as `y`.
        y: (B, 2h, 2w, CHANNELS), of the same dtype; written.
        moment: as for `normalise`.
        weight: as for `normalise`.
        bias: as for `normalise`.
        h: rows of cells.
        w: columns of cells.
        run: cells of a run.
        CHANNELS: of a cell.
        SHARE: of them, a group's.
        L: cells of a tile.
        C: channels of a program.
    """
    c_C, known_C = _channels(CHANNELS, C)
    affine = _affine(moment, weight, bias, c_C, known_C, CHANNELS, SHARE)
    image = tl.program_id(2).to(tl.int64) * h * w * CHANNELS
    x_1C = x + image + c_C[None, :]
    start = tl.program_id(0) * run
    stop = tl.minimum(start + run, h * w)
    for first in range(start, stop, L):
        cell_L = first + tl.arange(0, L)
        row_L, column_L = cell_L // w, cell_L % w
        # Columns that do not exist are given one that does, and the share 0.
        left_L, right_L = tl.maximum(column_L - 1, 0), tl.minimum(column_L + 1, w - 1)
        before_L1, after_L1 = _between(column_L, w, affine[0].dtype)
        before = _lines(x_1C, row_L, left_L, h, w, known_C, affine, CHANNELS)
        here = _lines(x_1C, row_L, column_L, h, w, known_C, affine, CHANNELS)
        after = _lines(x_1C, row_L, right_L, h, w, known_C, affine, CHANNELS)
        # Cells beyond the run end at a place that no store reaches.
        pixel_L = tl.where(cell_L < stop, row_L * 4 * w + column_L * 2, 4 * h * w)
        for i in tl.static_range(2):
            for j in tl.static_range(2):
                if j == 0:
                    y_LC = _mix(here[i], before[i], before_L1)
                else:
                    y_LC = _mix(here[i], after[i], after_L1)
                place_L = pixel_L + i * 2 * w + j
                if added is not None:
                    added_1C = added + 4 * image + c_C[None, :]
                    y_LC += _load(added_1C, place_L, 4 * h * w, known_C, CHANNELS)
                _store(y + 4 * image + c_C[None, :], y_LC, place_L, 4 * h * w, known_C, CHANNELS)


@triton.jit
def _lines(x_1C, row_L, column_L, h, w, known_C, affine, CHANNELS: tl.constexpr):
    """Of one column: the two output rows of a cell, from it and the cells above and below."""
    above_L, below_L = tl.maximum(row_L - 1, 0), tl.minimum(row_L + 1, h - 1)
    over_L1, under_L1 = _between(row_L, h, affine[0].dtype)
    above_LC = _relu(_load(x_1C, above_L * w + column_L, h * w, known_C, CHANNELS), affine)
    cell_LC = _relu(_load(x_1C, row_L * w + column_L, h * w, known_C, CHANNELS), affine)
    below_LC = _relu(_load(x_1C, below_L * w + column_L, h * w, known_C, CHANNELS), affine)
    return _mix(cell_LC, above_LC, over_L1), _mix(cell_LC, below_LC, under_L1)


@triton.jit
def _channels(CHANNELS: tl.constexpr, C: tl.constexpr):
    """The channels of this program, and which of them there are."""
    c_C = tl.program_id(1) * C + tl.arange(0, C)
    return c_C, c_C < CHANNELS


@triton.jit
def _load(x_1C, cell_L, stop, known_C, CHANNELS: tl.constexpr):
    """Channels of cells, 0 from the cell `stop` on and beyond the last channel."""
    mask_LC = (cell_L < stop)[:, None] & known_C[None, :]
    return tl.load(x_1C + (cell_L * CHANNELS)[:, None], mask_LC, 0.0)


@triton.jit
def _store(y_1C, y_LC, cell_L, stop, known_C, CHANNELS: tl.constexpr):
    mask_LC = (cell_L < stop)[:, None] & known_C[None, :]
    y_LC = y_LC.to(y_1C.dtype.element_ty)
    tl.store(y_1C + (cell_L * CHANNELS)[:, None], y_LC, mask_LC)


@triton.jit
def _store_pair(table, first_C, second_C, c_C, known_C, CHANNELS: tl.constexpr):
    """Two numbers for each channel of this program's run."""
    row = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    at_C = table + row * 2 * CHANNELS + c_C
    tl.store(at_C, first_C, known_C)
    tl.store(at_C + CHANNELS, second_C, known_C)


@triton.jit
def _group(
    table, runs, CHANNELS: tl.constexpr, SHARE: tl.constexpr, R: tl.constexpr, S: tl.constexpr
):
    """Both numbers of each run and channel of this program's group, 0 where there is none."""
    r_R1 = tl.arange(0, R)[:, None]
    s_1S = tl.arange(0, S)[None, :]
    known_RS = (r_R1 < runs) & (s_1S < SHARE)
    row_R1 = (tl.program_id(1) * runs + r_R1) * 2 * CHANNELS
    at_RS = table + row_R1 + tl.program_id(0) * SHARE + s_1S
    first_RS = tl.load(at_RS, known_RS, 0.0)
    return first_RS, tl.load(at_RS + CHANNELS, known_RS, 0.0), r_R1, known_RS


@triton.jit
def _affine(moment, weight, bias, c_C, known_C, CHANNELS: tl.constexpr, SHARE: tl.constexpr):
    """Mean, weight / deviation and bias of each channel, as rows."""
    at_C = moment + (tl.program_id(2) * (CHANNELS // SHARE) + c_C // SHARE) * 2
    mean_C = tl.load(at_C, known_C, 0.0)
    weight_C = tl.load(weight + c_C, known_C, 0.0).to(mean_C.dtype)
    bias_C = tl.load(bias + c_C, known_C, 0.0).to(mean_C.dtype)
    scale_C = tl.load(at_C + 1, known_C, 0.0) * weight_C
    return mean_C[None, :], scale_C[None, :], bias_C[None, :]


@triton.jit
def _normal(x_LC, affine):
    """The cells normalised, before the ReLU."""
    mean_1C, scale_1C, bias_1C = affine
    return (x_LC.to(mean_1C.dtype) - mean_1C) * scale_1C + bias_1C


@triton.jit
def _relu(x_LC, affine):
    y_LC = _normal(x_LC, affine)
    return tl.where(y_LC < 0.0, 0.0, y_LC)  # what is no number stays so


@triton.jit
def _between(k_L, n, dtype: tl.constexpr):
    """Of n rows: the share of the row before k in row 2k, and of the row after in 2k + 1."""
    before_L = k_L.to(dtype) / (2 * n - 1)
    after_L = (n - 1 - k_L).to(dtype) / (2 * n - 1)
    return before_L[:, None], after_L[:, None]


@triton.jit
def _mix(here, there, part):
    return (1.0 - part) * here + part * there
