"""Colours of crops mixed, written as the mathematics reads.

Axes: B rows of a batch, C channels, H W pixels.
"""

from torch import Tensor


def recolour(image_BCHW: Tensor, region_B4: Tensor, mix_B43: Tensor, ends_23: Tensor) -> None:
    """Replace the first three channels x of a region of each row by clip(A x + b), in place.

    Args:
        image_BCHW: float32, channels-last, at least 3 channels.
        region_B4: int64 on the CPU: first row, one past the last row, likewise columns; may be
            empty.
        mix_B43: float32 on the CPU: the transpose of A, then b.
        ends_23: float32 on the CPU: the least and the largest of each channel.

    Raises:
        ValueError: shapes, types or memory are others, or a region leaves the image.
    """
    check_arguments(image_BCHW, region_B4, mix_B43, ends_23)
    device = image_BCHW.device
    mix_B43, ends_23 = mix_B43.to(device), ends_23.to(device)
    for row, (top, bottom, left, right) in enumerate(region_B4.tolist()):
        part_hw3 = image_BCHW[row, :3, top:bottom, left:right].permute(1, 2, 0)
        factor_33, term_3 = mix_B43[row, :3], mix_B43[row, 3]
        part_hw3.copy_((part_hw3 @ factor_33 + term_3).clamp(ends_23[0], ends_23[1]))


def check_arguments(
    image_BCHW: Tensor, region_B4: Tensor, mix_B43: Tensor, ends_23: Tensor
) -> None:
    """Refuse what `recolour` cannot work on.

    Raises:
        ValueError: naming what came and what is needed.
    """
    B, C, H, W = image_BCHW.shape
    shapes = [tuple(part.shape) for part in (region_B4, mix_B43, ends_23)]
    if shapes != [(B, 4), (B, 4, 3), (2, 3)] or C < 3:
        raise ValueError(
            f"regions, mixtures and ends of {tuple(image_BCHW.shape)} images must be ({B}, 4), "
            f"({B}, 4, 3) and (2, 3), and the images have 3 channels or more; got {shapes}"
        )
    types = [str(part.dtype) for part in (image_BCHW, region_B4, mix_B43, ends_23)]
    if types != ["torch.float32", "torch.int64", "torch.float32", "torch.float32"]:
        raise ValueError(f"need float32 images, int64 regions and float32 numbers, got {types}")
    if not image_BCHW.permute(0, 2, 3, 1).is_contiguous():
        raise ValueError("images must be channels-last in memory")
    for top, bottom, left, right in region_B4.tolist():
        if not (0 <= top <= bottom <= H and 0 <= left <= right <= W):
            region = [top, bottom, left, right]
            raise ValueError(f"region {region} leaves an image of {H} x {W} pixels")
