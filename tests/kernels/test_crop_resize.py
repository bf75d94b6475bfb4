"""Crops of all three implementations against the mathematics, in float64 and pixel by pixel."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from kernels.crop_resize import Crops, Encoding, Frames, launch, reference

Operation = Callable[[str, str], ModuleType]
DeviceOf = Callable[[str], torch.device]

NORMAL: dict[str, Any] = {
    "mean": (123.7, 116.3, 103.5),
    "std": (58.4, 57.1, 57.4),
    "depth_range_m": (0.71, 10.0),
}
# Odd sides, a lone pixel, a lone column, a lone line, and a frame larger than any crop here.
SIZES = [(5, 7), (1, 1), (9, 1), (1, 8), (40, 61)]
CROP_HW = (6, 11)


def frames_of(
    sizes: Sequence[tuple[int, int]], *, depth: bool = True, label: bool = True
) -> Frames:
    """Noise: every tap that is wrong shows."""
    rng = np.random.default_rng(0)
    hw_N2 = np.array(sizes, np.int64).reshape(-1, 2)
    pixels = hw_N2.prod(axis=1)
    total = int(pixels.sum())
    millimetres = rng.integers(0, 65536, total, dtype=np.uint16)
    millimetres[rng.random(total) < 0.2] = 0
    classes = rng.integers(0, 13, total, dtype=np.uint8)
    classes[rng.random(total) < 0.2] = 255
    return Frames(
        torch.from_numpy(rng.integers(0, 256, (total, 3), dtype=np.uint8)),
        torch.from_numpy(millimetres) if depth else None,
        torch.from_numpy(classes) if label else None,
        torch.from_numpy(np.cumsum(pixels) - pixels),
        torch.from_numpy(hw_N2),
    )


def draws_of(frames: Frames, *, rounds: int = 1, seed: int = 0) -> torch.Tensor:
    """Of each frame a crop and a mirrored one; most reach outside it, some do not."""
    rng = np.random.default_rng(seed)
    rows = []
    for sample, (height, width) in enumerate(frames.hw_N2.tolist() * rounds):
        for mirrored in (0, 1):
            box_hw = rng.uniform(0.3, 1.5, 2) * (height, width)
            start = rng.uniform(-0.4, 0.6, 2) * (height, width)
            light = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)
            rows.append([sample % len(frames.hw_N2), *start, *box_hw, mirrored, *light])
    return torch.tensor(rows, dtype=torch.float64)


def whole(sample: int, hw: tuple[int, int], mirrored: int = 0) -> torch.Tensor:
    """A frame as it is."""
    return torch.tensor([[sample, 0, 0, *hw, mirrored, 1, 0]], dtype=torch.float64)


def crops(
    module: ModuleType,
    frames: Frames,
    draw_B8: torch.Tensor,
    crop_hw: tuple[int, int] = CROP_HW,
    *,
    device: torch.device | str = "cpu",
    in_channels: int = 3,
    **options: Any,
) -> Crops:
    pixels = [None if part is None else part.to(device) for part in frames[:3]]
    moved = Frames(*[*pixels, *frames[3:]])  # type: ignore[arg-type]
    encoding = Encoding(in_channels=in_channels, **NORMAL)
    made = module.crop_resize(moved, draw_B8, crop_hw, encoding, **options)
    return Crops(*(part.cpu() for part in made))


def assert_same(a: Crops, b: Crops) -> None:
    assert all(torch.equal(mine, other) for mine, other in zip(a, b, strict=True))


@pytest.mark.parametrize("in_channels", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_within_twice_that_of_the_reference(
    fused: str,
    dtype: torch.dtype,
    in_channels: int,
    operation: Operation,
    device_of: DeviceOf,
) -> None:
    frames = frames_of(SIZES)
    draw_B8 = draws_of(frames)
    ours = crops(
        operation("crop_resize", fused),
        frames,
        draw_B8,
        device=device_of(fused),
        in_channels=in_channels,
        dtype=dtype,
    )
    plain, truth = (
        crops(reference, frames, draw_B8, in_channels=in_channels, dtype=of)
        for of in (dtype, torch.float64)
    )
    assert ours.image_BChw.dtype == dtype
    assert ours.image_BChw.is_contiguous(memory_format=torch.channels_last)
    # The drawn boxes do leave the frames, and do not leave all of them.
    assert 0.1 < (truth.label_Bhw == 255).double().mean() < 0.9
    allowed = 2 * (plain.image_BChw - truth.image_BChw).abs().max()
    ulp = torch.finfo(dtype).eps * truth.image_BChw.abs().max()
    assert (ours.image_BChw - truth.image_BChw).abs().max() <= allowed + ulp
    assert torch.equal(ours.depth_Bhw, truth.depth_Bhw)
    assert torch.equal(ours.label_Bhw, truth.label_Bhw)


def by_hand(
    frames: Frames, draw: Sequence[float], crop_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The definition, one pixel at a time: (h, w, 4) image, (h, w) metres and classes."""
    assert frames.depth_P is not None
    assert frames.label_P is not None
    sample, top, left, height, width, mirrored, gain, shift = draw
    H, W = frames.hw_N2[int(sample)].tolist()
    first = int(frames.offset_N[int(sample)])
    span = slice(first, first + H * W)
    image = frames.image_P3[span].numpy().reshape(H, W, 3).astype(np.float64)
    millimetres, classes = (
        part[span].numpy().reshape(H, W) for part in (frames.depth_P, frames.label_P)
    )
    input_hw4 = np.zeros((*crop_hw, 4))
    metres_hw, label_hw = np.zeros(crop_hw), np.full(crop_hw, 255)
    for i in range(crop_hw[0]):
        for j in range(crop_hw[1]):
            y = top + (i + 0.5) * height / crop_hw[0]
            k = crop_hw[1] - 1 - j if mirrored else j
            x = left + (k + 0.5) * width / crop_hw[1]
            if not (0 <= y < H and 0 <= x < W):
                continue
            colour = np.zeros(3)
            for line, line_weight in weights(y, H):
                for column, column_weight in weights(x, W):
                    colour += line_weight * column_weight * image[line, column]
            lit = np.clip(gain * colour + 255 * shift, 0, 255)
            input_hw4[i, j, :3] = (lit - NORMAL["mean"]) / NORMAL["std"]
            label_hw[i, j] = classes[int(y), int(x)]
            metres_hw[i, j] = metres = millimetres[int(y), int(x)] / 1000
            if metres:
                clipped = min(max(metres, 0.71), 10)
                input_hw4[i, j, 3] = (1 / clipped - 1 / 10) / (1 / 0.71 - 1 / 10)
    return input_hw4, metres_hw, label_hw


def weights(position: float, side: int) -> list[tuple[int, float]]:
    """The pixels whose centres lie round a position, repeated at the border, and their shares."""
    before = int(np.floor(position - 0.5))
    share = position - 0.5 - before
    taps = ((before, 1 - share), (before + 1, share))
    return [(min(max(tap, 0), side - 1), weight) for tap, weight in taps]


def test_each_pixel_is_what_the_definition_says(
    backend: str, operation: Operation, device_of: DeviceOf
) -> None:
    frames = frames_of(SIZES)
    draw_B8 = draws_of(frames, seed=1)
    made = crops(
        operation("crop_resize", backend),
        frames,
        draw_B8,
        device=device_of(backend),
        in_channels=4,
    )
    for row, draw in enumerate(draw_B8.tolist()):
        input_hw4, metres_hw, label_hw = by_hand(frames, draw, CROP_HW)
        np.testing.assert_allclose(made.image_BChw[row].permute(1, 2, 0), input_hw4, atol=1e-5)
        np.testing.assert_allclose(made.depth_Bhw[row], metres_hw, rtol=1e-7)
        np.testing.assert_array_equal(made.label_Bhw[row], label_hw)


def test_a_whole_frame_is_resized_as_torch_resizes_it(
    backend: str, operation: Operation, device_of: DeviceOf
) -> None:
    frames = frames_of([(12, 10)], depth=False, label=False)
    made = crops(
        operation("crop_resize", backend),
        frames,
        whole(0, (12, 10)),
        (9, 16),
        device=device_of(backend),
    )
    image = frames.image_P3.view(12, 10, 3).permute(2, 0, 1)[None].double()
    resized = F.interpolate(image, (9, 16), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(NORMAL[name]).double()[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(made.image_BChw.double(), (resized - mean) / std, rtol=0, atol=1e-5)


def test_a_mirrored_crop_is_the_crop_mirrored(
    backend: str, operation: Operation, device_of: DeviceOf
) -> None:
    frames = frames_of(SIZES)
    draw_B8 = draws_of(frames)[::2]
    mirrored_B8 = draw_B8.clone()
    mirrored_B8[:, 5] = 1
    module, device = operation("crop_resize", backend), device_of(backend)
    a, b = (
        crops(module, frames, rows, device=device, in_channels=4) for rows in (draw_B8, mirrored_B8)
    )
    assert_same(a, Crops(*(part.flip(-1) for part in b)))
    assert not torch.equal(a.label_Bhw, b.label_Bhw)


@pytest.mark.parametrize("box", [(-50, 0, 9, 9), (50, 0, 9, 9), (0, -50, 9, 9), (0, 50, 9, 9)])
def test_off_the_frame_the_input_is_0_the_depth_missing_and_the_label_ignored(
    backend: str, box: tuple[int, ...], operation: Operation, device_of: DeviceOf
) -> None:
    frames = frames_of([(9, 9)])
    draw_B8 = torch.tensor([[0, *box, 0, 1.2, 0.2]], dtype=torch.float64)
    made = crops(
        operation("crop_resize", backend),
        frames,
        draw_B8,
        device=device_of(backend),
        in_channels=4,
    )
    assert (made.image_BChw == 0).all()
    assert (made.depth_Bhw == 0).all()
    assert (made.label_Bhw == 255).all()


@pytest.mark.parametrize(
    ("gain", "shift", "expected"), [(1, 2, 255), (1, -2, 0), (1e4, 0, 255), (-1e4, 0, 0)]
)
def test_light_is_clipped_to_what_an_image_can_hold(
    backend: str,
    gain: float,
    shift: float,
    expected: int,
    operation: Operation,
    device_of: DeviceOf,
) -> None:
    frames = frames_of([(5, 6)])
    frames.image_P3.clamp_(min=1)  # 0 times any gain is 0
    draw_B8 = whole(0, (5, 6))
    draw_B8[0, 6:] = torch.tensor([gain, shift])
    made = crops(operation("crop_resize", backend), frames, draw_B8, device=device_of(backend))
    for channel, (mean, std) in enumerate(zip(NORMAL["mean"], NORMAL["std"], strict=True)):
        np.testing.assert_allclose(made.image_BChw[0, channel], (expected - mean) / std, rtol=1e-6)


def test_every_depth_is_divided_to_the_last_bit(
    backend: str, operation: Operation, device_of: DeviceOf
) -> None:
    # The interpreter is slow, so it gets every 31st value (31 is odd: all low bits occur).
    step, hw = (31, (4, 529)) if backend == "triton" else (1, (256, 256))
    millimetres = np.zeros(hw[0] * hw[1], np.uint16)
    values = np.arange(0, 65536, step, dtype=np.uint16)
    millimetres[: len(values)] = values
    frames = frames_of([hw], label=False)._replace(depth_P=torch.from_numpy(millimetres))
    made = crops(
        operation("crop_resize", backend), frames, whole(0, hw), hw, device=device_of(backend)
    )
    expected = millimetres.astype(np.float32) / np.float32(1000)
    np.testing.assert_array_equal(made.depth_Bhw.numpy().ravel(), expected)


@pytest.mark.parametrize("in_channels", [3, 4])
def test_bfloat16_is_float32_rounded_to_the_nearest_even(
    fused: str, in_channels: int, operation: Operation, device_of: DeviceOf
) -> None:
    frames = frames_of(SIZES)
    module = operation("crop_resize", fused)
    how: dict[str, Any] = {"device": device_of(fused), "in_channels": in_channels}
    exact, rounded = (
        crops(module, frames, draws_of(frames, rounds=2), dtype=dtype, **how)
        for dtype in (torch.float32, torch.bfloat16)
    )
    if fused == "triton" and not torch.cuda.is_available():
        # The interpreter cuts bits off or rounds them wrongly; the machine's `cvt.rn` does not.
        gap = (rounded.image_BChw.float() - exact.image_BChw).abs()
        assert (gap <= torch.finfo(torch.bfloat16).eps * exact.image_BChw.abs()).all()
    else:
        assert torch.equal(rounded.image_BChw, exact.image_BChw.to(torch.bfloat16))


def test_triton_gives_the_reference_to_the_last_bits(
    operation: Operation, device_of: DeviceOf
) -> None:
    # Of the colours: two roundings, by the order of the axes; maps and inverse depth: none or one.
    frames = frames_of(SIZES)
    draw_B8 = draws_of(frames, seed=3)
    module, device = operation("crop_resize", "triton"), device_of("triton")
    ours = crops(module, frames, draw_B8, device=device, in_channels=4)
    plain = crops(reference, frames, draw_B8, in_channels=4)
    torch.testing.assert_close(ours.image_BChw, plain.image_BChw, rtol=0, atol=2e-6)
    assert torch.equal(ours.depth_Bhw, plain.depth_Bhw)
    assert torch.equal(ours.label_Bhw, plain.label_Bhw)


def test_a_row_of_more_pixels_than_a_program_makes_is_whole(
    operation: Operation, device_of: DeviceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of([(5, 7)])
    module, device = operation("crop_resize", "triton"), device_of("triton")
    for in_channels in (3, 4):
        how: dict[str, Any] = {"device": device, "in_channels": in_channels}
        whole_row = crops(module, frames, draws_of(frames), (2, 37), **how)
        with monkeypatch.context() as patch:
            patch.setattr(launch, "BLOCK", 8)
            assert_same(crops(module, frames, draws_of(frames), (2, 37), **how), whole_row)
