"""What a pass takes, and how many images fit."""

import pytest
import torch
from torch import nn

from engine.config import Config
from engine.model.network import build_network
from engine.views import pass_memory as module
from engine.views.pass_memory import Room, pass_bytes

CPU = torch.device("cpu")
PIXELS = 128 * 128


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


def test_an_image_four_times_as_large_fits_a_quarter_as_often() -> None:
    room = Room(free=16e6, pixel_bytes=10.0)
    assert room.images((200, 400)) == 20
    assert room.images((400, 800)) == 5


def test_one_image_is_tried_even_if_nothing_is_free() -> None:
    assert Room(free=0.0, pixel_bytes=300.0).images((480, 640)) == 1


def test_the_room_shrinks_with_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv2d(3, 4, 1)
    monkeypatch.setattr(module, "free_bytes", lambda _: 1 << 30)
    some = Room.of(network, 3, CPU)
    monkeypatch.setattr(module, "free_bytes", lambda _: 1 << 28)
    assert Room.of(network, 3, CPU).images((480, 640)) == some.images((480, 640)) // 4
