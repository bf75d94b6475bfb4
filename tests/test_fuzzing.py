"""One thing bent in a data folder, a finished run or a config: see `tests.fuzzing`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzzing.judge import fault_of
from tests.fuzzing.world import World, make_world, quicken

GROUPS, CASES = 6, 50


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield make_world(tmp_path_factory.mktemp("fuzzing"))


@pytest.mark.parametrize("group", range(GROUPS))
def test_what_is_bent_is_refused_by_name_or_changes_nothing_unsaid(
    group: int, world: World, tmp_path: Path
) -> None:
    numbers = range(group * CASES, (group + 1) * CASES)
    faults = {n: fault_of(world, 0, n, tmp_path / "case")[0] for n in numbers}
    told = [f"{number}: {fault}" for number, fault in faults.items() if fault]
    assert not told, "\n".join(told)
