"""OpenVINO's forward pass gives what PyTorch's gives; where it cannot, that is said first."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.config import Config
from engine.data.inputs import Normalisation
from engine.model.network import build_network
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations, set_up_device
from engine.training.checkpoint import save_best
from engine.training.records import BestNote
from engine.views.openvino_pass import OpenVinoPass, check_openvino, convert, core
from engine.views.predictor import load_fold

ROOT = Path(__file__).resolve().parent.parent.parent
CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
SHAPES = [(1, 64, 96), (3, 96, 64), (2, 32, 160), (3, 96, 64)]


# Converting takes seconds, and the decoder does not see how many channels the encoder reads.
@pytest.mark.parametrize(("decoder", "channels"), [("fpn", "rgbd"), ("deeplabv3plus", "rgb")])
@torch.inference_mode()
def test_every_shape_gives_what_the_network_gives(
    tiny_config: Config, decoder: str, channels: str
) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    model = tiny_config.model.model_copy(update={"decoder": decoder, "input": channels})
    torch.manual_seed(0)
    network = build_network(model, 13).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as trained: folding them is most of the work
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    forward = OpenVinoPass(convert(network, model.in_channels))
    for batch, height, width in SHAPES:
        image = torch.randn(batch, model.in_channels, height, width)
        for layout in (torch.channels_last, torch.contiguous_format):
            found, expected = forward(image.to(memory_format=layout)), network(image)
            torch.testing.assert_close(found.logits_BChw, expected.logits_BChw, rtol=0, atol=1e-4)
            torch.testing.assert_close(found.depth_Bhw, expected.depth_Bhw, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_it_computes_in_the_precision_of_the_run(
    tiny_config: Config, tmp_path: Path, precision: str
) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    from openvino import properties

    note = BestNote("hash", 0, 1, Normalisation((128.0,) * 3, (64.0,) * 3))
    network = build_network(tiny_config.model, 13).eval()
    save_best(RunDir(tmp_path).best(0), network.state_dict(), note)
    runtime = tiny_config.runtime.model_copy(
        update={"inference": "openvino", "precision": precision}
    )
    config = tiny_config.model_copy(update={"runtime": runtime})
    forward = load_fold(config, RunDir(tmp_path), 0, set_up_device(runtime)).forward
    assert isinstance(forward, OpenVinoPass)
    image = torch.randn(1, 3, 64, 96)
    found, expected = forward(image).logits_BChw, network(image).logits_BChw
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if precision == "fp32" else 0.1)
    (request,) = forward._requests.values()
    asked = request.get_compiled_model().get_property(properties.hint.inference_precision())
    fast = "BF16" in core().get_property("CPU", properties.device.capabilities())
    assert asked.get_type_name() == ("bf16" if fast and precision == "bf16" else "f32")


@torch.inference_mode()
def test_a_pass_and_its_compiled_networks_are_gone_with_the_last_that_holds_it(
    tiny_config: Config,
) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    forward = OpenVinoPass(convert(build_network(tiny_config.model, 13).eval(), 3))
    forward(torch.randn(1, 3, 64, 96))
    held = weakref.ref(forward)
    gc.disable()
    try:
        del forward
        assert held() is None, "a cycle would keep it until the next collection"
    finally:
        gc.enable()


@torch.inference_mode()
def test_a_fold_is_run_by_what_the_config_names(tiny_config: Config, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    note = BestNote("hash", 0, 1, Normalisation((128.0,) * 3, (64.0,) * 3))
    save_best(RunDir(tmp_path).best(0), build_network(tiny_config.model, 13).state_dict(), note)
    runtime = tiny_config.runtime.model_copy(update={"inference": "openvino"})
    config = tiny_config.model_copy(update={"runtime": runtime})
    fold = load_fold(config, RunDir(tmp_path), 0, POLICY)
    assert isinstance(fold.forward, OpenVinoPass)
    image = torch.randn(1, 3, 64, 96)
    found = fold.forward(image).logits_BChw
    expected = load_fold(tiny_config, RunDir(tmp_path), 0, POLICY).forward(image).logits_BChw
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_gpu_is_refused_and_what_to_do_is_said() -> None:
    with pytest.raises(RuntimeError, match=r"runs on the CPU, not on cuda; use --runtime\.inf"):
        check_openvino(torch.device("cuda"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeError, match="pip install openvino"):
        check_openvino(CPU)


SIGNALLED = """
import faulthandler, gc, signal
import torch
from engine.model.network import Prediction
from engine.views.openvino_pass import OpenVinoPass, convert

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 4, stride=4)
    def forward(self, image_BCHW):
        map_BChw = self.conv(image_BCHW)
        return Prediction(map_BChw[:, 1:], map_BChw[:, 0])

faulthandler.enable()  # a stack for signals, as every thread that handles one may have
signal.signal(signal.SIGUSR1, lambda *_: None)
passes = [OpenVinoPass(convert(Network().eval(), 3)) for _ in range(2)]
for number in range(2):
    passes[number](torch.randn(1, 3, 64, 96))
while passes:
    passes.pop(0)
    gc.collect()
    signal.raise_signal(signal.SIGUSR1)
print("alive")
"""


def test_a_signal_is_survived_once_passes_are_gone() -> None:
    """Where there is AMX, OpenVINO sets the stack that signals are handled on, and frees it."""
    pytest.importorskip("openvino", reason="pip install openvino")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
