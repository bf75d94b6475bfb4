"""Free and total memory, on a machine and in a container; what a pass takes of it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.config import Config
from engine.model.network import build_network
from engine.runtime import device, memory
from engine.runtime.device import total_bytes
from engine.runtime.memory import MOST_A_PIXEL, pass_bytes, pass_pixels, release_free_bytes

CPU = torch.device("cpu")
PIXELS = 128 * 128


def test_what_is_free_is_a_part_of_all() -> None:
    assert 0 < release_free_bytes(CPU) <= total_bytes(CPU)


def test_a_containers_limit_counts_and_its_files_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n", encoding="ascii")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    for module in (device, memory):
        monkeypatch.setattr(module, "CGROUP", tmp_path)
    assert release_free_bytes(CPU) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert release_free_bytes(CPU) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("2900000\n", encoding="ascii")
    stat = "anon 1000000\ninactive_file 1500000\nactive_file 400000\n"
    (tmp_path / "memory.stat").write_text(stat, encoding="ascii")
    assert release_free_bytes(CPU) == 2_000_000
    assert total_bytes(CPU) == 3_000_000


def test_a_pass_takes_its_input_and_what_one_layer_reads_and_writes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    assert pass_bytes(network, 3) == 4 * PIXELS * (3 + 8 + 4)


def test_what_is_kept_for_later_counts_and_weights_do_not() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(10_000, 1_000)  # 40 MB that no pass makes
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            kept = self.first(image)
            total: torch.Tensor = self.second(self.second(kept)) + kept
            return total

    # Of the three layers of eight: what is kept, and two that follow each other; then their sum.
    assert pass_bytes(Skip(), 3) == 4 * PIXELS * (3 + 3 * 8)


def test_the_network_itself_is_neither_changed_nor_moved(tiny_config: Config) -> None:
    network = build_network(tiny_config.model, 13, initial_weights=False).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert pass_bytes(network, 3) > 4 * PIXELS * 3
    assert network.training
    for key, value in network.state_dict().items():
        assert value.device == CPU
        assert torch.equal(value, before[key])


def test_the_room_shrinks_with_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    count = partial(pass_bytes, nn.Conv2d(3, 4, 1), 3)
    monkeypatch.setattr(memory, "release_free_bytes", lambda _: 1 << 30)
    some = pass_pixels(count, CPU, 0.0, 10**9)
    # Half of it, by twice what input and output hold.
    assert some == (1 << 29) / (2 * 4 * (3 + 4))
    monkeypatch.setattr(memory, "release_free_bytes", lambda _: 1 << 28)
    assert pass_pixels(count, CPU, 0.0, 10**9) == some / 4
    assert pass_pixels(count, CPU, 0.0625, 10**9) == some / 8


def test_nothing_is_counted_where_any_network_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count() -> int:
        counted.append(1)
        return MOST_A_PIXEL * PIXELS

    monkeypatch.setattr(memory, "release_free_bytes", lambda _: 4 * MOST_A_PIXEL * PIXELS)
    assert pass_pixels(count, CPU, 0.0, PIXELS) == PIXELS
    assert not counted
    # A network that takes as much as any has room for no more.
    assert pass_pixels(count, CPU, 0.0, PIXELS + 1) == PIXELS
    assert counted
