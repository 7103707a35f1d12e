"""Activations as 16-bit whole numbers, 32 neighbours with one scale: what `code_pairs` multiplies.

    scale = largest |x| / 32767        number = x / scale, rounded        sum = of x itself

A number is off by at most half a scale, which is 1 / 65534 of the largest of its neighbours: thirty
times less than what float16 loses of that one. The sum keeps NaNs and infinities in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import relax, s_tir, tirx
from tvm.script.ir_builder import tirx as T

from schedules.attention_spec import argument, kernel, lane_loop, local, put, widened
from schedules.layout import known_shape, unravel
from target_specs.spec import GpuSpec

STRETCH = 32  # neighbours along the depth that have one scale
PAIRS = STRETCH // 2  # number [n] with number [n + PAIRS], for n below it
_LARGEST = 32767
# Below it a float's reciprocal may be infinite; numbers so small become zero.
_LEAST = 1e-30


def rounded_rows(builder: relax.BlockBuilder, gpu: GpuSpec, data: relax.Expr) -> list[relax.Var]:
    """Emit the kernel that rounds `data` [.., K] of a float type, K a multiple of `STRETCH`.

    Returns:
        With rows of all leading axes: pairs [rows, K / 32, 16] uint32, the first one low; scales
        and sums [rows, K / 32] float32.
    """
    shape = known_shape(data)
    rows, stretches = math.prod(shape[:-1]), shape[-1] // STRETCH
    func = builder.add_func(
        _rounding_kernel(shape, str(data.ty.dtype), min(gpu.vector_width, PAIRS)), "rounded_rows"
    )
    types = [
        relax.TensorType((rows, stretches, PAIRS), "uint32"),
        relax.TensorType((rows, stretches), "float32"),
        relax.TensorType((rows, stretches), "float32"),
    ]
    made = builder.emit(relax.call_tir(func, [data], types))
    return [builder.emit(relax.TupleGetItem(made, n)) for n in range(len(types))]


def _rounding_kernel(shape: Sequence[int], dtype: str, lanes: int) -> tirx.PrimFunc:
    """`(x, pairs, scales, sums)`."""
    *leading, depth = shape
    rows, stretches = math.prod(leading), depth // STRETCH
    with kernel("rounded_rows") as finish:
        x = argument("x", tuple(shape), dtype)
        pairs = argument("pairs", (rows, stretches, PAIRS), "uint32")
        scales = argument("scales", (rows, stretches), "float32")
        sums = argument("sums", (rows, stretches), "float32")
        # A group costs as much to start as a few stretches: it takes a row. One row alone is cut,
        # so its parts can join the kernels that make them (`joined_kernel.py`).
        taken = 1 if rows == 1 else stretches
        with (
            T.launch_thread("blockIdx.x", rows * stretches // taken) as block,
            T.launch_thread("threadIdx.x", 1),
            T.serial(0, taken) as step,
        ):
            row, stretch = (0, block) if rows == 1 else (block, step)
            place = unravel(row, leading)

            def value(n: tirx.Expr) -> tirx.Expr:
                return widened(x[(*place, stretch * STRETCH + n)])

            largest, total = local("largest", (PAIRS,)), local("total", (PAIRS,))
            with T.unroll(0, PAIRS // lanes) as part, lane_loop(lanes) as lane:
                n = part * lanes + lane
                low, high = value(n), value(n + PAIRS)
                put(largest, [n], tirx.max(tirx.abs(low), tirx.abs(high)))
                put(total, [n], low + high)
            most = T.bind(tirx.max(_tree(largest, tirx.max), T.float32(_LEAST)))
            put(scales, [row, stretch], most * T.float32(1 / _LARGEST))
            put(sums, [row, stretch], _tree(total, lambda a, b: a + b))
            inverse = T.bind(T.float32(_LARGEST) / most)
            with T.unroll(0, PAIRS // lanes) as part, lane_loop(lanes) as lane:
                n = part * lanes + lane
                low, high = (_rounded(value(at), inverse) for at in (n, n + PAIRS))
                both = tirx.bitwise_or(
                    tirx.bitwise_and(low, T.uint32(0xFFFF)), tirx.shift_left(high, T.uint32(16))
                )
                put(pairs, [row, stretch, n], both)
    func = finish()
    # TVM looks into functions of one operand for reshapes, and expects a block there.
    root = s_tir.SBlock([], [], [], "root", func.body)
    return func.with_body(s_tir.SBlockRealize([], tirx.const(True, "bool"), root))


def _tree(array: tirx.Buffer, combine: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> tirx.Expr:
    """All values of `array`, combined by halves: a few steps that wait for each other."""
    values = [array[n] for n in range(PAIRS)]
    while len(values) > 1:
        half = len(values) // 2
        values = [combine(a, b) for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def _rounded(value: tirx.Expr, inverse: tirx.Expr) -> tirx.Expr:
    """The bits of the nearest whole number."""
    whole = tirx.floor(value * inverse + T.float32(0.5))
    return whole.astype("int32").astype("uint32")
