"""Pairs of classes counted 64 pixels at a time, in the bits of words.

One bit of 64 predictions is a word, and which of them have all bits of a set set is the AND of such
words. The pixels of one label are a word too; AND and a count of ones tell how many of its
predictions have all bits of each of the 16 sets of four, from which follows how many are of each
class. 64 pixels in a row have about two labels, and only these cost something: half as long as by
a table of pairs, and twice as long where every pixel's label is drawn by itself.

Axes: N pixels, S sets of bits, C classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from kernels.cpu import Array, Bytes, compiled
from kernels.vectors import (
    Codegen,
    address,
    call,
    compiled_form_of,
    intrinsic,
    load,
    pointer,
    spread,
)

BITS = 4
"""Of a class: with more of them, a table of pairs is faster."""
SETS = 1 << BITS
PIXELS = 64
"""Of a word."""

_NONE = np.uint64(0)
_SETS_BYTES = np.uintp(SETS * 8)
_WORDS = ir.VectorType(ir.IntType(64), SETS)
_BYTES = ir.VectorType(ir.IntType(8), PIXELS)


def tally_words(count_CS: NDArray[np.uint64], label_N: Bytes, guess_N: Bytes) -> None:
    """Add, of whole words of pixels with each label, the guesses that have all bits of each set.

    Labels and guesses from C on do not count.
    """
    C = len(count_CS)
    is_class_N = (label_N < C) & (guess_N < C)
    for chosen in range(SETS):
        has_all_N = is_class_N & (guess_N & chosen == chosen)
        count_CS[:, chosen] += np.bincount(label_N[has_all_N], minlength=C).astype(np.uint64)


@compiled_form_of(tally_words)
def _tally_words(count_CS: NDArray[np.uint64], label_N: Bytes, guess_N: Bytes) -> None:
    sets_S = np.empty(SETS, np.uint64)
    sets, counts, classes = address(sets_S), address(count_CS), np.uint8(len(count_CS))
    labels, guesses = address(label_N), address(guess_N)
    for _ in range(len(label_N) // PIXELS):
        _write_sets(guesses, classes, sets)
        rest = _below(labels, classes)
        while rest != _NONE:
            label = _byte(labels, _lowest(rest))
            own = _equal(labels, label)
            _add_ones(own, sets, counts + np.uintp(label) * _SETS_BYTES)
            rest &= ~own
        labels, guesses = labels + np.uintp(PIXELS), guesses + np.uintp(PIXELS)


@compiled
def add_sets(count_CC: Array, count_CS: NDArray[np.uint64]) -> None:
    """Add pairs, from counts of "all bits of the set", which become "these bits and no others"."""
    for bit in range(BITS):
        for chosen in range(SETS):
            if not chosen >> bit & 1:
                for c in range(len(count_CS)):
                    count_CS[c, chosen] -= count_CS[c, chosen | 1 << bit]
    for truth in range(len(count_CC)):
        for guess in range(len(count_CC)):
            count_CC[truth, guess] += np.int64(count_CS[truth, guess])


@intrinsic
def _write_sets(_context: Any, guesses: Any, classes: Any, out: Any) -> Codegen:
    """The words of all sets of bits of 64 bytes, without those that are no class."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        guesses, classes, out = values
        guess = load(builder, guesses, _BYTES, align=1)
        below = builder.icmp_unsigned("<", guess, spread(builder, classes, _BYTES))
        sets = spread(builder, _word(builder, below), _WORDS)
        for bit in range(BITS):
            mask = builder.and_(guess, ir.Constant(_BYTES, [1 << bit] * PIXELS))
            has = builder.icmp_unsigned("!=", mask, ir.Constant(_BYTES, None))
            without = [0 if chosen >> bit & 1 else -1 for chosen in range(SETS)]
            has = spread(builder, _word(builder, has), _WORDS)
            sets = builder.and_(sets, builder.or_(has, ir.Constant(_WORDS, without)))
        builder.store(sets, pointer(builder, out, _WORDS), align=8)
        return context.get_dummy_value()

    return types.void(guesses, classes, out), generate


@intrinsic
def _add_ones(_context: Any, own: Any, sets: Any, count: Any) -> Codegen:
    """count[s] += how many of the pixels `own` are in set s."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        own, sets, count = values
        both = builder.and_(spread(builder, own, _WORDS), load(builder, sets, _WORDS, align=8))
        total = builder.add(load(builder, count, _WORDS, align=8), call(builder, "ctpop", [both]))
        builder.store(total, pointer(builder, count, _WORDS), align=8)
        return context.get_dummy_value()

    return types.void(own, sets, count), generate


@intrinsic
def _lowest(_context: Any, word: Any) -> Codegen:
    """The number of the lowest bit that is set."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(word), generate


@intrinsic
def _byte(_context: Any, where: Any, number: Any) -> Codegen:
    """A byte behind an address."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(builder.add(*values), ir.IntType(8).as_pointer()))

    return types.uint8(where, number), generate


def _comparison(operator: str) -> Callable[..., Any]:
    """f(address, value): the word of the comparisons of 64 bytes there with the value."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        bytes_ = load(builder, values[0], _BYTES, align=1)
        return _word(
            builder, builder.icmp_unsigned(operator, bytes_, spread(builder, values[1], _BYTES))
        )

    @intrinsic
    def word(_context: Any, where: Any, value: Any) -> Codegen:
        return types.uint64(where, value), generate

    return word


def _word(builder: Any, bits: Any) -> Any:
    return builder.bitcast(bits, ir.IntType(PIXELS))


_below, _equal = _comparison("<"), _comparison("==")
