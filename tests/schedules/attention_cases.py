"""Attention in float64, random cases of it, and one run of our kernels on the OpenCL device."""

from __future__ import annotations

import dataclasses

import numpy as np
import on_gpu
from hypothesis import strategies as st
from tvm import IRModule, relax

from schedules.attention import emit_attention
from schedules.attention_spec import Attention

# Of float32 sums in another order, and of results rounded to float16; both of the largest value.
TOLERANCE = {"float32": 1e-5, "float16": 1e-3}


def attention(**changes) -> Attention:
    """A small attention with grouped queries, changed."""
    plain = Attention(
        batch=1,
        rows=1,
        q_heads=4,
        kv_heads=2,
        head_dim=16,
        value_dim=16,
        max_context=70,
        dtype="float32",
        scale=0.25,
    )
    return dataclasses.replace(plain, **changes)


@st.composite
def cases(draw, rows: st.SearchStrategy[int]) -> tuple[Attention, int]:
    """An attention and a `past` that fits it; odd sizes are as likely as even ones."""
    count, past = draw(rows), draw(st.integers(0, 90))
    first = draw(st.sampled_from([0, 0, 1, 8]))  # of a part of a chunk
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    case = attention(
        batch=draw(st.integers(1, 2)),
        rows=count,
        q_heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=draw(st.sampled_from([head_dim, 16, 7])),
        max_context=past + first + count + draw(st.sampled_from([0, 1, 50])),
        dtype=draw(st.sampled_from(["float32", "float16"])),
        scale=head_dim**-0.5,
        window=draw(st.sampled_from([0, 0, 1, 5, 40])),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5])),
        first=first,
    )
    return case, past


def inputs(case: Attention, past: int, *, size: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    """Random operands; the cache holds NaN wherever nothing was written."""
    rng = np.random.default_rng(seed)
    shapes = (case.query_shape, case.key_shape, case.value_shape)
    arrays = [(size * rng.standard_normal(shape)).astype(case.dtype) for shape in shapes]
    for cache in arrays[1:]:
        cache[:, :, past + case.first + case.rows :] = np.nan
    return [*arrays, np.int32([past])]


def expected(case: Attention, arrays: list[np.ndarray]) -> np.ndarray:
    """The result in float64."""
    query, key, value = (array.astype(np.float64) for array in arrays[:3])
    past = int(arrays[3][0]) + case.first
    end = min(past + case.rows, case.max_context)
    key, value = (np.repeat(cache[:, :, :end], case.group, axis=1) for cache in (key, value))
    score = query @ key.swapaxes(2, 3) * case.scale
    if case.softcap:
        score = case.softcap * np.tanh(score / case.softcap)
    position, at = past + np.arange(case.rows)[:, None], np.arange(end)
    seen = at <= position
    if case.window:
        seen &= at > position - case.window
    score = np.where(seen, score, -np.inf)
    power = np.exp(score - score.max(axis=-1, keepdims=True))
    mixed = (power / power.sum(axis=-1, keepdims=True)) @ value
    return mixed.swapaxes(1, 2).reshape(case.out_shape)


def lowered(case: Attention, target: str = "host") -> IRModule:
    """`main` with the kernels for the target."""
    shapes = (case.query_shape, case.key_shape, case.value_shape)
    types = [(shape, case.dtype) for shape in shapes]
    params = [
        relax.Var(f"x{n}", relax.TensorType(shape, dtype))
        for n, (shape, dtype) in enumerate([*types, ((1,), "int32")])
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            call = emit_attention(builder, case, on_gpu.gpu_spec(target), params)
            result = builder.emit_output(call)
        builder.emit_func_output(result)
    return on_gpu.lower(builder.get(), target)


def run(case: Attention, arrays: list[np.ndarray], target: str = "host") -> np.ndarray:
    """The result on the device, with kernels made for `target`."""
    (result,) = on_gpu.run_lowered(lowered(case, target), arrays, target=target)
    return result


def check(case: Attention, arrays: list[np.ndarray], target: str = "host") -> None:
    """Compare with float64."""
    got = run(case, arrays, target)
    on_gpu.assert_close(got, expected(case, arrays), TOLERANCE[case.dtype])
