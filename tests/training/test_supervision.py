"""The head that only training runs: what it sees, what it adds to the loss, where it is dropped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.cli import load_config
from engine.config import Config, ModelConfig
from engine.mistakes import ConfigError
from engine.model.from_run import load_from_run
from engine.model.network import Network, Prediction, Supervised
from engine.model.state import load_state, read_state
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining
from engine.training.terms import Supervision, cell_labels

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
HEAD = {"auxiliary_head.0.weight", "auxiliary_head.0.bias"}

MakeTask = Callable[..., FoldTask]


def network(**model: Any) -> Network:
    torch.manual_seed(0)
    plain = {"encoder": "test_efficientnet", "weights": "none", "dropout": 0.0}
    sizes = {"pyramid_channels": 8, "segmentation_channels": 32}
    return Network(ModelConfig.model_validate({**plain, **sizes, **model}), 5)


def test_other_weights_start_the_same_and_inference_is_the_same() -> None:
    plain, ours = network(), network(supervision=0.4)
    state, theirs = ours.state_dict(), plain.state_dict()
    assert state.keys() - theirs.keys() == HEAD
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.items())
    image = torch.rand(2, 3, 32, 64)
    found, expected = (each.eval()(image) for each in (ours, plain))
    assert type(found) is Prediction
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert type(plain.train()(image)) is Prediction


def test_in_training_it_sees_the_coarse_part() -> None:
    ours = network(supervision=0.4).train()
    image = torch.rand(2, 3, 32, 64)
    found = ours(image)
    assert isinstance(found, Supervised)
    coarse, _ = ours.train().decoder(ours.encoder(image))
    assert coarse is not None
    assert ours.auxiliary_head is not None
    expected = F.conv2d(coarse, ours.auxiliary_head.conv.weight, ours.auxiliary_head.conv.bias)
    torch.testing.assert_close(found.auxiliary_BCyx, expected, rtol=1e-4, atol=1e-4)
    assert found.auxiliary_BCyx.shape == (2, 5, 4, 8)


def test_its_loss_is_a_weighted_cross_entropy_and_0_without_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 8, generator=generator, requires_grad=True)
    label = torch.randint(0, 5, (2, 32, 64), generator=generator).byte()
    label[torch.rand(label.shape, generator=generator) < 0.3] = 255
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    prediction = Supervised(torch.zeros(2, 5, 8, 16), torch.zeros(2, 8, 16), logits)
    cells = cell_labels(label, (4, 8))
    total = F.cross_entropy(logits, cells.long(), weights, ignore_index=255, reduction="sum")
    found = Supervision(weights)(prediction, labelled(label))
    torch.testing.assert_close(found, total / (cells != 255).sum())
    nothing = Supervision(weights)(prediction, labelled(torch.full_like(label, 255)))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert nothing.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def labelled(label_BHW: Tensor) -> Any:
    """A batch of which labels are looked at only."""
    from engine.data.batch import Batch

    B, H, W = label_BHW.shape
    return Batch(torch.zeros(B, 3, H, W), torch.zeros(B, H, W), label_BHW, torch.arange(B).numpy())


def test_a_fold_trains_it_and_counts_its_loss(make_task: MakeTask) -> None:
    model = {"supervision": 0.4, "dropout": 0.0, "drop_path": 0.0}
    folds = [
        FoldTraining(make_task(model={**model, "supervision": weight}), POLICY, blank=True)
        for weight in (0.0, 0.4)
    ]
    assert folds[0].step.loss.terms == ()
    plain, ours = folds
    ours.learner.network.load_state_dict(plain.learner.network.state_dict(), strict=False)
    before = ours.learner.network.state_dict()["auxiliary_head.0.weight"].clone()
    batch = next(iter(plain.open_source().batches(plain.draws(0, 0))))
    prediction = ours.step.forward(batch.image_BCHW)
    ((weight, term),) = ours.step.loss.terms
    expected = plain.step.loss(prediction, batch).total + 0.4 * term(prediction, batch)
    torch.testing.assert_close(ours.step.loss(prediction, batch).total, expected)
    assert weight == 0.4
    ours.step(batch, 1e-2, 0, 0)
    assert not torch.equal(before, ours.learner.network.state_dict()["auxiliary_head.0.weight"])
    assert ours.learner.ema.network.state_dict().keys() >= HEAD


def test_a_file_may_lack_it_or_have_it_for_nothing(tmp_path: Path) -> None:
    plain, ours = network(), network(supervision=0.4)
    for name, tensor in ours.state_dict().items():
        if tensor.is_floating_point() and name not in HEAD:
            tensor.add_(1)
    for source, target in ((ours, plain), (plain, ours)):
        save_file(source.state_dict(), tmp_path / "network.safetensors")
        assert load_state(target, read_state(tmp_path / "network.safetensors"), "file")
        state = target.state_dict()
        for name, tensor in source.state_dict().items():
            assert name in HEAD or torch.equal(state[name], tensor), name
        for tensor in source.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1)  # for the other way round


def test_a_decoder_without_a_coarse_part_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"type model.supervision=0, or model.decoder=fpn"):
        load_config([], {"model": {"supervision": 0.4, "decoder": "deeplabv3plus"}})


def test_a_run_of_the_same_classes_hands_it_on(
    untrained_run: Callable[..., RunDir], tiny_config: Config, tmp_path: Path
) -> None:
    model = tiny_config.model.model_copy(update={"supervision": 0.4})
    run = untrained_run(tmp_path / "run", 0, tiny_config.model_copy(update={"model": model}))
    theirs, classes = load_file(run.best(0)), tiny_config.data.classes
    started = model.model_copy(update={"weights": f"run:{run.root}#0"})
    for names, same in ((classes, True), (("another", *classes[1:]), False)):
        ours = Network(model, len(names))
        load_from_run(ours, started, names)
        assert (
            torch.equal(
                ours.state_dict()["auxiliary_head.0.weight"], theirs["auxiliary_head.0.weight"]
            )
            == same
        )
        assert torch.equal(ours.state_dict()["decoder.p5.weight"], theirs["decoder.p5.weight"])
