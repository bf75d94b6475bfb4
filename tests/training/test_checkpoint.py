"""What a checkpoint holds comes back exactly; what is damaged or foreign is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from engine.rundir import RunDir
from engine.training.checkpoint import (
    Position,
    load_last,
    read_metrics,
    restore,
    save_best,
    save_last,
    write_metrics,
)
from engine.training.ema import Ema


def make(seed: int = 0) -> tuple[nn.Module, Ema, torch.optim.AdamW]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    network.to(memory_format=torch.channels_last)
    ema = Ema(network, 0.9, warmup=False)
    return network, ema, torch.optim.AdamW(network.parameters(), lr=1e-2, fused=True)


def train(network: nn.Module, ema: Ema, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        network(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)


def save(run: RunDir, parts: tuple[nn.Module, Ema, torch.optim.AdamW]) -> None:
    network, ema, optimizer = parts
    sums = torch.arange(4, dtype=torch.float64)
    save_last(run, 3, Position(5, 7, 1.5), network, ema, optimizer, sums, "hash")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_fold_that_was_never_saved_has_no_state(run: RunDir) -> None:
    assert load_last(run, 0, "hash") is None


def test_a_restored_state_goes_on_exactly_as_the_saved_one(run: RunDir) -> None:
    parts, others = make(0), make(1)
    train(*parts, range(3))
    save(run, parts)
    state = load_last(run, 3, "hash")
    assert state is not None
    assert restore(state, *others) == Position(5, 7, 1.5)
    assert state["sums"].tolist() == [0, 1, 2, 3]
    for continued in (parts, others):
        train(*continued, range(3, 6))
    for ours, theirs in ((parts[0], others[0]), (parts[1].network, others[1].network)):
        for key, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[key], value), key
            assert theirs.state_dict()[key].stride() == value.stride(), key


def test_going_on_after_a_load_leaves_the_file_as_it_was(run: RunDir) -> None:
    parts = make()
    train(*parts, range(2))
    save(run, parts)
    before = run.last(3).read_bytes()
    state = load_last(run, 3, "hash")
    assert state is not None
    restore(state, *parts)
    train(*parts, range(2, 4))
    assert run.last(3).read_bytes() == before


def test_another_configs_state_is_refused(run: RunDir) -> None:
    save(run, make())
    with pytest.raises(
        RuntimeError, match=r"last\.pt was written by another config.*delete .*fold3"
    ):
        load_last(run, 3, "other")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle"])
def test_a_damaged_state_is_one_error_that_names_the_file(damage: str, run: RunDir) -> None:
    save(run, make())
    path = run.last(3)
    if damage == "pickle":
        torch.save({"config_hash": Path}, path)  # weights_only must refuse what is not a tensor
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:1000], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(RuntimeError, match=r"fold3/last\.pt cannot be read"):
        load_last(run, 3, "hash")


def test_best_weights_are_contiguous_readable_by_others_and_carry_their_origin(run: RunDir) -> None:
    network = make()[0]
    origin = {"epoch": "4", "fold": "0", "config_hash": "hash"}
    save_best(run.best(0), network, origin)
    (run.root / "plain").touch()
    assert run.best(0).stat().st_mode == (run.root / "plain").stat().st_mode
    with safe_open(run.best(0), framework="pt") as file:
        assert json.loads(file.metadata()["roomsmith"]) == origin
        assert set(file.keys()) == set(network.state_dict())
        for key, value in network.state_dict().items():
            assert torch.equal(file.get_tensor(key), value)


def test_best_weights_are_the_same_bytes_each_time(run: RunDir) -> None:
    network = make()[0]
    for fold in range(8):
        # safetensors shuffles what it has to order by itself, so one copy would not tell.
        save_best(run.best(fold), network, {name: name for name in "abcdefgh"})
    assert len({run.best(fold).read_bytes() for fold in range(8)}) == 1


def test_metrics_behind_the_checkpoint_are_read_and_later_lines_are_not(run: RunDir) -> None:
    lines = [{"epoch": epoch, "loss": epoch / 3} for epoch in (1, 2, 3)]
    write_metrics(run.metrics(0), lines)
    assert read_metrics(run.metrics(0), 3) == lines
    assert read_metrics(run.metrics(0), 2) == lines[:2]
    text = run.metrics(0).read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == lines


def test_no_epoch_needs_no_metrics_file(run: RunDir) -> None:
    assert read_metrics(run.metrics(0), 0) == []


def test_metrics_refuse_a_number_that_json_lacks(run: RunDir) -> None:
    write_metrics(run.metrics(0), [{"loss": 1.0}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(run.metrics(0), [{"loss": float("inf")}])
    assert read_metrics(run.metrics(0), 1) == [{"loss": 1.0}]
