"""Constants with all of their bits, where TVM would print seven digits of them.

    x * 0.33333334f  ->  x * as_float(0x3eaaaaab)

Seven digits are one too few for some floats: a power of two such as 2^-16 becomes its neighbour.

Requires: device functions after vectorisation, flattening and host/device split; half is gone.
Ensures:  every float32 constant of an OpenCL kernel is read back as the one that was meant.
"""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule, tirx
from tvm.ir.transform import PassContext


@tvm.transform.module_pass(opt_level=0, name="ExactConstants")
class ExactConstants:
    """Rewrite OpenCL kernels."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Functions for the CPU, which are not printed, are returned as they are."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is not None and target.kind.name == "opencl":
                result[name] = tvm_ffi.structural_map(func, [(tirx.FloatImm, _exact)])
        return result


def _exact(number: tirx.FloatImm) -> tirx.Expr:
    value = np.float32(number.value)
    printed = np.float32(float(f"{float(value):.6e}"))
    if str(number.ty) != "float32" or not np.isfinite(value) or printed == value:
        return number
    bits = tirx.const(int(value.view(np.uint32)), "uint32")
    return tirx.call_pure_extern("float32", "as_float", bits)
