"""`crop_resize` as an operation: what it refuses, promises to PyTorch and leaves untouched."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from kernels.crop_resize import Crops, Encoding, Frames, crop_resize, op, reference

Operation = Callable[[str, str], ModuleType]
DeviceOf = Callable[[str], torch.device]

RGBD = Encoding((120.0, 110.0, 100.0), (58.0, 57.0, 56.0), (0.71, 10.0), in_channels=4)
RGB = RGBD._replace(in_channels=3)
ARGUMENTS: dict[str, Any] = {"crop_hw": (6, 9), "encoding": RGBD}


@pytest.fixture
def frames() -> Frames:
    rng = np.random.default_rng(0)
    return Frames(
        torch.from_numpy(rng.integers(0, 256, (100, 3), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, 65536, 100, dtype=np.uint16)),
        torch.from_numpy(rng.integers(0, 13, 100, dtype=np.uint8)),
        torch.tensor([0, 40]),
        torch.tensor([[5, 8], [10, 6]]),
    )


@pytest.fixture(name="draw_B8")
def two_draws() -> torch.Tensor:
    rows = [[0, -1.3, 2.2, 5.1, 7.7, 1, 1.1, 0.05], [1, 3.3, -2.2, 12.1, 9.7, 0, 0.9, -0.05]]
    return torch.tensor(rows, dtype=torch.float64)


def on(device: torch.device, frames: Frames) -> Frames:
    """The pixels on a device; where they lie stays on the CPU."""
    pixels = [None if part is None else part.to(device) for part in frames[:3]]
    return Frames(*[*pixels, *frames[3:]])  # type: ignore[arg-type]


def same_bytes(a: Crops, b: Crops) -> bool:
    return all(torch.equal(mine, other) for mine, other in zip(a, b, strict=True))


def test_every_output_is_written_and_nothing_else(
    fused: str,
    frames: Frames,
    draw_B8: torch.Tensor,
    operation: Operation,
    device_of: DeviceOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, device = operation("crop_resize", fused), device_of(fused)
    frames = on(device, frames)
    inputs = [part for part in (*frames, draw_B8) if part is not None]
    before = [part.clone() for part in inputs]
    empty, guards = op._new_outputs, []

    def poisoned(*arguments: Any) -> tuple[torch.Tensor, ...]:
        outputs = []
        for output, poison in zip(empty(*arguments), (torch.nan, torch.nan, 77), strict=True):
            memory = output.new_full((output.numel() + 4096,), poison)
            guards.append(memory[output.numel() :])
            outputs.append(memory[: output.numel()].view(output.shape))
        return tuple(outputs)

    for given in (frames, frames._replace(depth_P=None, label_P=None)):
        arguments = {**ARGUMENTS, "encoding": RGB if given.depth_P is None else RGBD}
        clean = module.crop_resize(given, draw_B8, **arguments)
        with monkeypatch.context() as patch:
            patch.setattr(op, "_new_outputs", poisoned)
            assert same_bytes(module.crop_resize(given, draw_B8, **arguments), clean)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert all(torch.all(guard.isnan() | (guard == 77)) for guard in guards)


def test_without_depth_and_labels_all_is_missing_and_ignored(
    backend: str,
    frames: Frames,
    draw_B8: torch.Tensor,
    operation: Operation,
    device_of: DeviceOf,
) -> None:
    frames = on(device_of(backend), frames)
    bare = frames._replace(depth_P=None, label_P=None)
    module, arguments = operation("crop_resize", backend), {**ARGUMENTS, "encoding": RGB}
    made = module.crop_resize(bare, draw_B8, **arguments)
    assert (made.depth_Bhw == 0).all()
    assert (made.label_Bhw == 255).all()
    assert torch.equal(made.image_BChw, module.crop_resize(frames, draw_B8, **arguments).image_BChw)


def test_no_rows_make_no_crops(
    backend: str, frames: Frames, operation: Operation, device_of: DeviceOf
) -> None:
    device = device_of(backend)
    none_B8 = torch.empty(0, 8, dtype=torch.float64)
    made = operation("crop_resize", backend).crop_resize(on(device, frames), none_B8, **ARGUMENTS)
    assert [tuple(part.shape) for part in made] == [(0, 4, 6, 9), (0, 6, 9), (0, 6, 9)]


def test_two_runs_give_the_same_bytes_on_any_number_of_threads(frames: Frames) -> None:
    # More rows than one thread makes in a run, and a number that does not divide them.
    draw_B8 = torch.tensor([[1, -1.5, -0.5, 13, 7, 0, 1.1, 0.1]] * 3, dtype=torch.float64)
    arguments = {**ARGUMENTS, "crop_hw": (131, 37)}
    first, again = (crop_resize(frames, draw_B8, **arguments) for _ in range(2))
    assert same_bytes(first, again)
    torch.set_num_threads(1)
    assert same_bytes(first, crop_resize(frames, draw_B8, **arguments))


def test_a_frame_beyond_the_reach_of_32_bits_is_found(
    fused: str, operation: Operation, device_of: DeviceOf
) -> None:
    # Zeros that nobody touches take no memory (NumPy's; torch writes them).
    pixels, hw = 2**31 // 3 + 1000, (4, 5)
    offset = pixels - hw[0] * hw[1]
    image_P3 = torch.from_numpy(np.zeros((pixels, 3), np.uint8))
    image_P3[offset:] = torch.arange(1, 61, dtype=torch.uint8).view(20, 3)
    far = Frames(image_P3, None, None, torch.tensor([offset]), torch.tensor([hw]))
    near = Frames(image_P3[offset:].clone(), None, None, torch.tensor([0]), torch.tensor([hw]))
    module, device = operation("crop_resize", fused), device_of(fused)
    draw_B8 = torch.tensor([[0, 0, 0, *hw, 0, 1, 0]], dtype=torch.float64)
    arguments = {"encoding": RGB, "crop_hw": (3, 4)}
    assert same_bytes(
        *(module.crop_resize(on(device, frames), draw_B8, **arguments) for frames in (far, near))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": RGBD._replace(in_channels=5)}, r"3 \(RGB\) or 4 \(RGB-D\) channels, got 5"),
        ({"encoding": RGBD._replace(std=(1.0, 0.0, 1.0))}, "3 positive deviations"),
        ({"encoding": RGBD._replace(mean=(1.0, 0.0))}, "3 means"),
        ({"encoding": RGBD._replace(depth_range_m=(10.0, 0.71))}, "0 < nearest < farthest"),
        ({"crop_hw": (0, 9)}, "at least one pixel a side"),
        ({"draw_B8": torch.zeros(2, 7, dtype=torch.float64)}, r"\(B, 8\) float64 with sample, top"),
        ({"draw_B8": torch.zeros(2, 8)}, r"got \(2, 8\) torch.float32"),
        ({"draw_B8": torch.full((1, 8), 2.0, dtype=torch.float64)}, r"in \[0, 2\), got 2 to 2"),
        ({"draw_B8": torch.full((1, 8), -1.0, dtype=torch.float64)}, r"in \[0, 2\), got -1 to -1"),
        ({"image_P3": torch.zeros(100, 3)}, "image must be .* torch.uint8"),
        ({"image_P3": torch.zeros(3, 100, dtype=torch.uint8).T}, "image must be .* contiguous"),
        ({"depth_P": torch.zeros(100)}, "depth must be .* torch.uint16"),
        ({"depth_P": None}, "4 input channels need depth"),
        ({"label_P": torch.zeros(99, dtype=torch.uint8)}, r"label must be \(100,\)"),
        ({"offset_N": torch.zeros(3, dtype=torch.int64)}, r"offset must be \(2,\)"),
        ({"hw_N2": torch.zeros(2, 2)}, "hw must be .* torch.int64"),
        (
            {"offset_N": torch.zeros(2, dtype=torch.int64, device="meta")},
            "offset must be on cpu, got meta",
        ),
        ({"draw_B8": torch.zeros(2, 8, dtype=torch.float64, device="meta")}, "draws must be on"),
    ],
)
def test_what_does_not_fit_is_refused_by_all_alike(
    change: dict[str, Any], message: str, frames: Frames, draw_B8: torch.Tensor
) -> None:
    parts = {name: value for name, value in change.items() if name in Frames._fields}
    rest = {"draw_B8": draw_B8, **ARGUMENTS, **change}
    rest = {name: value for name, value in rest.items() if name not in parts}
    for function in (reference.crop_resize, crop_resize):
        with pytest.raises(ValueError, match=message):
            function(frames._replace(**parts), **rest)


def test_only_float32_and_bfloat16_come_out_of_the_fused_forms(
    frames: Frames, draw_B8: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match=r"float32 or torch.bfloat16, not torch.float64"):
        crop_resize(frames, draw_B8, **ARGUMENTS, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pytorch_is_told_the_truth_about_it(
    dtype: torch.dtype, frames: Frames, draw_B8: torch.Tensor
) -> None:
    numbers = [0.5, 0.25, 0.125, -2.0, -1.0, -3.0, 0.71, 10.0]
    for given in (frames, frames._replace(depth_P=None, label_P=None)):
        size_hwC = [6, 9, 3 if given.depth_P is None else 4]
        torch.library.opcheck(op._crop_resize, (list(given), draw_B8, size_hwC, numbers, dtype))


def test_compiled_whole_it_gives_the_same_bytes(frames: Frames, draw_B8: torch.Tensor) -> None:
    def crop(frames: Frames, draw_B8: torch.Tensor) -> Crops:
        return crop_resize(frames, draw_B8, **ARGUMENTS)

    compiled = torch.compile(crop, fullgraph=True, backend="aot_eager")
    assert same_bytes(compiled(frames, draw_B8), crop(frames, draw_B8))
