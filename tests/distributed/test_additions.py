"""Parts are added up in one order, however many processes have them."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.distributed.additions import Additions, Node, added_up, nodes_of
from engine.distributed.world import World


class Term:
    """Stands for a tensor: knows which were added, and in which order."""

    def __init__(self, told: str) -> None:
        self.told = told

    def add_(self, other: "Term") -> "Term":
        self.told = f"({self.told} + {other.told})"
        return self


def total_of(values: list[Tensor], processes: int) -> Tensor:
    """What `processes` come to, each with its share of the values."""
    count, sums = len(values), dict[Node, Tensor]()
    for rank in range(processes):
        own = World(rank, processes).share(count)
        additions = Additions(own, count)
        for part in own:
            additions.add(part, values[part])
        sums |= dict(zip(additions.nodes, additions.take(), strict=True))
    return added_up((0, count), sums)


@st.composite
def parts_and_processes(draw: st.DrawFn) -> tuple[int, int]:
    count = draw(st.integers(1, 70))
    return count, draw(st.integers(1, count))


@given(parts_and_processes())
def test_any_number_of_processes_makes_the_same_additions(case: tuple[int, int]) -> None:
    count, processes = case
    names = [str(part) for part in range(count)]
    alone, shared = (
        total_of([Term(name) for name in names], each).told  # type: ignore[misc, attr-defined]
        for each in (1, processes)
    )
    assert shared == alone
    assert all(f"{name} " in alone or f"{name})" in alone or count == 1 for name in names)


@given(parts_and_processes(), st.integers(0, 2**32 - 1))
def test_so_the_sum_has_the_same_bits(case: tuple[int, int], seed: int) -> None:
    count, processes = case
    generator = torch.Generator().manual_seed(seed)
    # Of sizes so unlike that every other order rounds otherwise.
    scale = 10.0 ** torch.randint(-8, 8, (count, 1), generator=generator)
    values = list(torch.randn(count, 33, generator=generator) * scale)
    alone, shared = (total_of([value.clone() for value in values], each) for each in (1, processes))
    assert torch.equal(alone, shared)


@given(parts_and_processes())
def test_the_nodes_of_all_processes_cover_every_part_once(case: tuple[int, int]) -> None:
    count, processes = case
    shares = [World(rank, processes).share(count) for rank in range(processes)]
    nodes = [node for own in shares for node in nodes_of(own, count)]
    assert [part for node in nodes for part in range(*node)] == list(range(count))
    assert all(shares)


def test_pairs_are_added_first() -> None:
    terms = [Term(str(part)) for part in range(5)]
    assert total_of(terms, 1).told == "(((0 + 1) + (2 + 3)) + 4)"  # type: ignore[arg-type, attr-defined]


def test_no_more_values_are_held_than_the_tree_is_deep() -> None:
    additions, held = Additions(range(16), 16), 0
    for part in range(16):
        held += 1 - len(additions.add(part, torch.zeros(1)))
        assert held <= 5
    assert len(additions.take()) == held == 1
