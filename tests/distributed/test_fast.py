"""training.reduce = "fast": two processes train as one does, but for rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.distributed.fast import rows_of_passes
from engine.distributed.flat import FlatGradients, OverlappedSum
from tests.distributed.ranks import run_ranks
from tests.distributed.thirty import distances, thirty

BOUNDS = {"32": 1e-5, "64": 1e-6}
"""Of the largest difference, by bits. In float32 networks without kinks: with ReLUs one process
ends as far from itself, if its starting weights are rounded otherwise (see `thirty.py`). In float64
what is left are shares, which are float32."""

SOME = [
    ("smooth deeplabv3plus", "32", "lr=1e-4"),
    ("fpn", "64", "lr=1e-3", "accumulate=2", "batch_size=6"),
]
OTHERS = [("smooth fpn", "32", "lr=1e-4"), ("deeplabv3plus", "64", "lr=1e-4")]


@pytest.mark.parametrize("trainings", [SOME, pytest.param(OTHERS, marks=pytest.mark.full)])
def test_after_thirty_steps_weights_are_as_of_one_process(
    trainings: list[tuple[str, ...]], tmp_path: Path
) -> None:
    """With clipping, dropout, uneven parts and parts without a label; so are the averages."""
    torch.set_num_threads(1)
    target, words = "tests.distributed.thirty:one_after_another", map(",".join, trainings)
    ranks = run_ranks(2, target, tmp_path, *words)
    for training, *two in zip(trainings, *ranks, strict=True):
        assert distances(two[0], two[1])[0] == 0, f"{training}: the same bytes in both"
        assert distances(thirty(0, 1, *training), two[0])[0] < BOUNDS[training[1]], training


def test_passes_have_their_share_of_every_part_whoever_has_it() -> None:
    passes = rows_of_passes([3, 2], 2)
    assert [rows.tolist() for rows in passes] == [[0, 3], [1, 2, 4]]
    assert np.concatenate(rows_of_passes([4, 4, 3], 3)).tolist() == sorted(
        range(11), key=lambda row: [0, 1, 2, 2, 0, 1, 2, 2, 0, 1, 2][row]
    )


def test_gradients_lie_in_one_buffer_as_their_parameters_do() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    unused = torch.nn.Parameter(torch.ones(3))
    parameters = [*conv.parameters(), unused]
    x = torch.randn(2, 3, 8, 8)
    conv(x).square().sum().backward()
    plain = [p.grad.clone() for p in conv.parameters() if p.grad is not None]
    gradients = FlatGradients(parameters, tail=2)
    added = OverlappedSum(gradients, None, bucket_bytes=64)
    assert added.buckets == [(0, 1), (1, 2), (2, 3)]
    added.begin()
    conv(x[:1]).square().sum().backward()
    added.last_pass()
    conv(x[1:]).square().sum().backward()
    added.finish()
    found = [p.grad for p in conv.parameters()]
    torch.testing.assert_close(found, plain)
    assert found[0] is not None
    assert found[0].stride() == conv.weight.stride()
    assert unused.grad is None, "an optimiser leaves it as it is"
    own = gradients.flat.untyped_storage().data_ptr()
    assert all(g is not None and g.untyped_storage().data_ptr() == own for g in found)
