"""Reductions across a group, by sub-groups and without, agree with float64."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import assert_close, gpu_spec, kernels, lower, module, normal, run
from tvm import IRModule, relax

from schedules import group_reduction
from schedules.group_reduction import with_functions
from schedules.launches import launches_of
from schedules.tvm_target import tvm_target

_PHONE = "snapdragon-8-gen-3"


def _source(build, shape, dtype="float32"):
    (kernel,) = kernels(lower(module(build, (shape, dtype)), _PHONE)).values()
    mod = IRModule({"main": kernel.with_attr("global_symbol", "main")})
    return launches_of(mod, tvm_target(gpu_spec(_PHONE))).source


def _no_sub_groups(monkeypatch):
    """As on a device whose compiler knows no sub-groups."""
    monkeypatch.setattr(group_reduction, "_EXTENSION", "")


@pytest.fixture(params=["sub_groups", "parts"])
def form(request, monkeypatch):
    if request.param == "parts":
        _no_sub_groups(monkeypatch)
    return request.param


@pytest.mark.parametrize("shape", [(6, 700), (3, 256), (2, 33), (1, 5000)], ids=str)
def test_softmax_has_the_numbers_of_float64(form, shape):
    x = 4 * normal(len(form), *shape)
    got = run(relax.op.nn.softmax, x, target=_PHONE)
    want = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    assert_close(got, want / want.sum(-1, keepdims=True), 1e-6)


@pytest.mark.parametrize("name", ["sum", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_every_reduction_of_a_row(form, name, dtype):
    x = (100 * normal(3, 5, 777)).astype(dtype)
    got = run(lambda v: getattr(relax.op, name)(v, axis=[-1]), x, target=_PHONE)
    assert_close(got, getattr(np, name)(x.astype(np.float64), -1), 1e-6)


def test_a_maximum_of_nothing_but_minus_infinity(form):
    x = np.full((3, 300), -np.inf, np.float32)
    got = run(lambda v: relax.op.max(v, axis=[-1]), x, target=_PHONE)
    np.testing.assert_array_equal(got, np.full(3, -np.inf, np.float32))


def test_a_kernel_brings_the_functions_that_it_calls():
    source = _source(relax.op.nn.softmax, (6, 700))
    assert source.count("float hetero_group_add_float(float x") == 1
    assert source.count("float hetero_group_max_float(float x") == 1
    assert "hetero_group_min" not in source
    scratch = [line for line in source.splitlines() if "__local" in line and "scratch_ptr[" in line]
    assert scratch and all("[256]" in line for line in scratch)


def test_items_beside_each_other_are_left_to_tvm():
    """A product whose items share the depth adds up in parts of a group."""
    weight = relax.const(normal(1, 4096, 256))
    source = _source(lambda v: relax.op.matmul(v, weight), (1, 4096))
    assert "hetero_group_" not in source


def test_other_sources_stay_as_they_are():
    assert with_functions("__kernel void f() {}") == "__kernel void f() {}"


def test_two_numbers_at_once_are_left_to_tvm():
    x = normal(1, 4, 600)
    got = run(lambda v: relax.op.argmax(v, axis=1), x, target=_PHONE)
    np.testing.assert_array_equal(got, x.argmax(1))
