"""What a tuned kernel has to give on inputs from seeds, to travel in a manifest.

    proof.parameters    dtype and shape of each, in order
    proof.runs          seed; whether edge values are among the inputs; `given`: integer parameters
                        full of one number; `wanted`: for each parameter that the kernel writes the
                        largest number, and what it holds at chosen positions

The runtime draws the inputs, chooses the positions and compares
(`runtime/src/c_api/kernel_values.cc`), here too: so there is one of each.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_tvm import runtime

if TYPE_CHECKING:
    from tvm import tirx

_EDGE = (False, True)  # of the runs
# As `schedules.verify` has them: no kernel gives these.
_FILLING = {"float16": -6.0e4, "float32": -3.0e38, "float64": -3.0e38}


def drawn(seed: int, place: int, shape: Sequence[int], dtype: str, *, edge: bool) -> np.ndarray:
    """An input: floats in [-2, 2], integers 0 and 1, any bits for uint32.

    Args:
        seed: of the run.
        place: which parameter; each has values of its own.
        shape: with an element at least.
        dtype: of numpy.
        edge: zeros of both signs, large, small and equal numbers among the floats.
    """
    runtime.load()
    count = int(np.prod(shape, dtype=np.int64))
    content = _call("kernel_drawn", seed, place, dtype, count, edge)
    return np.frombuffer(bytes(content), dtype).reshape(tuple(shape)).copy()


def positions(seed: int, place: int, count: int) -> np.ndarray:
    """Where results of `count` elements are compared: one in each of at most 2048 equal parts."""
    runtime.load()
    return np.array(list(_call("kernel_positions", seed, place, count)), np.int64)


def proof(func: tirx.PrimFunc) -> dict[str, Any]:
    """Compute what `func`, unscheduled, gives: in float64, by LLVM on this machine."""
    from schedules.verify import Reference

    reference = Reference(func)
    return {
        "parameters": [
            {"dtype": dtype, "shape": list(shape)} for shape, dtype in reference.parameters
        ],
        "runs": [_run(reference, seed, edge) for seed, edge in enumerate(_EDGE)],
    }


def _run(reference: Any, seed: int, edge: bool) -> dict[str, Any]:
    given = _given(reference, edge)
    # Attention: large scores would be further apart than float32 can tell.
    edge = edge and reference.written is None
    arrays = []
    for place, (shape, dtype) in enumerate(reference.parameters):
        if place in reference.outputs:
            arrays.append(np.full(shape, _FILLING.get(dtype, 0)).astype(dtype))
        elif place in given:
            arrays.append(np.full(shape, given[place], dtype))
        else:
            arrays.append(drawn(seed, place, shape, dtype, edge=edge))
    wanted = []
    for place, array in reference.compute(arrays).items():
        dtype = reference.parameters[place][1]
        chosen = array.reshape(-1)[positions(seed, place, array.size)]
        with np.errstate(over="ignore"):  # out of float32: an infinity, as the kernel gives
            values = chosen.astype("float32" if dtype == "float16" else dtype)
        wanted.append(
            {
                "parameter": place,
                "scale": _scale(array, dtype),
                "values": base64.b64encode(values.tobytes()).decode(),
            }
        )
    return {
        "seed": seed,
        "edge": edge,
        "given": [{"parameter": place, "value": value} for place, value in given.items()],
        "wanted": wanted,
    }


def _given(reference: Any, edge: bool) -> Mapping[int, int]:
    """How full an attention's cache is: half, then all of it."""
    from schedules.attention_space import PAST

    if reference.written is None:
        return {}
    most = reference.written.most_past
    return {PAST: most if edge else most // 2}


def _scale(array: np.ndarray, dtype: str) -> float:
    """The largest number of those that are not near the limit of their type."""
    if not dtype.startswith("float"):
        return 0.0
    sizes = np.abs(array[np.isfinite(array)].astype(np.float64))
    sizes = sizes[sizes <= 0.5 * float(np.finfo(dtype).max)]
    return float(sizes.max(initial=0.0))


def _call(name: str, *args: Any) -> Any:
    import tvm

    return tvm.get_global_func(f"hetero_tvm.{name}")(*args)
