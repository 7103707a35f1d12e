"""What tuned kernels give on inputs that any machine can draw again: for checks without a compiler.

    parameters    dtype and shape of each, in order
    runs          a seed, and of every result its largest value and those at some positions

Inputs are numbers of a counter, mixed as SplitMix64 mixes them (Steele and others, OOPSLA 2014), so
that element n of a parameter is the same here and in `runtime/src/c_api/expected_values.cc`, and
exact: a float is a multiple of 2^-15 between -2 and 2, at edges also zeros of both signs, some a
hundred times larger and some a thousand times smaller; an integer is 0 or 1, an index of anything
with two elements; but uint32 is any bits, since kernels take such words apart.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from schedules.verify import Reference

MOST_POSITIONS = 1024  # of a result that are looked at
_LAST = 32  # of these, at its end: tiles that stick out are there
_SEEDS = (1, 2)  # of the runs; the second has edge values


def described(reference: Reference) -> dict[str, Any]:
    """For a manifest: what the kernel of `reference` gives, in float64 where it has that form."""
    from schedules.verify import TOLERANCE

    parameters = [{"dtype": dtype, "shape": list(shape)} for shape, dtype in reference.parameters]
    runs = []
    for seed in _SEEDS:
        last = seed == _SEEDS[-1]
        given = reference.fixed(edge=last)
        edge = last and not given  # scores of large values would be ties
        arrays = []
        for place, (shape, dtype) in enumerate(reference.parameters):
            if place in reference.outputs:
                arrays.append(np.zeros(shape, dtype))
            elif place in given:
                arrays.append(np.full(shape, given[place], dtype))
            else:
                arrays.append(drawn(seed, place, int(np.prod(shape)), dtype, edge=edge))
                arrays[-1] = arrays[-1].reshape(shape)
        expected = []
        for place, want in reference.compute(arrays).items():
            dtype = reference.parameters[place][1]
            wide = want.astype(np.float64).reshape(-1)
            usual = np.abs(wide[np.isfinite(wide)])
            values = wide[positions(seed, place, wide.size)]
            expected.append(
                {
                    "place": place,
                    "tolerance": TOLERANCE.get(dtype, 0.0),
                    "largest": float(usual.max(initial=0.0)),
                    "values": base64.b64encode(values.astype("<f8").tobytes()).decode(),
                }
            )
        fixed = [{"place": place, "value": value} for place, value in given.items()]
        runs.append({"seed": seed, "edge": edge, "fixed": fixed, "expected": expected})
    return {"parameters": parameters, "runs": runs}


def drawn(seed: int, place: int, count: int, dtype: str, *, edge: bool) -> np.ndarray:
    """`count` elements of parameter `place`."""
    bits = _bits(seed, place, np.arange(count, dtype=np.uint64))
    if dtype == "uint32":
        return bits.astype(np.uint32)
    word = bits >> np.uint64(48)
    if not dtype.startswith("float"):
        return (word & np.uint64(1)).astype(dtype)
    value = (2.0 * word.astype(np.float64) - 65535) / 32768
    if edge:
        kind = word % np.uint64(8)
        value[kind == 2] *= 100
        value[kind == 3] /= 1024
        value[kind == 0], value[kind == 1] = 0.0, -0.0
    return value.astype(np.float32).astype(dtype)


def positions(seed: int, place: int, count: int) -> np.ndarray:
    """Which elements of a result are looked at; all of a short one."""
    if count <= MOST_POSITIONS:
        return np.arange(count)
    some = _bits(seed, place, np.arange(MOST_POSITIONS - _LAST, dtype=np.uint64)) % np.uint64(count)
    return np.concatenate([some.astype(np.int64), np.arange(count - _LAST, count)])


def _bits(seed: int, place: int, elements: np.ndarray) -> np.ndarray:
    key = int(_mixed(np.array([seed << 32 | place], np.uint64))[0])
    with np.errstate(over="ignore"):
        return _mixed(elements + np.uint64(key))


def _mixed(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)
