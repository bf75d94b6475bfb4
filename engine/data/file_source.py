"""What the sources that decode files for each batch share; which of them runs.

The resident source has all of it but derived channels in one kernel, `kernels.crop_resize`.

B: rows of a batch. C: channels. H W: pixels of the crop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import nyuv2
from engine.config import RuntimeConfig
from engine.data.batch import Batch, Draws, Source
from engine.data.inputs import InputSpec, upload
from engine.frames.cache import GIB
from engine.frames.decode import Sample


@dataclass(frozen=True, eq=False)
class FileSource:
    """What a source that decodes files works on; see `engine.data.sources.make_source`."""

    samples: Sequence[Sample]
    crop_hw: tuple[int, int]
    spec: InputSpec
    device: torch.device
    """Where batches are made."""
    workers: int
    """Decoding threads."""

    def finish(
        self, draws: Draws, crops: Mapping[str, Tensor], cells: Sequence[Tensor] = ()
    ) -> Batch:
        """Turn resampled crops, mirrored already, into a batch: light, fill, normalise.

        A pixel is outside if its sample position is outside [0, H) x [0, W) of its frame. There RGB
        and inverse depth are 0, the depth missing and the label 255, whatever the crops hold;
        derived channels are made of these.

        Args:
            draws: B rows that the crops were made by.
            crops: on the source's device: "image" (B, 3, H, W) float32 in 0..255; "depth"
                (B, H, W) uint16 units, 0 = missing, if any; "label" (B, H, W) uint8, if any.
            cells: on the CPU, `Surface.cells` of each row's frame, where the network sees surfaces.

        Returns:
            The batch, in new tensors: the crops may be overwritten afterwards.

        Raises:
            ValueError: four channels are wanted, and there is no depth.
        """
        device, spec, hw_B2 = self.device, self.spec, self._hw(draws)
        in_rows_BH, in_columns_BW = self.inside(draws)
        in_columns_BW[draws.flip] = in_columns_BW[draws.flip, ::-1]
        in_rows, in_columns, light_B2 = (
            upload(torch.from_numpy(part), device)
            for part in (in_rows_BH, in_columns_BW, draws.light)
        )
        inside_BHW = in_rows[:, :, None] & in_columns[:, None, :]
        metres_BHW = torch.zeros(inside_BHW.shape, device=device)
        if "depth" in crops:
            # CUDA multiplies by the reciprocal of a Python number, which may be one bit off.
            units = torch.full((), nyuv2.MILLIMETRES_PER_METRE, device=device)
            metres_BHW = torch.where(inside_BHW, crops["depth"].float() / units, 0.0)
            if spec.mm_a_unit != 1:  # as the resident source has it
                metres_BHW = metres_BHW * spec.mm_a_unit
        elif spec.has_depth:
            raise ValueError("4 input channels need depth, got none; give depth maps or use 'rgb'")
        label_BHW = torch.full_like(inside_BHW, nyuv2.IGNORE_INDEX, dtype=torch.uint8)
        if "label" in crops:
            label_BHW = torch.where(inside_BHW, crops["label"], label_BHW)
        gain_B111, shift_B111 = light_B2.T[..., None, None, None]
        lit_BCHW = (crops["image"] * gain_B111 + 255 * shift_B111).clamp(0, 255)
        input_BCHW = network_input(lit_BCHW, metres_BHW, spec)
        input_BCHW = torch.where(inside_BHW[:, None], input_BCHW, 0.0)
        input_BCHW = input_BCHW.contiguous(memory_format=torch.channels_last)
        if spec.surface is not None:
            from engine.data.surface import append_surface

            moved = [upload(each, device) for each in cells]
            how = draws, hw_B2, spec.surface
            input_BCHW = append_surface(input_BCHW, metres_BHW, moved, *how)
        input_BCHW = spec.finish(input_BCHW, metres_BHW, draws, hw_B2)
        return Batch(input_BCHW, metres_BHW, label_BHW, draws.index)

    def inside(self, draws: Draws) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows (B, H) and columns (B, W) of crops lie in their frames, unmirrored."""
        hw_B2 = self._hw(draws)
        rows_BH, columns_BW = sample_positions(draws, self.crop_hw)
        in_rows_BH = (rows_BH >= 0) & (rows_BH < hw_B2[:, :1])
        return in_rows_BH, (columns_BW >= 0) & (columns_BW < hw_B2[:, 1:])

    def _hw(self, draws: Draws) -> NDArray[np.int64]:
        """(B, 2) height and width of the frames."""
        return np.array([self.samples[sample].hw for sample in draws.index], np.int64).reshape(
            -1, 2
        )


def choose_file_source(
    runtime: RuntimeConfig,
    device: torch.device,
    samples: Sequence[Sample],
    need: int,
    limit: int,
) -> tuple[str, str]:
    """Which source runs, and why, where frames of `need` bytes cannot stay within `limit`.

    On a GPU "auto" takes the fastest, which is measured once in a process. On a CPU, and where runs
    are to be `deterministic`, it is DALI where that is installed: sources differ by rounding, and
    the clock may not decide which bytes come out.
    """
    kind, why = runtime.source, "as configured"
    if kind == "torch":
        return kind, why
    if kind == "auto":
        share = "half of the memory" if device.type == "cpu" else "a quarter of the GPU's memory"
        share = "runtime.memory_gib" if runtime.memory_gib else share
        why = f"{need / GIB:.1f} GiB of decoded frames exceed {limit / GIB:.1f} GiB, {share}"
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        if kind == "auto":
            return "torch", f"{why}; DALI cannot be imported: {error}"
        raise RuntimeError(
            f"runtime.source = 'dali', but DALI cannot be imported: {error}; install "
            "nvidia-dali-cuda130 (Linux x86-64 only) or set runtime.source to 'torch'"
        ) from error
    if kind == "auto" and device.type == "cuda" and not runtime.deterministic:
        from engine.data.measured import measured_rates

        found = measured_rates(samples, device, runtime.workers)
        told = ", ".join(f"{name} {rate:.0f}" for name, rate in found.items())
        return max(found, key=found.__getitem__), f"{why}; frames a second here: {told}"
    return "dali", f"{why}; DALI is installed" if kind == "auto" else why


def file_source(
    kind: str,
) -> Callable[[Sequence[Sample], tuple[int, int], InputSpec, torch.device, int], Source]:
    """What makes a source of a kind that `choose_file_source` returns: see `FileSource`."""
    if kind == "torch":
        from engine.data.torch_source import TorchSource

        return TorchSource
    from engine.data.dali_source import DaliSource

    return DaliSource


def sample_positions(
    draws: Draws, crop_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each row and column of a crop samples its frame, before the mirroring.

    Returns:
        (B, H) rows and (B, W) columns, ascending; pixel i of the frame covers [i, i + 1).
    """
    height, width = crop_hw
    top, left, box_height, box_width = (draws.box[:, [side]] for side in range(4))
    rows = top + (np.arange(height) + 0.5) * (box_height / height)
    columns = left + (np.arange(width) + 0.5) * (box_width / width)
    return rows, columns


def network_input(image_BCHW: Tensor, depth_BHW: Tensor, spec: InputSpec) -> Tensor:
    """Normalise RGB and, for four channels, append the inverse depth.

    With d the depth clipped to [near, far] = [0.71, 10] m, the fourth channel is
    (1/d - 1/far) / (1/near - 1/far): 1 near, 0 far; a missing depth is 0 as well.

    Args:
        image_BCHW: (B, 3, H, W) float32 in 0..255.
        depth_BHW: (B, H, W) float32 metres, 0 = missing.
        spec: of the network.

    Returns:
        (B, C, H, W) float32, channels-last, on the image's device; no host synchronisation.
    """
    # Filled on the device one by one: torch.tensor(...).to(device) would stop the host.
    mean, std = spec.normalisation.mean, spec.normalisation.std
    channels = [
        image_BCHW[:, channel] * (1.0 / deviation) + -offset / deviation
        for channel, (offset, deviation) in enumerate(zip(mean, std, strict=True))
    ]
    if spec.has_depth:
        near, far = 1 / nyuv2.DEPTH_MIN_M, 1 / nyuv2.DEPTH_MAX_M
        inverse_BHW = depth_BHW.clamp(nyuv2.DEPTH_MIN_M, nyuv2.DEPTH_MAX_M).reciprocal()
        channels.append(torch.where(depth_BHW > 0, (inverse_BHW - far) / (near - far), 0.0))
    return torch.stack(channels, dim=-1).permute(0, 3, 1, 2)
