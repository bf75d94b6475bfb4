"""An optimiser and an average that processes share leave the bytes of those that they do not."""

import io
from typing import Any

import pytest
import torch

from tests.distributed.ranks import run_ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two processes found, by how they reduce."""
    folder, target = tmp_path_factory.mktemp("ranks"), "tests.distributed.sharing:of_each"
    return run_ranks(2, target, folder, "tree", "fast")


@pytest.mark.parametrize("reduce", ["tree", "fast"])
def test_what_is_kept_by_one_process_has_the_bytes_of_what_all_keep(
    reduce: str, trained: list[Any]
) -> None:
    """The sharded one begins in the middle, from a checkpoint of the whole one."""
    ranks = [found[reduce] for found in trained]
    whole, sharded = ranks[0]["whole"], ranks[0]["sharded"]
    # `sums` goes on from the checkpoint too.
    files = []
    for content in (whole, sharded):
        file = io.BytesIO()
        torch.save(content, file)
        files.append(file.getvalue())
    assert files[0] == files[1], "last.pt"
    kept = [rank["sharded bytes"] / rank["whole bytes"] for rank in ranks]
    assert sum(kept) == pytest.approx(1, abs=0.01), "each value is kept once"
    assert max(kept) < 0.65, kept
