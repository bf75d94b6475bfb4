"""Forward passes by OpenVINO on the CPU: the network's layers fused, in float32 or INT8.

On two cores of an Intel Xeon a pass of EfficientNet-Lite0 + FPN over 8 frames (160x224, 224x320,
288x384) took 1 / 1.77 of eager channels-last PyTorch's time, and no mask differed (ONNX Runtime's:
1 / 1.26). Converting a network takes 3 s a fold. In INT8: see `engine.views.int8`.
"""

import functools
import logging
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.mistakes import to_install
from engine.model.encoder import STRIDES
from engine.model.network import Network, Prediction

if TYPE_CHECKING:
    import openvino

_log = logging.getLogger(__name__)


def check_openvino(device: torch.device, inference: str = "openvino") -> None:
    """Refuse what `OpenVinoPass` could not do; `inference` is what was asked for.

    Raises:
        RuntimeError: the package is missing, or the run is not on the CPU.
    """
    if device.type != "cpu":
        raise RuntimeError(
            f"runtime.inference = {inference!r} runs on the CPU, not on {device}; "
            "use --runtime.inference torch or --runtime.device cpu"
        )
    try:
        import openvino  # noqa: F401 - whether it can be
    except ImportError as error:
        raise RuntimeError(
            f"runtime.inference = {inference!r}, but OpenVINO cannot be imported: {error}; "
            f"{to_install('openvino')}"
        ) from error


def convert(network: Network, in_channels: int) -> "openvino.Model":
    """A network in evaluation mode as OpenVINO's, in float32, for `OpenVinoPass`.

    Raises as `check_openvino`.
    """
    check_openvino(next(network.parameters()).device)
    import openvino
    from openvino.preprocess import PrePostProcessor

    start_s = time.monotonic()
    example = torch.zeros(1, in_channels, 2 * STRIDES[-1], 3 * STRIDES[-1])
    with warnings.catch_warnings():
        # It traces by torch.jit, which PyTorch means to give up and says so. An ExportedProgram
        # of any size takes 27 s of a core where this takes 3.4 (EfficientNet-Lite0, PyTorch 2.14,
        # OpenVINO 2026.4); one of a size takes 6.7, and cannot be reshaped under DeepLabV3+.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(_Outputs(network), example_input=example)
    # Memory is channels-last on both sides, so neither copies.
    layout = PrePostProcessor(model)
    for end in (layout.input(0), layout.output(0)):
        end.tensor().set_layout(openvino.Layout("NHWC"))
        end.model().set_layout(openvino.Layout("NCHW"))
    model = layout.build()
    _log.info("OpenVINO %s: converted in %.1f s", openvino.__version__, time.monotonic() - start_s)
    return model


class OpenVinoPass:
    """A model of `convert`, or that in INT8, as it runs; compiled once for each input shape.

    What a call returns is overwritten by the next of the same shape.
    """

    def __init__(self, model: "openvino.Model", *, bf16: bool = False) -> None:
        """Compile nothing yet.

        Args:
            model: takes (B, H, W, C) float32.
            bf16: what is not quantised is computed in bfloat16, as `runtime.precision` has it; a
                processor without it computes in float32.
        """
        self.model, self.bf16 = model, bf16
        # Not a cache of the bound method: that would be a cycle, which only a collection frees.
        self._requests: dict[torch.Size, openvino.InferRequest] = {}

    def __call__(self, image_BCHW: Tensor) -> Prediction:
        """The network's prediction."""
        image_BHWC = image_BCHW.permute(0, 2, 3, 1).contiguous()
        request = self._requests.get(image_BHWC.shape) or self._compile(image_BHWC.shape)
        found = request.infer([image_BHWC.numpy()], share_inputs=True, share_outputs=True)
        logits_BhwC, depth_Bhw = found.values()
        return Prediction(
            torch.from_numpy(logits_BhwC).permute(0, 3, 1, 2), torch.from_numpy(depth_Bhw)
        )

    def _compile(self, shape: torch.Size) -> "openvino.InferRequest":
        model = self.model.clone()
        model.reshape(list(shape))
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bf16 else "f32",  # of what is not quantised
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        request = core().compile_model(model, "CPU", options).create_infer_request()
        self._requests[shape] = request
        return request


@functools.cache
def core() -> "openvino.Core":
    """The one of this process."""
    # Where there is AMX, its CPU plugin has the thread handle signals on a stack of its own, and
    # frees that with the core. Of two cores, the second would give the thread the freed stack of
    # the first again, and the next signal, such as Ctrl-C, would end the process.
    import openvino

    return openvino.Core()


class _Outputs(nn.Module):
    """OpenVINO knows tuples, not what inherits from them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits_BChw, depth_Bhw = self.network(image_BCHW)
        return logits_BChw, depth_Bhw
