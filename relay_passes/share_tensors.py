"""Make every tensor of a storage once, however often the program would, and no tuple for nobody.

    a = alloc_tensor(s, 0, (576,)); kernel(x, a)          a = alloc_tensor(s, 0, (576,))
    b = alloc_tensor(s, 0, (576,)); kernel(y, b)    ->    kernel(x, a); kernel(y, a)

A tensor is an address with a shape; equal layers have the same ones in turns, and the virtual
machine would make an object for each, and forget it, in every run. On a host that queues hundreds
of small kernels that is much of its work.

Requires: memory is planned (`plan_memory`) and its order checked (`ordering`), by the tensors'
          names before; straight-line functions.
Ensures:  the same calls on the same addresses in the same order.
"""

from __future__ import annotations

from collections.abc import Hashable

import tvm
from tvm import IRModule, relax
from tvm.ir import Op
from tvm.ir.transform import PassContext

from relay_passes.leaves import variables

_TENSOR = Op.get("relax.memory.alloc_tensor")


@tvm.transform.module_pass(opt_level=0, name="ShareTensors")
class ShareTensors:
    """Rewrite every Relax function."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """See above."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            if isinstance(func, relax.Function):
                result[name] = _without_unread_tuples(_with_shared_tensors(func))
        return result


def _with_shared_tensors(func: relax.Function) -> relax.Function:
    """With other names of tensors in place of equal ones, and of fields in place of fields."""
    first: dict[Hashable, relax.Var] = {}
    tuples: dict[relax.Var, relax.Tuple] = {}
    blocks = []
    for block in func.body.blocks:
        bindings = []
        for binding in block.bindings:
            var, value = binding.var, binding.value
            if isinstance(value, relax.Tuple):
                tuples[var] = value
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value in tuples:
                value = tuples[value.tuple_value].fields[value.index]
            elif isinstance(value, relax.Call) and value.op == _TENSOR:
                storage, offset, shape, dtype, *_ = value.args
                at = (int(offset.value), *(int(n) for n in shape.values), str(dtype.value))
                same = first.setdefault((storage, at), var)
                value = value if same == var else same
            bindings.append(binding if value is binding.value else relax.VarBinding(var, value))
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, func.body.body)
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)


def _without_unread_tuples(func: relax.Function) -> relax.Function:
    read = set(variables(func.body.body))
    blocks = []
    for block in reversed(func.body.blocks):
        bindings = []
        for binding in reversed(block.bindings):
            if isinstance(binding.value, relax.Tuple) and binding.var not in read:
                continue
            read.update(variables(binding.value))
            bindings.append(binding)
        blocks.append(type(block)(bindings[::-1]))
    body = relax.SeqExpr(blocks[::-1], func.body.body)
    written = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
    return relax.BlockBuilder().normalize(written)
