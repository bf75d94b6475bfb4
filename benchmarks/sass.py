"""Machine code of NVIDIA's GPUs as `nvdisasm` prints it: how many instructions, and in which loops.

Counted is what runs: neither the subroutines for operands that fast code leaves over (the division
of denormal numbers), nor a shuffle's second form for warps that have parted. Every branch forward
counts as both of its sides, so that a loop's length is what a pass through all of it issues.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_LABEL = re.compile(r"\s*([.$][\w.$]*|\w+):\s*")
_INSTRUCTION = re.compile(
    r"\s*/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)\s*(.*?);"
)
_TARGET = re.compile(r"(.*)`\(([^)]+)\)")

_FLOAT64 = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}
_CONVERSIONS = {"F2F", "F2I", "I2F", "FRND"}
_BY_NAME = {
    "BAR": "BAR",
    "SHFL": "SHFL",
    "MUFU": "MUFU",
    "LDS": "LDS",
    "LDSM": "LDS",
    "STS": "STS",
    "STSM": "STS",
    "LDL": "LDL",
    "STL": "STL",
    "ATOM": "ATOM",
    "ATOMG": "ATOM",
    "ATOMS": "ATOM",
    "RED": "ATOM",
    "REDG": "ATOM",
}
_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}


@dataclass(frozen=True)
class Block:
    """A loop, or the whole kernel with the loops in it.

    `counts` of instructions, those of inner loops included, zeros left out:

        BAR SHFL MUFU      barriers of the block, shuffles, special functions
        F64                arithmetic in float64, and conversions from and to it
        LDS STS            shared memory
        LDL STL            local memory: spilled registers
        LDG.n STG.n        global memory, n bits a thread
        ATOM               atomic additions and the like, in any memory
        CALL               calls of a subroutine, which fast code passes by
    """

    instructions: int
    """All of them, those of inner loops included."""
    counts: dict[str, int]
    loops: tuple["Block", ...] = ()
    """The loops directly in it, in the order in which they begin."""

    @property
    def own(self) -> int:
        """Instructions that are in no inner loop."""
        return self.instructions - sum(loop.instructions for loop in self.loops)

    def innermost(self) -> Iterator["Block"]:
        """The loops inside it that hold no other."""
        for loop in self.loops:
            yield from loop.innermost() if loop.loops else (loop,)

    @classmethod
    def read(cls, content: Mapping[str, object]) -> "Block":
        """From what `dataclasses.asdict` made of one."""
        loops = content["loops"]
        instructions, counts = content["instructions"], content["counts"]
        assert isinstance(instructions, int)
        assert isinstance(counts, dict)
        assert isinstance(loops, list | tuple)
        return cls(instructions, dict(counts), tuple(map(cls.read, loops)))


def parse(text: str) -> Block:
    """The kernel in what `nvdisasm -c` prints of a cubin.

    Loops are natural loops: an edge back to an instruction that every way to its origin passes
    (Aho, Lam, Sethi, Ullman, Compilers, 9.6). Edges back to the same place are one loop.

    Raises:
        ValueError: it is not one kernel, or not made of loops: it jumps to addresses, or into the
            middle of a loop.
    """
    code = _read(text)
    after = [_successors(code, place) for place in range(len(code))]
    order = _order(after)
    dominator = _dominators(after, order)
    bodies = _natural_loops(after, order, dominator)
    return _nest(code, set(order), sorted(bodies.items()))


@dataclass
class _Instruction:
    opcode: list[str]
    """With its modifiers: "LDG.E.64" is ["LDG", "E", "64"]."""
    conditional: bool
    operands: str
    target: int | None = None
    """Where a branch goes on, as a place in the list; None: to a subroutine, or it is no branch."""


def _read(text: str) -> list[_Instruction]:
    """The instructions of the kernel, with their targets."""
    code: list[_Instruction] = []
    places: dict[str, int] = {}
    if len(re.findall(r"^\s*\.section\s+\.text\.", text, re.MULTILINE)) > 1:
        raise ValueError("the cubin holds more than one kernel; compile one at a time")
    for line in text.splitlines():
        if label := _LABEL.fullmatch(line):
            places[label[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            predicate, opcode, operands = found.groups()
            code.append(_Instruction(opcode.split("."), predicate is not None, operands))
    if not code:
        raise ValueError("nvdisasm printed no instruction; give it a cubin")
    regions: dict[str, int] = {}
    for instruction in code:
        name, operands = instruction.opcode[0], instruction.operands
        if name == "BSYNC":
            # Warps that parted go on together behind the region that BSSY opened.
            instruction.target = regions[operands.split()[0]]
        elif found := _TARGET.search(operands):
            before, goal = found.groups()
            # Any other label is a subroutine, which comes back.
            instruction.target = places[goal] if goal.startswith(".L") else None
            instruction.conditional |= bool(before.strip(" ,"))
            if name == "BSSY":
                regions[before.split(",")[0].strip()] = places[goal]
    return code


def _successors(code: Sequence[_Instruction], place: int) -> list[int]:
    """Where the warp may go on after an instruction."""
    instruction = code[place]
    name, *modifiers = instruction.opcode
    following = [place + 1] if place + 1 < len(code) else []
    if name in ("BRX", "BRXU", "JMP", "JMX", "JMXU"):
        raise ValueError(f"{name} jumps to an address, so that no loop can be told from the text")
    if name in ("EXIT", "RET", "KILL"):
        return following if instruction.conditional else []
    # ptxas for sm_80 leaves loops by CALL. BRA.DIV is for warps that have parted.
    jumps = name in ("BRA", "BSYNC", "CALL")
    if not jumps or instruction.target is None or "DIV" in modifiers:
        return following
    return [instruction.target, *(following if instruction.conditional else [])]


def _order(after: Sequence[Sequence[int]]) -> list[int]:
    """What can be reached from the first instruction, each before what only it leads to."""
    seen, done = {0}, []
    stack = [(0, iter(after[0]))]
    while stack:
        place, rest = stack[-1]
        for successor in rest:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(after[successor])))
                break
        else:
            done.append(place)
            stack.pop()
    return done[::-1]


def _dominators(after: Sequence[Sequence[int]], order: Sequence[int]) -> dict[int, int]:
    """For each place the last one that every way to it passes.

    Cooper, Harvey, Kennedy, A Simple, Fast Dominance Algorithm (2001).
    """
    rank = {place: number for number, place in enumerate(order)}
    before = _before(after, order)
    dominator = {order[0]: order[0]}
    changed = True
    while changed:
        changed = False
        for place in order[1:]:
            known = [one for one in before[place] if one in dominator]
            common = known[0]
            for other in known[1:]:
                while common != other:
                    if rank[common] > rank[other]:
                        common = dominator[common]
                    else:
                        other = dominator[other]  # noqa: PLW2901  both walk up
            if dominator.get(place) != common:
                dominator[place] = common
                changed = True
    return dominator


def _natural_loops(
    after: Sequence[Sequence[int]], order: Sequence[int], dominator: Mapping[int, int]
) -> dict[int, set[int]]:
    """By the place where a loop begins: all places in it."""
    rank = {place: number for number, place in enumerate(order)}
    before = _before(after, order)
    bodies: dict[int, set[int]] = {}
    for place in order:
        for head in after[place]:
            if rank[head] > rank[place]:
                continue
            above = place
            while rank[above] > rank[head]:
                above = dominator[above]
            if above != head:
                raise ValueError("a branch leads into the middle of a loop; this cannot be counted")
            body = bodies.setdefault(head, {head})
            found = [place]
            while found:
                inside = found.pop()
                if inside not in body:
                    body.add(inside)
                    found += before[inside]
    return bodies


def _before(after: Sequence[Sequence[int]], order: Sequence[int]) -> dict[int, list[int]]:
    """For each place those from which it is reached in one step."""
    before: dict[int, list[int]] = {place: [] for place in order}
    for place in order:
        for successor in after[place]:
            before[successor].append(place)
    return before


def _nest(
    code: Sequence[_Instruction], places: set[int], bodies: Sequence[tuple[int, set[int]]]
) -> Block:
    """`places` as a block, with those of the loops that are inside it, but are not all of it."""
    inside = [(head, body) for head, body in bodies if body < places]
    outer = [(head, body) for head, body in inside if not any(body < other for _, other in inside)]
    counts = Counter(kind for place in places if (kind := _kind(code[place])))
    return Block(len(places), dict(counts), tuple(_nest(code, body, inside) for _, body in outer))


def _kind(instruction: _Instruction) -> str | None:
    """What an instruction is counted as, besides being one."""
    name, *modifiers = instruction.opcode
    if name == "CALL" and instruction.target is None:
        return "CALL"
    if name in _FLOAT64 or (name in _CONVERSIONS and "F64" in modifiers):
        return "F64"
    if name in ("LDG", "STG"):
        bits = next((_WIDTHS[modifier] for modifier in modifiers if modifier in _WIDTHS), 32)
        return f"{name}.{bits}"
    return _BY_NAME.get(name)
