"""Lower what is left in `main` to scheduled OpenCL kernels.

    high-level operators ▸ tensor programs ▸ fused kernels ▸ schedules

Legalisations and schedule rules are handed in: this folder does not know how kernels are written.
Calls to NPU regions (`call_dps_packed`) and CPU kernels (opaque, scheduled) pass through untouched.

Requires: one function `main`, static shapes; NPU regions lowered, CPU operators lowered.
Ensures:  no high-level operator that has a legalisation is left; every PrimFunc is scheduled and
          carries `hetero.ops`, the names of the source bindings computed by it; `main` carries
          `hetero.calls`, the same for each call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.ir.transform import PassContext
from tvm.relax import transform
from tvm.s_tir import dlight
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target import Target

from relay_passes.align_arguments import AlignArguments
from relay_passes.channels_last import ChannelsLast
from relay_passes.constant_file import forget_pages, looked_at, moved
from relay_passes.fold_constant_views import FoldConstantViews
from relay_passes.keep_broadcasts_apart import KeepBroadcastsApart
from relay_passes.keep_joined_parts import KeepJoinedParts
from relay_passes.kernel_names import names_by_call
from relay_passes.store_permuted import StorePermuted
from relay_passes.tir_calls import kernel_name

# PrimFunc attribute: names of the bindings of the imported model that this kernel computes.
OPS_ATTR = "hetero.ops"
# Attribute of `main`: the same for each call of a kernel, by the variable that it is bound to.
CALLS_ATTR = "hetero.calls"
# Attribute of `main`: of each call of several kernels that were joined, the same for each result.
RESULTS_ATTR = "hetero.results"
Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def lower_gpu(
    mod: IRModule,
    *,
    target: Target,
    legalizations: Mapping[str, Legalize],
    rules: Sequence[ScheduleRule],
) -> IRModule:
    """Run the whole lowering; the result is ready for the virtual machine's own passes."""
    with target:
        return tvm.transform.Sequential(lower_gpu_passes(legalizations, rules), name="LowerGpu")(
            mod
        )


def lower_gpu_passes(
    legalizations: Mapping[str, Legalize], rules: Sequence[ScheduleRule]
) -> list[tvm.transform.Pass]:
    """The passes of `lower_gpu`, in order. To be run under the GPU target."""
    return [
        transform.CanonicalizeBindings(),
        transform.DecomposeOpsForInference(),
        # Weights must be constants when layouts and panels are chosen.
        FoldConstantViews(),
        # Before legalisation: layouts are attributes of operators, not of loops.
        ChannelsLast(),
        FoldConstantViews(),
        FuseKernels(legalizations),
        # Before scheduling, which hides that a kernel only renames; a reshape is a view from here,
        # but for parts of a join, which must be where the join is.
        KeepJoinedParts(),
        transform.RewriteDataflowReshape(),
        dlight.ApplyDefaultSchedule(*rules),
        AlignArguments(),
    ]


@tvm.transform.module_pass(opt_level=0, name="FuseKernels")
class FuseKernels:
    """Legalise and fuse; give every kernel the names of the bindings that it computes."""

    def __init__(self, legalizations: Mapping[str, Legalize]) -> None:
        self.legalizations = {op: _in_file(legal) for op, legal in legalizations.items()}

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """`call_tir` on fused PrimFuncs, each with the attribute `hetero.ops`."""
        originals = {binding.var.name for binding in _bindings(mod["main"])}
        legal = transform.LegalizeOps(self.legalizations)(mod)
        forget_pages()  # the next ones look at every constant that was made, and at no other
        legal = tvm.transform.Sequential(
            [
                transform.AnnotateTIROpPattern(),
                transform.FoldConstant(),
                transform.DeadCodeElimination(),
            ]
        )(legal)
        forget_pages()
        legal = tvm.transform.Sequential([StorePermuted(), KeepBroadcastsApart()])(legal)
        # Nothing is left to remove when kernels are merged: calls stay one for one.
        fused = transform.DeadCodeElimination()(transform.FuseOps()(legal))
        calls = [
            (callee, [name for name in dict.fromkeys(computed) if name in originals])
            for callee, computed in names_by_call(legal, fused)
        ]
        names: dict[str, list[str]] = {}
        for callee, computed in calls:
            names.setdefault(callee, []).extend(computed)
        merged = transform.DeadCodeElimination()(transform.FuseTIR()(fused))
        for var, func in merged.functions_items():
            if isinstance(func, tirx.PrimFunc):
                ops = list(dict.fromkeys(names.get(var.name_hint, [])))
                merged[var] = func.with_attr(OPS_ATTR, ops)
        main = _UniqueNames(merged).visit_expr(merged["main"])
        made = [(b.var.name, kernel) for b in _bindings(main) if (kernel := kernel_name(b.value))]
        assert [kernel for _, kernel in made] == [callee for callee, _ in calls]
        by_call = {var: computed for (var, _), (_, computed) in zip(made, calls, strict=True)}
        merged["main"] = main.with_attr(CALLS_ATTR, by_call)
        return merged


def _in_file(legalize: Legalize) -> Legalize:
    """`legalize` with the constants that it makes where large ones are held."""

    def held(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        made = legalize(builder, call)
        looked_at(call.args)
        if not (isinstance(made, relax.Call) and made.op == Op.get("relax.call_tir")):
            return made
        callee, operands, *rest = made.args
        fields = relax.Tuple([moved(field) for field in operands.fields])
        return relax.Call(made.op, [callee, fields, *rest], made.attrs, made.ty_args)

    return held


@relax.expr_functor.mutator
class _UniqueNames(relax.PyExprMutator):
    """Gives variables that are called like an earlier one a name of their own."""

    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self._names: set[str] = set()

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        return self._unique(var, relax.DataflowVar)

    def visit_var_def_(self, var: relax.Var) -> relax.Var:
        return self._unique(var, relax.Var)

    def _unique(self, var: relax.Var, kind: type[relax.Var]) -> relax.Var:
        if var.name not in self._names:
            self._names.add(var.name)
            return var
        number = next(n for n in itertools.count(1) if f"{var.name}_{n}" not in self._names)
        fresh = kind(f"{var.name}_{number}", var.ty)
        self._names.add(fresh.name)
        self.set_var_remap(var, fresh)
        return fresh


def _bindings(func: relax.Function) -> list[relax.Binding]:
    return [binding for block in func.body.blocks for binding in block.bindings]
