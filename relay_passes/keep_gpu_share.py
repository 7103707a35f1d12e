"""Have a program say at its begin how much of the GPU's time it may take, and at its end no more.

    main(x): ...   ->   main(x): hetero_tvm.gpu_share(600000); ...; hetero_tvm.gpu_share(1000000)

The runtime then leaves gaps between stretches of kernels. It is in the code, as waits are, so that
whoever loads an artefact, in whatever language, need not know of it; a share that the user sets
where it runs goes before. Where a function fails, `whole_call` takes the share back.

Requires: functions are no longer dataflow; after `ordering.CheckOrder`.
Ensures:  the same bindings between the two calls; of a share of 1 nothing.
"""

from __future__ import annotations

import tvm
from tvm import IRModule, relax
from tvm.ir.transform import PassContext

GPU_SHARE = "hetero_tvm.gpu_share"
WHOLE = 1_000_000  # shares are given in millionths


@tvm.transform.module_pass(opt_level=0, name="KeepGpuShare")
class KeepGpuShare:
    """Rewrite every Relax function. `share`: of the GPU's time, above 0 and at most 1."""

    def __init__(self, share: float) -> None:
        self.share = max(1, round(share * WHOLE))

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """A share of all the time leaves the module as it is."""
        if self.share >= WHOLE:
            return mod
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            if isinstance(func, relax.Function):
                result[name] = self._between(func)
        return result

    def _between(self, func: relax.Function) -> relax.Function:
        blocks = [_says(self.share), *func.body.blocks, _says(WHOLE)]
        body = relax.SeqExpr(blocks, func.body.body)
        written = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
        return relax.BlockBuilder().normalize(written)


def _says(share: int) -> relax.BindingBlock:
    nothing = relax.TupleType([])
    call = relax.Call(relax.ExternFunc(GPU_SHARE), [relax.prim_value(share)], ty_args=[nothing])
    value = relax.BlockBuilder().normalize(call)
    return relax.BindingBlock([relax.VarBinding(relax.Var("share", nothing), value)])
