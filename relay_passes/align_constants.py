"""Promise kernels that their constants begin where whole vectors may begin.

    kernel(w: Buffer(.., "float32"))  ->  kernel(w: Buffer(.., "float32", align=128))

A constant has memory of its own, and an OpenCL allocation starts at a multiple of 128 bytes at
least. An activation may be a view into another one, or the user's memory: nothing is promised.
What a code generator makes of it: `schedules/aligned_vectors.py`.

Requires: kernels are called from `main` alone.
Ensures:  a parameter carries the promise only if every call hands it a constant.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import IRModule, tirx
from tvm.ir.expr import GenericConst
from tvm.ir.transform import PassContext

from relay_passes.tir_calls import callee

# OpenCL 3.0, CL_DEVICE_MEM_BASE_ADDR_ALIGN: at least the size of long16.
CONSTANT_ALIGNMENT = 128


@tvm.transform.module_pass(opt_level=0, name="AlignConstants")
class AlignConstants:
    """Put `data_alignment` on the parameters that are constants."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """The module with such kernels replaced."""
        constant: dict[tvm.ir.GlobalVar, list[bool]] = {}
        for block in mod["main"].body.blocks:
            for binding in block.bindings:
                call = binding.value
                if callee(mod, call) is None:
                    continue
                given = [isinstance(value, GenericConst) for value in call.args[1].fields]
                before = constant.get(call.args[0], given)
                constant[call.args[0]] = [a and b for a, b in zip(before, given, strict=True)]
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, flags in constant.items():
            if any(flags):
                result[name] = _promise(mod[name], flags)
        return result


def _promise(func: tirx.PrimFunc, flags: list[bool]) -> tirx.PrimFunc:
    """`func` with aligned buffers for the parameters whose flag is set."""
    aligned = {
        param: tirx.decl_buffer(
            param.shape,
            param.dtype,
            param.name,
            scope=param.scope(),
            data_alignment=CONSTANT_ALIGNMENT,
        )
        for param, is_constant in zip(func.params, flags, strict=False)
        if is_constant
    }
    return tvm_ffi.structural_map(func, [(tirx.Var, lambda var: aligned.get(var, var))])
