"""What is chosen of a GPU, on a stand-in for one, and that a CPU is left alone."""

import logging
import os

import pytest
import torch

from engine.config import RuntimeConfig
from engine.runtime import device
from engine.runtime.device import DevicePolicy, set_up_device


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine that has GPUs; the devices that were made the thread's own."""
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unset")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    return devices


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda:1', but torch finds no GPU; use cpu or auto"):
        set_up_device(RuntimeConfig(device="cuda:1"))


def test_a_gpu_beyond_the_last_is_refused(chosen: list[torch.device]) -> None:
    with pytest.raises(ValueError, match=r"'cuda:9', but the last of 2 GPUs is cuda:1; use one"):
        set_up_device(RuntimeConfig(device="cuda:9"))
    assert chosen == []


def test_a_device_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runtime\.device = 'abacus': .*; use auto, cpu or cuda"):
        set_up_device(RuntimeConfig(device="abacus"))


def test_the_gpu_that_is_named_becomes_the_threads_own(chosen: list[torch.device]) -> None:
    policy = set_up_device(RuntimeConfig(device="cuda:1"))
    assert chosen == [policy.device] == [torch.device("cuda:1")]


def test_without_a_number_it_is_the_one_that_is_current(chosen: list[torch.device]) -> None:
    assert set_up_device(RuntimeConfig(device="cuda")).device == torch.device("cuda")
    assert set_up_device(RuntimeConfig()).device == torch.device("cuda")
    assert chosen == []  # torch refuses a device without a number there


def test_a_gpu_is_deterministic_if_asked(
    chosen: list[torch.device], caplog: pytest.LogCaptureFixture
) -> None:
    assert not set_up_device(RuntimeConfig(device="cuda:0")).deterministic
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with caplog.at_level(logging.INFO, logger="engine"):
        policy = set_up_device(RuntimeConfig(device="cuda:0", deterministic=True))
    assert policy.deterministic
    assert "gradients deterministic: asked for" in caplog.text
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert len(chosen) == 2


def test_a_cpu_has_nothing_to_do_for_it() -> None:
    plain = set_up_device(RuntimeConfig(device="cpu"))
    assert set_up_device(RuntimeConfig(device="cpu", deterministic=True)) == plain
    assert not torch.backends.cudnn.benchmark


def test_what_is_replayed_is_compiled_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def compile_(network: object, **_: object) -> object:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("engine.runtime.device.replayed_pass", lambda function: function)
    operations = set_up_device(RuntimeConfig(device="cpu")).operations
    cpu = torch.device("cpu")
    DevicePolicy(cpu, None, compile=True, operations=operations, replay=True).evaluation(abs)
    assert compiled == []
    DevicePolicy(cpu, None, compile=True, operations=operations).evaluation(abs)
    assert compiled == [abs]


@pytest.mark.parametrize(
    ("device", "autocast", "asked"),
    [
        ("cuda", torch.bfloat16, torch.bfloat16),
        ("cuda", None, torch.float32),
        ("cpu", torch.bfloat16, torch.float32),  # whose results are the same bytes as ever
    ],
)
def test_a_networks_input_is_rounded_where_a_gpu_would_round_it(
    device: str, autocast: torch.dtype | None, asked: torch.dtype
) -> None:
    operations = set_up_device(RuntimeConfig(device="cpu")).operations
    policy = DevicePolicy(torch.device(device), autocast, compile=False, operations=operations)
    assert policy.input_dtype == asked


def test_an_eager_network_on_a_cpu_trains_in_layers_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert set_up_device(RuntimeConfig(device="cpu")).own_layers
    others: list[dict[str, str]] = [
        {"layers": "torch"},
        {"compile": "on"},
        {"kernels": "reference"},
    ]
    for other in others:
        config = RuntimeConfig.model_validate({"device": "cpu", **other})
        assert not set_up_device(config).own_layers
    # A fold that began on a CPU may go on elsewhere.
    with caplog.at_level(logging.INFO, logger="engine"):
        policy = set_up_device(RuntimeConfig(device="cpu", layers="fused", compile="on"))
    assert not policy.own_layers
    assert "layers by PyTorch: ours are for an eager network on a CPU" in caplog.text


@pytest.mark.parametrize(("precision", "fast"), [("bf16", False), ("bf16", True), ("fp32", False)])
def test_bfloat16_on_a_processor_without_it_is_warned_of(
    precision: str, fast: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "multiplies_bf16", lambda: fast)
    set_up_device(RuntimeConfig.model_validate({"device": "cpu", "precision": precision}))
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    expected = "no instructions for bfloat16" if precision == "bf16" and not fast else ""
    assert len(warned) == bool(expected)
    assert all(expected in line and "--runtime.precision fp32" in line for line in warned)


def test_no_processor_that_has_bfloat16_is_said_to_lack_it() -> None:
    assert device.multiplies_bf16() or not torch.cpu._is_avx512_bf16_supported()
