"""Lowers Triton kernels to machine code for GPUs that need not be here, and says what came out.

    python -m tests.kernels.lowering FOLDER...       (from the root, without TRITON_INTERPRET)

prints one JSON list: for each kernel that `kernels/FOLDER/launch.py` launches, at each of its
specialisations and architecture, its registers, the bytes spilled from them, shared memory and
global accesses.
`specialisations.py` beside this file lists all that decides the machine code.
"""

import contextlib
import io
import json
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.kernels.specialisations import specialisations

ARCHITECTURES = (80, 90, 100)
WARP = 32

ACCESS = re.compile(r"\b(ld|st)\.(?:\w+\.)*?global(?:[.:]\w+)*?(?:\.v(\d))?\.b(\d+)\s")
"""A load or store of global memory in PTX, in any cache mode: direction, vector length, bits."""

SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def main(folders: list[str]) -> None:
    """Lower every specialisation of `folders` for every architecture, on all cores."""
    assert os.environ.get("TRITON_INTERPRET", "0") in ("", "0"), "the interpreter lowers nothing"
    todo = [
        (folder, number, arch)
        for folder in folders
        for arch in ARCHITECTURES
        for number in range(len(specialisations(folder, arch)))
    ]
    # Forked workers keep what is imported; nothing has started a thread yet.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        json.dump(list(pool.map(_lower, *zip(*todo, strict=True))), sys.stdout)


def _lower(folder: str, number: int, arch: int) -> dict[str, Any]:
    kernel, signature, constexprs, options = specialisations(folder, arch)[number]
    given = set(signature) | set(constexprs)
    assert given == set(kernel.arg_names), f"{kernel.__name__}: {given ^ set(kernel.arg_names)}"
    # A tuple of arguments, such as a pointer for each model, is a tuple of types, without hints.
    single = {name: type_ for name, type_ in signature.items() if isinstance(type_, str)}
    hints = {name: int(hint) for name, type_ in single.items() for hint in type_.split(":")[1:]}
    types = signature | {name: type_.split(":")[0] for name, type_ in single.items()}
    assert set(hints.values()) <= {16}, f"{kernel.__name__}: only :16 is a hint, got {hints}"
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs,
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in hints},
    )
    # ptxas speaks only when it runs, and Triton passes on what it says only when told to.
    triton.knobs.compilation.always_compile = True
    triton.knobs.nvidia.dump_ptxas_log = True
    with contextlib.redirect_stdout(io.StringIO()) as log:
        built = triton.compile(source, target=GPUTarget("cuda", arch, WARP), options=options)
    spills, registers = SPILLS.search(log.getvalue()), REGISTERS.search(log.getvalue())
    assert spills, f"ptxas does not speak of spills: {log.getvalue()}"
    assert registers, f"ptxas does not speak of registers: {log.getvalue()}"
    return {
        "folder": folder,
        "kernel": kernel.__name__,
        "specialisation": f"{signature} {constexprs}",
        "options": options,
        "arch": arch,
        "registers": int(registers[1]),
        "spilled": int(spills[1]) + int(spills[2]),
        "shared": built.metadata.shared,
        **_accesses(built.asm["ptx"]),
    }


def _accesses(ptx: str) -> dict[str, Any]:
    """How often each width in bits is loaded from, and stored to, global memory."""
    count: dict[str, dict[str, int]] = {"loads": {}, "stores": {}}
    for direction, length, bits in ACCESS.findall(ptx):
        width = str(int(length or 1) * int(bits))
        by_width = count["loads" if direction == "ld" else "stores"]
        by_width[width] = by_width.get(width, 0) + 1
    return count


if __name__ == "__main__":
    main(sys.argv[1:])
