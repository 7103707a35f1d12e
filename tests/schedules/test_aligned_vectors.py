"""Constants that are only read by whole vectors are read so, where work-items run in lockstep.

On devices that do not read them as images.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from on_gpu import assert_close, gpu_spec, lower, module, normal, run_lowered
from tvm import relax

from hetero_tvm import vm_lowering
from schedules.host_memory import host_memory_pipeline
from schedules.tvm_target import tvm_target

_PHONE = "snapdragon-8-gen-3"
_WHOLE = "__global float4*)"


def _source(mod: tvm.IRModule, target: str) -> str:
    executable = tvm.compile(
        mod,
        target=tvm_target(dataclasses.replace(gpu_spec(target), image_pixels=None)),
        relax_pipeline=tvm.transform.Sequential(vm_lowering.lower_to_vm()),
        tir_pipeline=host_memory_pipeline(),
    )
    pending, sources = list(executable.mod.imports), []
    while pending:
        part = pending.pop()
        pending.extend(part.imports)
        if part.kind == "opencl":
            sources.append(part.inspect_source())
    return "\n".join(sources)


@pytest.mark.parametrize(("target", "whole"), [(_PHONE, True), ("host", False)])
def test_a_weight_is_read_by_whole_vectors(target, whole):
    x, weight = normal(1, 1, 512), normal(2, 512, 64)
    lowered = lower(
        module(lambda v: relax.op.matmul(v, relax.const(weight)), ((1, 512), "float32")), target
    )
    assert (_WHOLE in _source(lowered, target)) == whole
    (got,) = run_lowered(lowered, [x], target=target)
    assert_close(got, x.astype(np.float64) @ weight, 1e-5)


def test_nothing_is_promised_of_an_activation():
    lowered = lower(module(relax.op.nn.relu, ((64, 64), "float32")), _PHONE)
    assert _WHOLE not in _source(lowered, _PHONE)


def test_a_constant_that_is_also_read_by_elements_stays():
    constant = normal(1, 64, 6)  # rows of six: no vector of four starts at a multiple of four

    def build(x):
        return relax.op.add(x, relax.const(constant))

    x = normal(2, 3, 64, 6)
    lowered = lower(module(build, (x.shape, "float32")), _PHONE)
    assert _WHOLE not in _source(lowered, _PHONE)
    (got,) = run_lowered(lowered, [x], target=_PHONE)
    assert_close(got, x.astype(np.float64) + constant, 1e-6)
