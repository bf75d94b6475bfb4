"""A kernel whose loops are known, to count its machine code by (test_sass.py).

python tests/benchmarks/counted_kernel.py       (without TRITON_INTERPRET)

prints what `lower` says of it for each architecture as JSON.
"""

import json
import sys
from dataclasses import asdict

import triton
import triton.language as tl

from benchmarks.lowering import Specialisation, lower

ARCHITECTURES = (80, 90, 100)


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def row_sums(x, length, out, rows, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Sums of exponentials, row after row, each added to all that came before.

    Outer loop: a row, with one sum over the block and one store. Inner loop: one load and one
    exponential; it ends by a float, so that nothing can know its length and unroll it.
    """
    lane = tl.arange(0, BLOCK)
    total = 0.0
    for row in range(rows):
        sums = tl.zeros([BLOCK], tl.float32)
        left = tl.load(length + row)
        while left > 1.0:
            sums += tl.exp(tl.load(x + lane))
            left *= 0.5
            x += BLOCK
        total += tl.sum(sums)
        tl.store(out + row, total)


def main() -> None:
    """Print what came out, by architecture."""
    signature = {**dict.fromkeys(("x", "length", "out"), "*fp32:16"), "rows": "i32"}
    made = Specialisation(row_sums, signature, {"BLOCK": 128}, {"num_warps": 4})
    json.dump({arch: asdict(lower(made, arch)) for arch in ARCHITECTURES}, sys.stdout)


if __name__ == "__main__":
    main()
