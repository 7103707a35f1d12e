"""A decode step as one function: the same numbers as two, for every number of pieces."""

from __future__ import annotations

import dataclasses

import numpy as np
import on_gpu
import pytest
from attention_cases import TOLERANCE, attention, expected, inputs
from sketch_families import LOCKSTEP
from tvm import IRModule, relax

from hetero_tvm import runtime
from schedules.attention import emit_attention, step_kernel
from schedules.attention_space import Written, build, room
from schedules.limits import limits
from schedules.trials import TrialDevice, parameters, plain
from schedules.tvm_target import tvm_target

_GPUS = {"core": on_gpu.gpu_spec(), "lockstep": LOCKSTEP}


def _run(case, gpu, pieces, arrays):
    """What the step writes; memory that it has to write holds NaN."""
    default = Written.of(step_kernel(case, gpu))
    tile = {**default.tile, "pieces": pieces}
    func = plain(build(dataclasses.replace(default, tile=tile), limits(gpu)))
    device = TrialDevice(None, on_gpu.device(), runtime.sync)
    run = device.load(IRModule({"main": func.without_attr("tirx.is_scheduled")}), tvm_target(gpu))
    rest = [np.full(shape, np.nan, dtype) for shape, dtype in parameters(func)[len(arrays) :]]
    given = [device.tensor(array) for array in [*arrays, *rest]]
    run["main"](*given)
    runtime.sync()
    return [tensor.numpy() for tensor in given[len(arrays) :]]


@pytest.mark.parametrize("gpu", _GPUS)
@pytest.mark.parametrize("past", [0, 31, 399])
def test_any_number_of_pieces(gpu, past):
    case = attention(batch=2, max_context=400)
    arrays = inputs(case, past)
    for pieces in (1, 3, room(case)):
        out, sums, stats = _run(case, _GPUS[gpu], pieces, arrays)
        on_gpu.assert_close(out, expected(case, arrays), TOLERANCE[case.dtype])
        # Nothing is written behind the pieces that there are.
        assert np.isnan(sums[:, :, pieces:]).all() and np.isnan(stats[:, :, pieces:]).all()
        assert np.isfinite(sums[:, :, :pieces]).all()


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
def test_in_a_program_it_is_one_function_with_planned_memory(target):
    case = attention(max_context=200, window=50)
    types = [*((s, case.dtype) for s in (case.query_shape, case.key_shape, case.value_shape))]

    def call(*params):
        made = emit_attention(
            builder, case, on_gpu.gpu_spec(target), list(params), {case}.__contains__
        )
        return builder.emit_output(made)

    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{n}", relax.TensorType(shape, dtype))
        for n, (shape, dtype) in enumerate([*types, ((1,), "int32")])
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = call(*params)
        builder.emit_func_output(result)
    mod = on_gpu.lower(builder.get(), target)
    assert list(on_gpu.kernels(mod)) == ["attention_step"]
    arrays = inputs(case, 150)
    (got,) = on_gpu.run_lowered(mod, arrays, target=target)
    on_gpu.assert_close(got, expected(case, arrays), TOLERANCE[case.dtype])
