"""A Triton kernel to machine code for a GPU that need not be here: registers, spills, loops.

Light to import, though what it does needs Triton, without TRITON_INTERPRET.
"""

import contextlib
import io
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks import sass

_WARP = 32

_ACCESS = re.compile(r"\b(ld|st)\.(?:\w+\.)*?global(?:[.:]\w+)*?(?:\.v(\d))?\.b(\d+)\s")
"""A load or store of global memory in PTX, in any cache mode: direction, vector length, bits."""

_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


class Specialisation(NamedTuple):
    """What Triton compiles."""

    kernel: Any
    """The function under `@triton.jit`."""
    signature: Mapping[str, str | tuple[str, ...]]
    """Argument -> type, as Triton's compiler writes it: "*fp32"; ":16" where a multiple of 16."""
    constants: dict[str, Any]
    """Argument -> value."""
    options: dict[str, Any]
    """Of the launch: num_warps and others."""


@dataclass(frozen=True)
class Lowered:
    """What came out for one architecture."""

    registers: int
    """Of a thread."""
    spilled: int
    """Bytes of registers written to memory and read back, as ptxas counts them."""
    shared: int
    """Bytes of a block."""
    loads: dict[str, int]
    """Of global memory in PTX, by bits."""
    stores: dict[str, int]
    code: sass.Block
    """The kernel and its loops."""


def lower(specialisation: Specialisation, architecture: int) -> Lowered:
    """Compile for sm_ARCHITECTURE and disassemble.

    Raises:
        ValueError: the machine code cannot be counted; see `sass.parse`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, options = specialisation
    given = set(signature) | set(constants)
    assert given == set(kernel.arg_names), f"{kernel.__name__}: {given ^ set(kernel.arg_names)}"
    # A tuple of arguments, such as a pointer for each model, is a tuple of types, without hints.
    single = {name: type_ for name, type_ in signature.items() if isinstance(type_, str)}
    hints = {name: int(hint) for name, type_ in single.items() for hint in type_.split(":")[1:]}
    types = {**signature} | {name: type_.split(":")[0] for name, type_ in single.items()}
    assert set(hints.values()) <= {16}, f"{kernel.__name__}: only :16 is a hint, got {hints}"
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        constants,
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in hints},
    )
    # ptxas speaks only when it runs, and Triton passes on what it says only when told to.
    triton.knobs.compilation.always_compile = True
    triton.knobs.nvidia.dump_ptxas_log = True
    target = GPUTarget("cuda", architecture, _WARP)
    with contextlib.redirect_stdout(io.StringIO()) as log:
        built = triton.compile(source, target=target, options=options)
    spills, registers = _SPILLS.search(log.getvalue()), _REGISTERS.search(log.getvalue())
    assert spills, f"ptxas does not speak of spills: {log.getvalue()}"
    assert registers, f"ptxas does not speak of registers: {log.getvalue()}"
    return Lowered(
        registers=int(registers[1]),
        spilled=int(spills[1]) + int(spills[2]),
        shared=built.metadata.shared,
        loads=_accesses(built.asm["ptx"], "ld"),
        stores=_accesses(built.asm["ptx"], "st"),
        code=sass.parse(_disassemble(built.asm["cubin"])),
    )


def _accesses(ptx: str, direction: str) -> dict[str, int]:
    """How often each width in bits is loaded from, or stored to, global memory."""
    count: dict[str, int] = {}
    for found, length, bits in _ACCESS.findall(ptx):
        if found == direction:
            width = str(int(length or 1) * int(bits))
            count[width] = count.get(width, 0) + 1
    return count


def _disassemble(cubin: bytes) -> str:
    """By the `nvdisasm` that comes with Triton."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    # It warns of each cubin that its format is an old one.
    assert done.returncode == 0, f"nvdisasm: {done.stderr}"
    return done.stdout
