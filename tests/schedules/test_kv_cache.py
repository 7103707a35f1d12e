"""New rows are written where the cache lies."""

from __future__ import annotations

import numpy as np
import on_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from schedules.kv_cache import update_kv_kernel


def _write(held, new, past, dtype, target):
    """The cache after one write, as a function of the module's own cache."""
    gpu = on_gpu.gpu_spec(target)
    types = [relax.TensorType(shape, dtype) for shape in (held, new)]
    params = [relax.Var("cache", types[0]), relax.Var("rows", types[1])]
    params.append(relax.Var("past", relax.TensorType((1,), "int32")))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        func = builder.add_func(update_kv_kernel(list(held), list(new), dtype, gpu), "update_kv")
        # A copy, since the tensors of this test's caller are not to be changed.
        with builder.dataflow():
            copy = builder.emit(relax.op.add(params[0], relax.const(0, dtype)))
            call = relax.op.call_tir_inplace(func, [copy, *params[1:]], [0], [types[0]])
            result = builder.emit_output(call)
        builder.emit_func_output(result)
    return on_gpu.lower(builder.get(), target)


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 9, 32, 40]), st.integers(1, 40)
    ),
    room=st.integers(0, 20),
    past=st.integers(0, 25),
    dtype=st.sampled_from(["float32", "float16"]),
    target=st.sampled_from(["host", "snapdragon-8-gen-3"]),
)
def test_rows_inside_the_cache_are_written_and_nothing_else(shape, room, past, dtype, target):
    batch, heads, rows, dim = shape
    held = (batch, heads, rows + room, dim)
    cache, new = on_gpu.normal(1, *held, dtype=dtype), on_gpu.normal(2, *shape, dtype=dtype)
    want = cache.copy()
    inside = max(0, min(rows, held[2] - past))
    want[:, :, past : past + inside] = new[:, :, :inside]
    mod = _write(held, shape, past, dtype, target)
    (got,) = on_gpu.run_lowered(mod, [cache, new, np.int32([past])], target=target)
    np.testing.assert_array_equal(got, want)
