"""The recipe's network by ONNX Runtime on the CPU.

Shapes: B frames, C classes, H W pixels.
"""

import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

_EXAMPLES = 2
"""Frames that a network is exported with: nothing of them is kept, any number is taken later."""


class OnnxNetwork:
    """A network in evaluation mode, exported once for each size of frame; called as it is."""

    def __init__(self, model: nn.Module, channels: int, threads: int) -> None:
        """Take the model; it is exported with the weights that it has at a size's first batch.

        Args:
            model: in evaluation mode.
            channels: of the image.
            threads: of a pass.
        """
        self._model, self._channels = model, channels
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._sessions: dict[tuple[int, int], onnxruntime.InferenceSession] = {}

    def __call__(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) and normalised depth (B, H, W)."""
        hw = image_BCHW.shape[2], image_BCHW.shape[3]
        if hw not in self._sessions:
            self._sessions[hw] = self._export(hw)
        image = image_BCHW.contiguous().numpy()
        logits_BCHW, depth_BHW = self._sessions[hw].run(None, {"image": image})
        return torch.from_numpy(logits_BCHW), torch.from_numpy(depth_BHW)

    def _export(self, hw: tuple[int, int]) -> onnxruntime.InferenceSession:
        # Of any height and width it takes ten times as long, minutes on some machines.
        image = torch.zeros(_EXAMPLES, self._channels, *hw)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            with warnings.catch_warnings():
                # It deprecates parts of itself.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    self._model,
                    (image,),
                    file,
                    input_names=["image"],
                    output_names=["logits", "depth"],
                    dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                    dynamo=True,
                    verbose=False,
                )
            return onnxruntime.InferenceSession(
                file, self._options, providers=["CPUExecutionProvider"]
            )
