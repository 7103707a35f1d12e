"""Which operators decide whether something is a number; HTP makes numbers of what is none.

Exporters guard rows of attention that see nothing:

    p = softmax(where(seen, scores, -inf))      a row of -inf: NaN
    where(isnan(p), 0, p)                       0 in its place

An HTP has no NaN there: such a row comes out as its mean or as zeros, and an infinite constant as
float16's largest number. So where a program asks (isnan, isinf, isfinite), what the answer rests on
stays off an NPU of float16: back to the products, whose results are numbers.

Requires: `main` of straight-line code.
Ensures:  the same module gives the same answer.
"""

from __future__ import annotations

from tvm import IRModule, relax

from relay_passes.op_work import VIEWS, op_name, op_work, tensor_args
from relay_passes.rewrite_bindings import dataflow_bindings

_TESTS = frozenset({"relax.isnan", "relax.isinf", "relax.isfinite"})
_PASSES_ON = VIEWS | {"relax.nn.softmax", "relax.nn.log_softmax", "relax.max", "relax.sum"}
_REASON = "the model asks whether this is a number, and the NPU makes numbers of infinite rows"


def nan_declines(mod: IRModule) -> dict[str, str]:
    """Binding name -> why that operator must stay off the NPU; empty where nothing asks."""
    calls = {
        binding.var: binding.value
        for binding in dataflow_bindings(mod["main"])
        if isinstance(binding.value, relax.Call)
    }
    left = [arg for call in calls.values() if op_name(call) in _TESTS for arg in tensor_args(call)]
    found: dict[str, str] = {}
    while left:
        var = left.pop()
        call = calls.get(var)
        if call is None or var.name in found or not _passes_on(call):
            continue
        found[var.name] = _REASON
        left += tensor_args(call)
    return found


def _passes_on(call: relax.Call) -> bool:
    """Whether a NaN or an infinity among its operands shows in its result."""
    return op_name(call) in _PASSES_ON or op_work(call).fuses
