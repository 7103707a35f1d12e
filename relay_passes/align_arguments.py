"""Promise kernels that some arguments begin where whole vectors may begin.

    kernel(w: Buffer(.., "float32"))  ->  kernel(w: Buffer(.., "float32", align=128))

A constant has memory of its own, and so has what another kernel made; an OpenCL allocation starts
at a multiple of 128 bytes at least. A part of a join is somewhere inside of it, a slice likewise,
and an input of the program is the user's memory: for those nothing is promised.
What a code generator makes of it: `schedules/aligned_vectors.py`.

Requires: kernels are called from `main` alone.
Ensures:  a parameter carries the promise only if every call hands it such a tensor.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.ir.expr import GenericConst
from tvm.ir.transform import PassContext

from relay_passes.keep_joined_parts import joined_parts
from relay_passes.tir_calls import callee, is_call_tir

# OpenCL 3.0, CL_DEVICE_MEM_BASE_ADDR_ALIGN: at least the size of long16.
ALIGNMENT = 128
# `offset_factor` of a constant. Where the offset is zero TVM makes nothing of it, and it is a field
# that reaches the device's function.
CONSTANT = 128


@tvm.transform.module_pass(opt_level=0, name="AlignArguments")
class AlignArguments:
    """Put `data_alignment` on the parameters that are constants or kernels' results."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """The module with such kernels replaced."""
        own = _own_memory(mod["main"])
        promised: dict[tvm.ir.GlobalVar, list[bool]] = {}
        constant: dict[tvm.ir.GlobalVar, list[bool]] = {}
        for block in mod["main"].body.blocks:
            for binding in block.bindings:
                call = binding.value
                if callee(mod, call) is None:
                    continue
                fields = list(call.args[1].fields)
                lasting = [isinstance(value, GenericConst) for value in fields]
                given = [a or value in own for a, value in zip(lasting, fields, strict=True)]
                for kept, new in ((promised, given), (constant, lasting)):
                    before = kept.get(call.args[0], new)
                    kept[call.args[0]] = [a and b for a, b in zip(before, new, strict=True)]
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, flags in promised.items():
            if any(flags):
                result[name] = _promise(mod[name], flags, constant[name])
        return result


def _own_memory(main: relax.Function) -> set[relax.Var]:
    """Results of kernels, by any shape, that begin where an allocation does."""
    joined = joined_parts(main)
    own: set[relax.Var] = set()
    root: dict[relax.Var, relax.Var] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            var, value = binding.var, binding.value
            if is_call_tir(value):
                own.add(var)
                continue
            same = _same_memory(value)
            if same in own:
                own.add(var)
                root[var] = root.get(same, same)
    inside = {root.get(var, var) for var in joined}
    return {var for var in own if var not in inside and root.get(var, var) not in inside}


def _same_memory(value: relax.Expr) -> relax.Expr | None:
    """What begins where `value` begins."""
    if isinstance(value, relax.Var):
        return value
    if isinstance(value, relax.TupleGetItem):
        return value.tuple_value
    if isinstance(value, relax.Call) and value.op == Op.get("relax.reshape"):
        return value.args[0]
    return None


def _promise(func: tirx.PrimFunc, flags: list[bool], lasting: list[bool]) -> tirx.PrimFunc:
    """`func` with aligned buffers for the parameters whose flag is set."""
    aligned = {
        param: tirx.decl_buffer(
            param.shape,
            param.dtype,
            param.name,
            scope=param.scope(),
            data_alignment=ALIGNMENT,
            **({"elem_offset": 0, "offset_factor": CONSTANT} if is_constant else {}),
        )
        for param, is_promised, is_constant in zip(func.params, flags, lasting, strict=False)
        if is_promised
    }
    return tvm_ffi.structural_map(func, [(tirx.Var, lambda var: aligned.get(var, var))])
