"""What a checkpoint holds comes back exactly; what is damaged or foreign is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from engine.config import Config
from engine.damage import DamageError
from engine.data.inputs import Normalisation, read_normalisation
from engine.model.network import build_network
from engine.rundir import RunDir
from engine.runtime.graphs import EAGER_CALLS, Replayed
from engine.sums import sum_file
from engine.training.checkpoint import (
    checkpoint_of,
    load_last,
    read_metrics,
    save_best,
    save_last,
    write_metrics,
)
from engine.training.records import BestNote, EpochLine, Position
from engine.training.starts import restore
from engine.training.step import Ema, EpochSums, Learner, make_optimizer

NORMALISATION = Normalisation((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def make(config: Config, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    network = build_network(config.model, 13).train()
    return Learner(
        network,
        Ema(network, 0.9, warmup=False),
        make_optimizer(network, config.training),
        EpochSums(torch.device("cpu")),
    )


def train(learner: Learner, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        logits, depth = learner.network(torch.randn(2, 3, 32, 32))
        (logits.square().mean() + depth.square().mean()).backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        learner.ema.update(step)


def save(path: Path, learner: Learner) -> None:
    learner.sums.sums.copy_(torch.arange(4))
    save_last(path, checkpoint_of("hash", Position(5, 7, 1.5), learner))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def last(run: RunDir) -> Path:
    return run.last(3)


def test_a_fold_that_was_never_saved_has_no_state(last: Path) -> None:
    assert load_last(last, "hash") is None


def test_a_restored_state_goes_on_exactly_as_the_saved_one(tiny_config: Config, last: Path) -> None:
    ours, theirs = make(tiny_config, 0), make(tiny_config, 1)
    train(ours, range(3))
    save(last, ours)
    saved = load_last(last, "hash")
    assert saved is not None
    assert saved.position == Position(5, 7, 1.5)
    restore(saved, theirs)
    assert theirs.sums.sums.tolist() == [0, 1, 2, 3]
    for continued in (ours, theirs):
        train(continued, range(3, 6))
    for one, other in ((ours.network, theirs.network), (ours.ema.network, theirs.ema.network)):
        for key, value in one.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key
            assert other.state_dict()[key].stride() == value.stride(), key


@pytest.mark.parametrize("fused", [True, False])
def test_a_state_of_another_device_goes_on_with_the_settings_of_this_one(
    fused: bool, tiny_config: Config, last: Path
) -> None:
    # As a CPU saves it; step counts of an optimiser that is not fused are on the CPU in any case.
    ours = make(tiny_config)
    ours.optimizer = torch.optim.AdamW(ours.network.parameters(), fused=fused, foreach=False)
    train(ours, range(2))
    save(last, ours)
    saved = load_last(last, "hash")
    assert saved is not None
    # The meta device stands for a GPU, where a recorded step needs all of these.
    theirs, rate = make(tiny_config), torch.tensor(0.5)
    there = [torch.empty_like(part, device="meta") for part in theirs.network.parameters()]
    gpu = torch.optim.AdamW(there, lr=rate, foreach=True, fused=False, capturable=True)
    theirs.optimizer = gpu
    restore(saved, theirs)
    (group,) = gpu.param_groups
    assert (group["capturable"], group["foreach"], group["fused"]) == (True, True, False)
    assert group["lr"] is rate
    assert group["weight_decay"] == ours.optimizer.param_groups[0]["weight_decay"]
    assert gpu.state
    for state in gpu.state.values():
        assert {value.device.type for value in state.values()} == {"meta"}
        assert state["step"].dtype == torch.float32


@pytest.mark.gpu
def test_a_cpu_run_goes_on_on_a_gpu_in_a_recorded_step(tiny_config: Config, last: Path) -> None:
    ours = make(tiny_config)
    train(ours, range(2))
    save(last, ours)
    saved = load_last(last, "hash")
    assert saved is not None
    torch.manual_seed(1)
    network = build_network(tiny_config.model, 13).to("cuda").train()
    average, optimizer = (
        Ema(network, 0.9, warmup=False),
        make_optimizer(network, tiny_config.training),
    )
    learner = Learner(network, average, optimizer, EpochSums(torch.device("cuda")))
    restore(saved, learner)

    def step() -> torch.Tensor:
        loss: torch.Tensor = network(torch.ones(2, 3, 32, 32, device="cuda")).logits_BChw.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    recorded = Replayed(step)
    for _ in range(EAGER_CALLS + 2):
        recorded()
    steps = {float(state["step"]) for state in optimizer.state.values()}
    assert steps == {2.0 + EAGER_CALLS + 2}


def test_going_on_after_a_load_leaves_the_file_as_it_was(tiny_config: Config, last: Path) -> None:
    learner = make(tiny_config)
    train(learner, range(2))
    save(last, learner)
    before = last.read_bytes()
    saved = load_last(last, "hash")
    assert saved is not None
    restore(saved, learner)
    train(learner, range(2, 4))
    assert last.read_bytes() == before


def test_another_configs_state_is_refused(tiny_config: Config, last: Path) -> None:
    save(last, make(tiny_config))
    with pytest.raises(
        RuntimeError, match=r"last\.pt was written by another config.*which leaves what was"
    ):
        load_last(last, "other")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle"])
def test_a_damaged_state_is_one_error_that_names_the_file(
    damage: str, tiny_config: Config, last: Path
) -> None:
    save(last, make(tiny_config))
    sum_file(last).unlink()  # an earlier release left none
    if damage == "pickle":
        torch.save({"config_hash": Path}, last)  # weights_only must refuse what is not a tensor
    else:
        whole = last.read_bytes()
        last.write_bytes({"truncated": whole[:1000], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(DamageError, match=r"fold3/last\.pt is damaged: it cannot be read .*delete"):
        load_last(last, "hash")


def test_a_flipped_bit_of_a_state_is_found_before_it_is_used(
    tiny_config: Config, last: Path
) -> None:
    save(last, make(tiny_config))
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.write_bytes(content)
    assert torch.load(last, weights_only=True), "torch itself finds nothing"
    with pytest.raises(DamageError, match=r"fold3/last\.pt is damaged: bytes .* first step"):
        load_last(last, "hash")


def test_best_weights_are_contiguous_readable_by_others_and_carry_their_origin(
    tiny_config: Config, run: RunDir
) -> None:
    network = make(tiny_config).network
    save_best(run.best(0), network.state_dict(), BestNote("hash", 0, 4, NORMALISATION))
    (run.root / "plain").touch()
    assert run.best(0).stat().st_mode == (run.root / "plain").stat().st_mode
    with safe_open(run.best(0), framework="pt") as file:
        assert json.loads(file.metadata()["roomsmith"]) == {
            "config_hash": "hash",
            "fold": "0",
            "epoch": "4",
            "mean": [1.0, 2.0, 3.0],
            "std": [4.0, 5.0, 6.0],
        }
        assert set(file.keys()) == set(network.state_dict())
        for key, value in network.state_dict().items():
            assert torch.equal(file.get_tensor(key), value)
    assert read_normalisation(run.best(0)) == NORMALISATION


def test_best_weights_are_the_same_bytes_each_time(tiny_config: Config, run: RunDir) -> None:
    network = make(tiny_config).network
    for fold in range(8):
        # safetensors shuffles what it has to order by itself, so one copy would not tell.
        save_best(run.best(fold), network.state_dict(), BestNote("hash", 0, 4, NORMALISATION))
    assert len({run.best(fold).read_bytes() for fold in range(8)}) == 1


def line_of(epoch: int, loss: float) -> EpochLine:
    return EpochLine(epoch=epoch, loss=loss, train_s=1.5, validation_s=0.25)


def test_metrics_behind_the_checkpoint_are_read_and_later_lines_are_not(run: RunDir) -> None:
    lines = [line_of(epoch, epoch / 3) for epoch in (1, 2, 3)]
    write_metrics(run.metrics(0), lines)
    assert read_metrics(run.metrics(0), 3) == lines
    assert read_metrics(run.metrics(0), 2) == lines[:2]
    text = run.metrics(0).read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"epoch": epoch, "loss": epoch / 3, "train_s": 1.5, "validation_s": 0.25}
        for epoch in (1, 2, 3)
    ]


@pytest.mark.parametrize("damage", ['{"epoch": 2, "tr', "[]", '{"epoch": 2}'])
def test_a_damaged_line_of_metrics_is_an_error_that_names_the_file(
    damage: str, run: RunDir
) -> None:
    write_metrics(run.metrics(0), [line_of(1, 0.5)])
    with run.metrics(0).open("a", encoding="utf-8") as file:
        file.write(f"{damage}\n")
    with pytest.raises(ValueError, match=r"fold0/metrics\.jsonl is damaged .*\(line 2, "):
        read_metrics(run.metrics(0), 2)
    assert read_metrics(run.metrics(0), 1) == [line_of(1, 0.5)]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [("0.25", "9.25", "bytes 0 to"), ("\n", "", "it tells of 1 epochs, 2 were trained")],
)
def test_metrics_that_say_something_else_are_damaged(
    old: str, new: str, told: str, run: RunDir
) -> None:
    write_metrics(run.metrics(0), [line_of(1, 0.5)])
    text = run.metrics(0).read_text(encoding="utf-8")
    run.metrics(0).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DamageError, match=rf"metrics\.jsonl is damaged: {told}.*delete .*fold0"):
        read_metrics(run.metrics(0), 1 if old == "0.25" else 2)


def test_no_epoch_needs_no_metrics_file(run: RunDir) -> None:
    assert read_metrics(run.metrics(0), 0) == []


def test_metrics_refuse_a_number_that_json_lacks(run: RunDir) -> None:
    write_metrics(run.metrics(0), [line_of(1, 1.0)])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(run.metrics(0), [line_of(1, float("inf"))])
    assert read_metrics(run.metrics(0), 1) == [line_of(1, 1.0)]
