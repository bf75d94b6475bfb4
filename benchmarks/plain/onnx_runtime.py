"""The recipe's network by ONNX Runtime on the CPU.

Shapes: B frames, C classes, H W pixels.
"""

import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

_EXAMPLE_BHW = (2, 64, 96)
"""Nothing of it is kept: any batch of whole 32s is taken afterwards."""


class OnnxNetwork:
    """A network in evaluation mode, exported once for every size of frame; called as it is."""

    def __init__(self, model: nn.Module, channels: int, threads: int) -> None:
        """Export the model's present weights.

        Args:
            model: in evaluation mode.
            channels: of the image.
            threads: of a pass.
        """
        batch, height, width = _EXAMPLE_BHW
        image = torch.zeros(batch, channels, height, width)
        any_size = torch.export.Dim.DYNAMIC
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            with warnings.catch_warnings():
                # It deprecates parts of itself.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    model,
                    (image,),
                    file,
                    input_names=["image"],
                    output_names=["logits", "depth"],
                    dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
                    dynamo=True,
                    verbose=False,
                )
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) and normalised depth (B, H, W)."""
        image = image_BCHW.contiguous().numpy()
        logits_BCHW, depth_BHW = self._session.run(None, {"image": image})
        return torch.from_numpy(logits_BCHW), torch.from_numpy(depth_BHW)
