"""tta_accumulate against float64, and what must hold for any view; all three implementations."""

from collections.abc import Callable
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cpu import compiled, exp
from kernels.tta_accumulate import Band, View, launch, needed_cells, reference, zero_total
from kernels.tta_accumulate.cpu import LOWEST

TEMPERATURES = (0.7, 1.0, 2.0)
CLASSES = 5

# Logits reach 16, and their float32 positions are within 1e-6 of the distance between two cells.
ROUNDING = 1e-5

# Base size and view size: as large; smaller, of two strips of rows; a third; larger, with cells
# that do not divide it; one pixel.
SIZES = [
    ((9, 13), (9, 13)),
    ((18, 3), (20, 4)),
    ((5, 7), (16, 20)),
    ((9, 11), (4, 6)),
    ((1, 1), (4, 4)),
    ((3, 3), (1, 1)),
]

# Each size with either corner and either direction, and in the full form with all four.
VIEWS = [
    pytest.param(*size, corners, flipped, marks=[] if straight else [pytest.mark.full])
    for number, size in enumerate(SIZES)
    for corners, flipped in product([False, True], repeat=2)
    for straight in [number % 2 == (corners ^ flipped)]
]

Accumulate = Callable[..., Tensor]
Operation = Callable[[str, str], ModuleType]


def logits_of(view_hw: tuple[int, int], *, batch: int = 1, classes: int = CLASSES) -> Tensor:
    """Channels-last logits of stride 4, which need not divide the view."""
    generator = torch.Generator().manual_seed(view_hw[0] * 1000 + view_hw[1])
    cells_hw = (-(-view_hw[0] // 4), -(-view_hw[1] // 4))
    logits = 4 * torch.randn(batch, classes, *cells_hw, generator=generator)
    return logits.contiguous(memory_format=torch.channels_last)


def accumulate_with(
    module: ModuleType,
    device: torch.device,
    logits: Tensor,
    base_hw: tuple[int, int],
    view_hw: tuple[int, int],
    **options: Any,
) -> Tensor:
    """The sum, on the CPU; `options`: flipped, align_corners, temperatures, a total to add to."""
    temperatures = options.pop("temperatures", TEMPERATURES)
    total: Tensor | None = options.pop("total", None)
    if total is None:
        shape = len(logits), len(temperatures), logits.shape[1]
        total = zero_total(*shape, base_hw, torch.device("cpu"))
    total = total.to(device)
    view = View(view_hw, **({"flipped": False, "align_corners": True} | options))
    module.tta_accumulate(total, [logits.to(device)], temperatures, [view])
    return total.cpu()


@pytest.fixture
def accumulate(
    backend: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
    monkeypatch: pytest.MonkeyPatch,
) -> Accumulate:
    """`accumulate(logits, base_hw, view_hw, ...)` by each implementation.

    Triton's programs are made so small (8 pixels) that a short row needs several.
    """
    module, device = operation("tta_accumulate", backend), device_of(backend)
    if backend != "reference":
        monkeypatch.setattr(launch, "PIXELS", 8)
    return lambda *arguments, **options: accumulate_with(module, device, *arguments, **options)


def truth_of(
    logits: Tensor,
    base_hw: tuple[int, int],
    view_hw: tuple[int, int],
    *,
    flipped: bool = False,
    align_corners: bool = True,
) -> Tensor:
    """The steps of the docstring in float64."""
    u = F.interpolate(logits.double(), size=view_hw, mode="bilinear", align_corners=align_corners)
    views = []
    for temperature in TEMPERATURES:
        prob = (u / temperature).softmax(1)
        prob = prob.flip(-1) if flipped else prob
        views.append(F.interpolate(prob, size=base_hw, mode="bilinear", align_corners=False))
    return torch.stack(views, 1)


def assert_as_exact_as_steps(
    accumulate: Accumulate,
    logits: Tensor,
    base_hw: tuple[int, int],
    view_hw: tuple[int, int],
    **options: Any,
) -> None:
    truth = truth_of(logits, base_hw, view_hw, **options)
    cpu = torch.device("cpu")
    steps = accumulate_with(reference, cpu, logits, base_hw, view_hw, **options)
    found = accumulate(logits, base_hw, view_hw, **options)
    allowed = 2 * (steps - truth).abs().max() + torch.finfo(torch.float32).eps
    assert allowed < ROUNDING
    assert (found - truth).abs().max() <= allowed


@pytest.mark.parametrize(("base_hw", "view_hw", "align_corners", "flipped"), VIEWS)
def test_it_errs_no_more_than_twice_as_much_as_float32_steps(
    accumulate: Accumulate,
    base_hw: tuple[int, int],
    view_hw: tuple[int, int],
    align_corners: bool,
    flipped: bool,
) -> None:
    options: dict[str, Any] = {"flipped": flipped, "align_corners": align_corners}
    assert_as_exact_as_steps(accumulate, logits_of(view_hw), base_hw, view_hw, **options)


@pytest.mark.parametrize(
    ("classes", "flipped"),
    [
        (1, False),
        (20, True),
        (launch.MOST_CLASSES + 2, False),
        pytest.param(1, True, marks=pytest.mark.full),
        pytest.param(20, False, marks=pytest.mark.full),
        pytest.param(launch.MOST_CLASSES + 2, True, marks=pytest.mark.full),
    ],
)
def test_one_class_and_many_are_as_exact(
    accumulate: Accumulate, classes: int, flipped: bool
) -> None:
    # Of 20 a thread of Triton holds two temperatures, of more than MOST_CLASSES no thread all.
    for base_hw, view_hw in (((2, 3), (4, 8)), ((1, 9), (1, 9))):
        logits = logits_of(view_hw, batch=2, classes=classes)
        assert_as_exact_as_steps(accumulate, logits, base_hw, view_hw, flipped=flipped)


@pytest.mark.parametrize(
    ("base_hw", "view_hw", "align_corners"),
    [
        ((40, 9), (24, 8), False),
        ((31, 5), (64, 4), True),
        pytest.param((40, 9), (24, 8), True, marks=pytest.mark.full),
        pytest.param((31, 5), (64, 4), False, marks=pytest.mark.full),
    ],
)
def test_bands_add_what_all_rows_add(
    backend: str,
    operation: Operation,
    device_of: Callable[[str], torch.device],
    base_hw: tuple[int, int],
    view_hw: tuple[int, int],
    align_corners: bool,
) -> None:
    module, device = operation("tta_accumulate", backend), device_of(backend)
    view, logits = View(view_hw, True, align_corners), logits_of(view_hw).to(device)
    cells, whole = logits.shape[2], zero_total(1, 3, CLASSES, base_hw, device)
    module.tta_accumulate(whole, [logits], TEMPERATURES, [view])
    for top, bottom in ((0, 7), (7, 8), (8, base_hw[0])):
        first, end = needed_cells(view, (top, bottom), base_hw[0], cells)
        part = view._replace(band=Band(top, base_hw[0], first, cells))
        total = zero_total(1, 3, CLASSES, (bottom - top, base_hw[1]), device)
        module.tta_accumulate(total, [logits[:, :, first:end]], TEMPERATURES, [part])
        assert torch.equal(total, whole[..., top:bottom, :])
        with pytest.raises(ValueError, match=f"need rows {first} to {end} of {cells}"):
            module.tta_accumulate(total, [logits[:, :, first : end - 1]], TEMPERATURES, [part])


def test_views_in_one_call_add_what_they_add_one_by_one(
    backend: str, operation: Operation, device_of: Callable[[str], torch.device]
) -> None:
    # Sizes above, below and as the base's, mirrored or not, one of them twice; two frames.
    base_hw, module, device = (3, 5), operation("tta_accumulate", backend), device_of(backend)
    views = [View(hw, f, True) for hw in ((2, 8), (3, 5)) for f in (False, True)]
    views = [*views, views[1], View((4, 2), flipped=True, align_corners=False)]
    logits = [(1 + n % 3) * logits_of(view.hw, batch=2) for n, view in enumerate(views)]
    logits[1] = logits[1].to(torch.bfloat16)
    given = [one.to(device) for one in logits]
    totals = [zero_total(2, 3, CLASSES, base_hw, device) for _ in range(2)]
    module.tta_accumulate(totals[0], given, TEMPERATURES, views)
    for one, view in zip(given, views, strict=True):
        module.tta_accumulate(totals[1], [one], TEMPERATURES, [view])
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-6, atol=1e-6)
    if backend != "triton":
        assert torch.equal(totals[0], totals[1])
    before = totals[0].clone()
    module.tta_accumulate(totals[0], [], TEMPERATURES, [])
    assert torch.equal(totals[0], before)
    with pytest.raises(ValueError, match="logits of 6 views do not fit 5 views"):
        module.tta_accumulate(totals[0], given, TEMPERATURES, views[1:])


def test_the_probabilities_of_a_pixel_sum_to_the_number_of_views(accumulate: Accumulate) -> None:
    base_hw, total = (5, 7), None
    views = [(4, 8), (5, 7), (12, 8)]
    for view_hw in views:
        for flipped in (False, True):
            total = accumulate(logits_of(view_hw), base_hw, view_hw, flipped=flipped, total=total)
    assert total is not None
    expected = torch.full((1, len(TEMPERATURES), *base_hw), 2.0 * len(views))
    torch.testing.assert_close(total.sum(2), expected)
    assert total.min() >= 0


def test_a_mirrored_view_of_an_equivariant_network_adds_the_same(accumulate: Accumulate) -> None:
    for base_hw, view_hw in SIZES[:4]:
        logits = logits_of(view_hw)
        upright = accumulate(logits, base_hw, view_hw)
        mirrored = accumulate(logits.flip(-1), base_hw, view_hw, flipped=True)
        torch.testing.assert_close(mirrored, upright, rtol=0, atol=ROUNDING)


def test_temperatures_in_one_pass_are_those_of_single_passes(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[3]
    together = accumulate(logits_of(view_hw), base_hw, view_hw)
    for t, temperature in enumerate(TEMPERATURES):
        alone = accumulate(logits_of(view_hw), base_hw, view_hw, temperatures=(temperature,))
        assert torch.equal(alone[:, 0], together[:, t])


def test_a_lower_temperature_is_surer(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[0]
    total = accumulate(logits_of(view_hw), base_hw, view_hw)
    cold, warm, hot = total.amax(2).mean((0, 2, 3)).tolist()
    assert cold > warm > hot


def test_images_do_not_mix(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[2]
    logits = logits_of(view_hw, batch=3)
    together = accumulate(logits, base_hw, view_hw)
    for b in range(3):
        assert torch.equal(accumulate(logits[b : b + 1], base_hw, view_hw)[0], together[b])


def test_adding_1000_to_all_logits_changes_nothing(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[2]
    logits = logits_of(view_hw).mul(64).round().div(64)  # so that adding 1000 loses nothing
    near, far, low = (
        accumulate(x, base_hw, view_hw) for x in (logits, logits + 1000, logits - 1000)
    )
    # Interpolation rounds at 1000 times the size.
    torch.testing.assert_close(far, near, rtol=0, atol=5e-4)
    torch.testing.assert_close(low, near, rtol=0, atol=5e-4)


def test_logits_of_10000_stay_finite_and_the_largest_wins(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[0]
    total = accumulate(1e4 * logits_of(view_hw).sign(), base_hw, view_hw)
    assert total.isfinite().all()
    torch.testing.assert_close(total.sum(2), torch.ones(1, len(TEMPERATURES), *base_hw))


def test_a_logit_that_is_no_number_is_not_hidden(accumulate: Accumulate) -> None:
    logits = logits_of((12, 12))
    logits[0, 2, 2, 2] = torch.nan
    total = accumulate(logits, (12, 12), (12, 12), align_corners=False)
    assert total[..., 11, 11].isnan().all()
    assert total[..., 0, 0].isfinite().all()


def test_only_the_sum_is_written(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[3]
    logits = logits_of(view_hw)
    before = logits.clone()
    total = zero_total(1, len(TEMPERATURES), CLASSES, base_hw, torch.device("cpu")) + 0.5
    total = accumulate(logits, base_hw, view_hw, total=total)
    assert torch.equal(logits, before)
    torch.testing.assert_close(total - 0.5, accumulate(logits, base_hw, view_hw))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_precision_are_summed_in_float32(
    accumulate: Accumulate, dtype: torch.dtype
) -> None:
    base_hw, view_hw = SIZES[0]
    logits = logits_of(view_hw).to(dtype)
    total = accumulate(logits, base_hw, view_hw)
    assert total.dtype == torch.float32
    assert torch.equal(total, accumulate(logits.float(), base_hw, view_hw))


def test_logits_and_sum_may_have_any_layout(accumulate: Accumulate) -> None:
    base_hw, view_hw = SIZES[2]
    logits = logits_of(view_hw, batch=2)
    expected = accumulate(logits, base_hw, view_hw)
    assert torch.allclose(
        accumulate(logits.contiguous(), base_hw, view_hw), expected, atol=ROUNDING
    )
    every_second = torch.stack([logits, 9 * logits], -1).flatten(3)[..., ::2]
    assert torch.allclose(accumulate(every_second, base_hw, view_hw), expected, atol=ROUNDING)
    one_for_both = logits[:1].expand(2, -1, -1, -1)
    found = accumulate(one_for_both, base_hw, view_hw)
    assert torch.allclose(found[1], expected[0], atol=ROUNDING)
    in_order = torch.zeros(2, len(TEMPERATURES), CLASSES, *base_hw)
    found = accumulate(logits, base_hw, view_hw, total=in_order)
    assert torch.allclose(found, expected, atol=ROUNDING)


def test_no_image_and_no_temperature_are_no_work(accumulate: Accumulate) -> None:
    assert accumulate(logits_of((8, 8), batch=0), (8, 8), (8, 8)).shape == (0, 3, CLASSES, 8, 8)
    assert accumulate(logits_of((8, 8)), (8, 8), (8, 8), temperatures=()).numel() == 0


@pytest.mark.parametrize(
    ("shape", "temperatures"),
    [((1, 3, 5, 8, 8), 2), ((2, 3, 5, 8, 8), 3), ((1, 3, 4, 8, 8), 3), ((3, 5, 8, 8), 3)],
    ids=["temperatures", "batch", "classes", "axes"],
)
def test_a_sum_that_does_not_fit_is_refused(
    accumulate: Accumulate, shape: tuple[int, ...], temperatures: int
) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, T, C, H, W\)"):
        accumulate(
            logits_of((8, 8)),
            (8, 8),
            (8, 8),
            temperatures=(1.0,) * temperatures,
            total=torch.zeros(shape),
        )


def test_empty_sides_other_sums_and_cold_temperatures_are_refused(accumulate: Accumulate) -> None:
    logits = logits_of((8, 8))
    with pytest.raises(ValueError, match=r"no side may be empty: .* view \(8, 0\)"):
        accumulate(logits, (8, 8), (8, 0))
    with pytest.raises(ValueError, match="the sum must be float32, got torch.float64"):
        accumulate(logits, (8, 8), (8, 8), total=torch.zeros(1, 3, CLASSES, 8, 8).double())
    with pytest.raises(ValueError, match=r"temperatures must be positive, got \(1.0, 0.0, 2.0\)"):
        accumulate(logits, (8, 8), (8, 8), temperatures=(1.0, 0.0, 2.0))


@compiled
def exponential(x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = exp(x[i], LOWEST)
    return out


def test_the_exponential_of_the_cpu_is_within_two_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-87, 0, 20_001), -np.logspace(-8, 0, 999)]).astype(np.float32)
    truth = np.exp(x.astype(np.float64))
    assert (np.abs(exponential(x) - truth) <= 2 * np.spacing(truth.astype(np.float32))).all()
    one, least, nan = exponential(np.array([0, -1e30, np.nan], np.float32))
    assert one == 1
    assert 0 <= least < 2e-38
    assert np.isnan(nan)
