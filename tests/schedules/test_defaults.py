"""Every kernel of a mixed function is scheduled by our rules, for every target."""

from __future__ import annotations

import pytest
from on_gpu import gpu_spec, kernels, lower, module, normal
from tvm import relax

from schedules.defaults import default_legalizations, default_rules
from schedules.last_resort import LastResort

_TARGETS = ["host", "snapdragon-8-gen-3"]


def _mixed(x):
    weight = relax.const(normal(1, 32, 48))
    product = relax.op.nn.softmax(relax.op.matmul(x, weight))
    return relax.op.sum(relax.op.permute_dims(product, [1, 0]), axis=[1])


@pytest.mark.parametrize("target", _TARGETS)
def test_every_kernel_is_bound_to_the_device(target):
    lowered = lower(module(_mixed, ((20, 32), "float32")), target)
    assert len(kernels(lowered)) >= 3
    for kernel in kernels(lowered).values():
        assert kernel.attrs["tirx.is_scheduled"] == 1
        assert "blockIdx.x" in kernel.script()


@pytest.mark.parametrize("target", _TARGETS)
def test_the_last_rule_always_answers(target):
    assert isinstance(default_rules(gpu_spec(target))[-1], LastResort)


def test_rows_are_ours_only_where_an_item_is_a_core():
    assert "relax.nn.softmax" in default_legalizations(gpu_spec("host"))
    assert "relax.nn.softmax" not in default_legalizations(gpu_spec("snapdragon-8-gen-3"))
