"""However many networks look at frames, their recordings take the memory of one."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.runtime.device import DevicePolicy, choose_operations
from engine.runtime.graphs import EAGER_CALLS, Replayed

CPU = torch.device("cpu")

Pass = Callable[[Tensor], Tensor]


def policy_on(device: torch.device) -> DevicePolicy:
    return DevicePolicy(device, None, False, choose_operations("fused", device), replay=True)


class _Graph:
    def replay(self) -> None:
        pass


class _Stream:
    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Pool and stream of each recording that is made."""
    made: list[tuple[Any, Any]] = []
    handles = iter(range(100))

    @contextmanager
    def graph(_: Any, pool: Any = None, stream: Any = None, **__: Any) -> Iterator[None]:
        made.append((pool, stream))
        yield

    stand_ins: dict[str, Callable[..., Any]] = {
        "Stream": _Stream,
        "CUDAGraph": _Graph,
        "current_device": lambda: 0,
        "current_stream": _Stream,
        "graph": graph,
        "graph_pool_handle": lambda: next(handles),
        "stream": lambda _: nullcontext(),
        "synchronize": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made


def record(policy: DevicePolicy, networks: int) -> list[Callable[[Tensor], Any]]:
    passes = [policy.evaluation(nn.Identity()) for _ in range(networks)]
    for call in passes:
        for size in (3, 5):
            for _ in range(EAGER_CALLS + 1):
                call(torch.ones(size))
    return passes


def test_all_networks_record_into_one_pool_on_one_stream(recorded: list[tuple[Any, Any]]) -> None:
    passes = record(policy_on(CPU), 5)
    passes += record(policy_on(CPU), 1)  # of another predictor, while the first lives
    assert len(passes) == 6
    assert len(recorded) == 12
    assert len({(pool, id(stream)) for pool, stream in recorded}) == 1


def test_a_step_keeps_its_memory_to_itself(recorded: list[tuple[Any, Any]]) -> None:
    policy = policy_on(CPU)
    passes = record(policy, 1)
    step = Replayed(lambda x: x)
    for _ in range(EAGER_CALLS + 1):
        step(torch.ones(3))
    assert len(passes) == 1
    assert recorded[0][0] != recorded[-1][0]
    assert recorded[0][1] is not recorded[-1][1]


def test_a_pool_whose_recordings_are_gone_takes_no_more(recorded: list[tuple[Any, Any]]) -> None:
    policy = policy_on(CPU)
    for _ in range(2):
        passes = record(policy, 2)
        del passes
        gc.collect()
    assert recorded[0][0] == recorded[3][0] != recorded[4][0]


@pytest.mark.gpu
def test_five_networks_take_little_more_memory_than_one_and_give_what_they_gave() -> None:
    device = torch.device("cuda")

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers = [nn.Conv2d(width, 64, 3, padding=1) for width in (3, 64, 64)]
        return nn.Sequential(*layers, nn.Conv2d(64, 1, 1), nn.AvgPool2d(4)).to(device).eval()

    def assert_equal(passes: list[Pass], x: Tensor, row: list[Tensor]) -> None:
        for call, wanted in zip(passes, row, strict=False):  # used up before the next call
            torch.testing.assert_close(call(x), wanted)

    def held() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(device)

    networks = [network(seed) for seed in range(5)]
    images = [torch.randn(4, 3, side, 512, device=device) for side in (256, 512)]
    policy, taken = policy_on(device), []
    with torch.inference_mode():
        expected = [[network(image) for network in networks] for image in images]
        passes: list[Pass] = []
        for network_ in networks:
            passes.append(policy.evaluation(network_))
            before = held()
            for _ in range(EAGER_CALLS + 2):
                for image, row in zip(images, expected, strict=True):
                    assert_equal(passes, image, row)
            taken.append(held() - before)
    # Inputs and outputs of their own, no activations.
    assert max(taken[1:]) < taken[0] / 4
    del passes
    gc.collect()
    again = policy.evaluation(networks[0])
    with torch.inference_mode():
        for _ in range(EAGER_CALLS + 2):
            torch.testing.assert_close(again(images[0]), expected[0][0])
