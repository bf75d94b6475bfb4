"""A deterministic step on a GPU uses nothing that PyTorch calls nondeterministic there.

No GPU is needed: the step runs on fake tensors, which have the shapes and the device, but no
values. Autograd cannot run its backward passes on a device that is not there, so these are told by
the names in the graph that it built.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import Config, ModelConfig
from engine.data.batch import Batch
from engine.model.network import Network
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import Ema, EpochSums, Learner, TrainingLoss, TrainStep

GPU = torch.device("cuda:0")

DECODERS = ("fpn", "deeplabv3plus")

# What `torch.use_deterministic_algorithms` says "will throw a RuntimeError" when it is on, by the
# name that stands there; operations of forward passes, and the class of a backward pass, which
# autograd's graph names with a number behind it.
REFUSED = {
    "nn.AvgPool3d": "AvgPool3DBackward",
    "nn.AdaptiveAvgPool2d": "AdaptiveAvgPool2DBackward",
    "nn.AdaptiveAvgPool3d": "AdaptiveAvgPool3DBackward",
    "nn.AdaptiveMaxPool2d": "AdaptiveMaxPool2DBackward",
    "nn.FractionalMaxPool2d": "FractionalMaxPool2DBackward",
    "nn.FractionalMaxPool3d": "FractionalMaxPool3DBackward",
    "nn.MaxUnpool1d": "max_unpool2d",
    "nn.MaxUnpool2d": "max_unpool2d",
    "nn.MaxUnpool3d": "max_unpool3d",
    "nn.functional.interpolate": "UpsampleLinear1DBackward UpsampleBilinear2DBackward "
    "UpsampleBilinear2DAaBackward UpsampleBicubic2DBackward UpsampleBicubic2DAaBackward "
    "UpsampleTrilinear3DBackward",
    "nn.ReflectionPad1d": "ReflectionPad1DBackward",
    "nn.ReflectionPad2d": "ReflectionPad2DBackward",
    "nn.ReflectionPad3d": "ReflectionPad3DBackward",
    "nn.NLLLoss": "nll_loss_forward nll_loss2d_forward",
    "nn.CTCLoss": "CtcLossBackward",
    "nn.EmbeddingBag": "EmbeddingBagBackward",
    "Tensor.put_": "put_",
    "histc": "histc",
    "bincount": "bincount",
    "median": "median nanmedian",
    "nn.functional.grid_sample": "GridSampler2DBackward GridSampler3DBackward",
    "Tensor.scatter_reduce": "scatter_reduce scatter_reduce_",
    "Tensor.resize_": "resize_",
    # Of older releases; PyTorch has a deterministic form of these today.
    "Tensor.kthvalue": "kthvalue",
    "kthvalue": "kthvalue",
    "nn.MaxPool3d": "MaxPool3DWithIndicesBackward",
    "cumsum": "cumsum",
}


class Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.partition("::")[2])
        # Fake tensors know of no fused update; it changes its arguments and returns nothing.
        return None if "_fused_adamw_" in str(func) else func(*args, **(kwargs or {}))


def nodes(loss: Tensor) -> set[str]:
    """The backward passes of a graph, without their numbers."""
    found, todo = {loss.grad_fn}, [loss.grad_fn]
    while todo:
        node = todo.pop()
        assert node is not None
        new = {after for after, _ in node.next_functions if after is not None} - found
        found |= new
        todo += new
    return {node.name().rstrip("0123456789") for node in found if node is not None}


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors without values on a GPU that is not there, which autocast takes for one with bf16."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def used(config: ModelConfig, monkeypatch: pytest.MonkeyPatch, *, deterministic: bool) -> set[str]:
    """Names of all that a step on the fake GPU uses, forward and backward."""
    found: set[str] = set()

    def make(_: Network | None = None) -> Network:
        # Built without values where autograd needs none, then on the fake GPU: some encoders
        # compute while they are built, which fake tensors cannot.
        with unset_fake_temporarily(), torch.device("meta"):
            made = Network(config, 13)
        for module in made.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=GPU))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device=GPU)
        return made

    network = make().train()
    parameters = list(network.parameters())

    def backward(loss: Tensor) -> None:
        found.update(nodes(loss))
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    # A copy of a fake tensor reads memory that it does not have.
    monkeypatch.setattr("engine.training.step.copy", SimpleNamespace(deepcopy=make))
    training = Config().training.model_copy(update={"clip_norm": 1.0})
    # Not `make_optimizer`: AdamW compares its learning rate, and that of a fake one cannot be.
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True, capturable=True)
    for group in optimizer.param_groups:
        group["lr"] = torch.empty((), device=GPU)
    learner = Learner(network, Ema(network, 0.9, warmup=False), optimizer, EpochSums(GPU))
    policy = DevicePolicy(
        GPU,
        torch.bfloat16,
        compile=False,
        operations=choose_operations("fused", GPU),
        deterministic=deterministic,
    )
    loss = TrainingLoss(training, torch.empty(13, device=GPU), policy.operations)
    image = torch.empty(4, config.in_channels, 64, 96, device=GPU)
    depth = torch.empty(4, 64, 96, device=GPU)
    label = torch.empty(4, 64, 96, dtype=torch.uint8, device=GPU)
    step = TrainStep(learner, loss, policy, 0)
    with Names() as dispatched:
        batch = Batch(image.to(memory_format=torch.channels_last), depth, label, np.arange(4))
        step(batch, 1e-2, 0, 0)
    found |= dispatched.names
    return found


def model(decoder: str, encoder: str) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "encoder": encoder,
            "weights": "none",
            "decoder": decoder,
            "input": "rgbd",
            "pyramid_channels": 8,
            "segmentation_channels": 32,
            "aspp_channels": 8,
            "drop_path": 0.1,
        }
    )


# The published experiments' encoder, and the README's.
@pytest.mark.parametrize("encoder", ["convnext_atto", "efficientnet_lite0"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.usefixtures("fake_gpu")
def test_a_deterministic_step_uses_nothing_that_is_not(
    decoder: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = used(model(decoder, encoder), monkeypatch, deterministic=True)
    refused = {name for names in REFUSED.values() for name in names.split()}
    assert names & refused == set()
    # In the place of upsampling PyTorch itself would take one index for each pixel, and sort them.
    assert [name for name in names if "Index" in name] == []
    assert {"GatheredBackward", "ConvolutionBackward", "boundary_ce", "_fused_adamw_"} <= names


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.usefixtures("fake_gpu")
def test_any_other_step_uses_pytorchs_upsampling(
    decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = used(model(decoder, "test_efficientnet"), monkeypatch, deterministic=False)
    assert "UpsampleBilinear2DBackward" in names
    assert "GatheredBackward" not in names


def test_what_pytorch_says_is_not_deterministic_is_known_here() -> None:
    text = torch.use_deterministic_algorithms.__doc__ or ""
    _, _, refused = text.partition("operations will throw a\n")
    said = re.findall(r"\* :(?:class|func):`torch\.([\w.]+)`", refused)
    assert len(said) > 20
    assert set(said) <= set(REFUSED)


def test_on_a_cpu_a_fold_is_trained_to_the_same_bytes(
    make_task: Any, read_run: Any, tmp_path: Any
) -> None:
    ends = []
    for asked in (False, True):
        task: FoldTask = make_task(runtime={"deterministic": asked})
        cpu = torch.device("cpu")
        policy = DevicePolicy(
            cpu,
            None,
            compile=False,
            operations=choose_operations("fused", cpu),
            # As `set_up_device` has it, and then as it never is, for the kernels themselves.
            deterministic=asked,
        )
        FoldTraining(task, policy).run()
        ends.append(read_run(task.run.fold(1)))
        task.run.fold(1).rename(tmp_path / str(asked))
    assert ends[0] == ends[1]


@pytest.mark.gpu
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_on_a_gpu_equal_steps_leave_equal_bytes(
    decoder: str, graphs: str, tiny_config: Config
) -> None:
    from engine.model.network import build_network
    from engine.runtime.device import set_up_device
    from engine.training.step import class_weights, make_optimizer

    runtime = tiny_config.runtime.model_copy(
        update={"device": "cuda", "cuda_graphs": graphs, "deterministic": True}
    )
    policy, training = set_up_device(runtime), tiny_config.training
    config = tiny_config.model.model_copy(update={"decoder": decoder, "aspp_channels": 8})
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_network(config, 13).to(policy.device).train()
        ema = Ema(network, training.ema_decay, warmup=False)
        optimizer = make_optimizer(network, training)
        learner = Learner(network, ema, optimizer, EpochSums(policy.device))
        weights_C = class_weights(training, tiny_config.data.classes, policy.device)
        step = TrainStep(learner, TrainingLoss(training, weights_C, policy.operations), policy, 0)
        for number in range(8):
            generator = torch.Generator().manual_seed(number)
            image = torch.randn(4, 3, 96, 128, generator=generator)
            depth = 5 * torch.rand(4, 96, 128, generator=generator)
            label = torch.randint(0, 13, (4, 96, 128), generator=generator).byte()
            image = image.to(policy.device, memory_format=torch.channels_last)
            batch = Batch(image, depth.to(policy.device), label.to(policy.device), np.arange(4))
            step(batch, 1e-2, number, number)
        ends.append({"losses": learner.sums.sums, **learner.ema.network.state_dict()})
    first, again = ends
    assert [key for key in first if not torch.equal(first[key], again[key])] == []
