"""A gate is not the head of the kernel that applies it."""

from __future__ import annotations

import tvm
from on_gpu import kernels, lower, module, normal
from tvm import relax
from tvm.relax import transform

from relay_passes.keep_broadcasts_apart import KeepBroadcastsApart

_PLANE, _GATE = (1, 8, 8, 16), (1, 1, 1, 16)
_INJECTIVE = 2


def _gated(x, pooled):
    gate = relax.op.sigmoid(relax.op.matmul(pooled, relax.const(normal(1, 16, 16))))
    return relax.op.multiply(x, gate)


def _patterns(mod: tvm.IRModule) -> dict[str, int]:
    order = [transform.LegalizeOps(), transform.AnnotateTIROpPattern(), KeepBroadcastsApart()]
    after = tvm.transform.Sequential(order)(mod)
    return {
        binding.value.args[0].name_hint: after[binding.value.args[0]].attrs["op_pattern"]
        for block in after["main"].body.blocks
        for binding in block.bindings
    }


def test_spreading_a_contraction_is_marked():
    patterns = _patterns(module(_gated, (_PLANE, "float32"), (_GATE, "float32")))
    assert [p for name, p in patterns.items() if name.startswith("multiply")] == [_INJECTIVE]


def test_gate_and_product_are_two_kernels():
    lowered = lower(module(_gated, (_PLANE, "float32"), (_GATE, "float32")))
    assert len(kernels(lowered)) == 2


def test_a_bias_or_a_mask_still_joins_the_contraction():
    def build(x, mask):
        product = relax.op.matmul(x, relax.const(normal(1, 16, 32)))
        return relax.op.add(relax.op.add(product, relax.const(normal(2, 32))), mask)

    lowered = lower(module(build, ((8, 16), "float32"), ((1, 32), "float32")))
    assert len(kernels(lowered)) == 1


def test_an_element_wise_small_operand_is_left_alone():
    def build(x, small):
        return relax.op.multiply(x, relax.op.exp(small))

    patterns = _patterns(module(build, (_PLANE, "float32"), (_GATE, "float32")))
    assert _INJECTIVE not in patterns.values()
