"""Sums of x times 4-bit codes, as expressions: how a code in a 32-bit word becomes a float.

    integer    x / 16^i  *  float(word & 0xF << 4 i)             any device
    subnormal  x * 2^(88 - 4 i)  *  as_float(word & 0xF << 4 i)  where subnormal floats are numbers

Both take a code out of its word by a mask alone: its value is then 16^i times too large, which x
makes up for, exactly, as a power of two. The bits of a float below 2^-125 are a whole number times
2^-149, so the second form needs no conversion: two instructions for a code in place of three. x may
then be up to 2^40, and a sum is exact to 2^-88, where float32 ends at 2^-149.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

from tvm import tirx

CODES_PER_WORD = 8
# The exponent of the smallest float above zero, and the power of two that x gets for code 0: as far
# from the largest float (x up to 2^40) as sums of small x can spare.
_SMALLEST = -149
_X_EXPONENT = 88
# Codes of a word below the bit where a float stops being a whole number of the smallest ones.
_BELOW = 6


class Codes(abc.ABC):
    """What a kernel computes of the codes of one column that share a scale."""

    @abc.abstractmethod
    def product(
        self, xs: Sequence[tirx.Expr], words: Sequence[tirx.Expr], scale: tirx.Expr, zero: tirx.Expr
    ) -> tirx.Expr:
        """`scale * sum of x * (code - zero)`: `xs` float32, eight for each uint32 of `words`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegerCodes(Codes):
    """By conversion of integers."""

    chains: int  # sums that do not wait for each other

    def product(
        self, xs: Sequence[tirx.Expr], words: Sequence[tirx.Expr], scale: tirx.Expr, zero: tirx.Expr
    ) -> tirx.Expr:
        """See `Codes`."""
        terms = []
        for n, x in enumerate(xs):
            word, i = divmod(n, CODES_PER_WORD)
            code = _masked(words[word], i).astype("float32")
            terms.append(x * tirx.const(2.0 ** (-4 * i), "float32") * code)
        dot = add_up([add_up(terms[chain :: self.chains]) for chain in range(self.chains)])
        return scale * (dot - zero * add_up(xs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubnormalCodes(Codes):
    """By reading their bits as floats."""

    def product(
        self, xs: Sequence[tirx.Expr], words: Sequence[tirx.Expr], scale: tirx.Expr, zero: tirx.Expr
    ) -> tirx.Expr:
        """See `Codes`."""
        terms = []
        high = [tirx.shift_right(word, tirx.const(8, "uint32")) for word in words]
        for n, x in enumerate(xs):
            word, i = divmod(n, CODES_PER_WORD)
            source, place = (words, i) if i < _BELOW else (high, i - 2)
            code = tirx.reinterpret("float32", _masked(source[word], place))
            terms.append(x * tirx.const(2.0 ** (_X_EXPONENT - 4 * place), "float32") * code)
        too_small = 2.0 ** (_X_EXPONENT + _SMALLEST)
        zero = zero * tirx.const(too_small, "float32")
        dot = add_up(terms) - zero * add_up(xs)
        return scale * tirx.const(1 / too_small, "float32") * dot


def add_up(terms: Sequence[tirx.Expr]) -> tirx.Expr:
    """The sum from left to right."""
    total, *rest = terms
    for term in rest:
        total = total + term
    return total


def _masked(word: tirx.Expr, place: int) -> tirx.Expr:
    return tirx.bitwise_and(word, tirx.const(0xF << 4 * place, "uint32"))
