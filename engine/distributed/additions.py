"""One fixed order in which the parts of a batch are added up, whoever has which of them.

The additions are those of a binary tree over the parts' numbers. A node [first, end) is the sum of
its halves, cut where the left one is the largest power of two. A process with some neighbouring
parts adds up the largest nodes that lie wholly in them; what is left of the tree, above those
nodes, is added up by whoever gets them all. So the same numbers meet in the same order for any
number of processes, and the sum has the same bits.
"""

from collections.abc import Mapping

from torch import Tensor

Node = tuple[int, int]
"""The first part, and the one behind the last."""


def middle(node: Node) -> int:
    """Where a node of two parts at least is cut."""
    first, end = node
    return first + (1 << ((end - first - 1).bit_length() - 1))


def nodes_of(parts: range, count: int) -> list[Node]:
    """The largest nodes of the tree over `count` parts that lie wholly in `parts`, in order."""
    found: list[Node] = []
    waiting = [(0, count)]
    while waiting:
        first, end = node = waiting.pop()
        if end <= parts.start or first >= parts.stop:
            continue
        if parts.start <= first and end <= parts.stop:
            found.append(node)
        else:
            waiting += [(middle(node), end), (first, middle(node))]
    return found


class Additions:
    """Adds up the neighbouring parts of one process, one after the other."""

    def __init__(self, parts: range, count: int) -> None:
        self.nodes = nodes_of(parts, count)
        """What is left at the end."""
        self._below = {part: node for node in self.nodes for part in range(*node)}
        self._stack: list[tuple[Node, Tensor]] = []

    def add(self, part: int, value: Tensor) -> list[Tensor]:
        """Take the next part, which may be added to; tensors that are free for others from now on.

        As few values as the tree allows are held at a time.
        """
        self._stack.append(((part, part + 1), value))
        free = []
        while len(self._stack) > 1:
            (left, total), (right, more) = self._stack[-2:]
            if not self._are_halves(left, right):
                break
            total.add_(more)
            free.append(more)
            self._stack[-2:] = [((left[0], right[1]), total)]
        return free

    def take(self) -> list[Tensor]:
        """The sums of `nodes`."""
        assert [node for node, _ in self._stack] == self.nodes, "every part was added"
        sums = [total for _, total in self._stack]
        self._stack = []
        return sums

    def _are_halves(self, left: Node, right: Node) -> bool:
        """Whether two neighbours are the halves of a node within one of `nodes`."""
        node = self._below[left[0]]
        while node[0] <= left[0] and right[1] <= node[1] and node[1] - node[0] > 1:
            cut = middle(node)
            if node == (left[0], right[1]):
                return cut == left[1]
            node = (node[0], cut) if right[1] <= cut else (cut, node[1])
        return False


def added_up(node: Node, sums: Mapping[Node, Tensor]) -> Tensor:
    """The sum of a node, from those of nodes below it, some of which are changed."""
    if node in sums:
        return sums[node]
    cut = middle(node)
    return added_up((node[0], cut), sums).add_(added_up((cut, node[1]), sums))
