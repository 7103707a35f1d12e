"""Write operators that the plan cuts as two operators, one for each device.

    y = op(x)                       x cut alike or x whole
    ->
    y_npu = op(x[:at])              on the NPU
    y_gpu = op(x[at:])              on the GPU
    y     = join(y_npu, y_gpu)      only where somebody needs all of y

A chain of operators that are cut alike hands its parts on: no join, nobody waits. A view of an
operand's part is `hetero_tvm.slice`, both parts together are `hetero_tvm.join`; neither computes
anything: `plan_memory` gives the parts one buffer. For that a part must be one block of memory,
which it is when the cut axis is outermost. Where it is not (columns of a matrix), each part is
stored with that axis first and readers of the whole read through a permutation:

    y_npu [M, n], y_gpu [M, N-n]  ->  permute_dims each  ->  join [N, M]  ->  permute_dims: [M, N]

Rows of an image likewise, stored channels last (`image_order`). What a convolution's part reads
through its window, its rows and the halo, is a slice of the whole: of such a join again a view.

What the plan has the GPU compute early is in two parts too, both on the GPU, and the one that the
NPU reads is written first: the NPU then begins while the GPU computes the other.

An output of the model in that form is returned as it lies; `Splitted.output_axes` says how to see
it, which costs nothing.

Requires: one function `main` of straight-line calls; a plan for exactly its operators; every cut
          is along an axis of `sharding.shardings`, and `sharding.fits`.
Ensures:  operators that are not cut keep their names; parts are called as `calls.parts_of` says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst, Op

from relay_passes.calls import OpPart, parts_of
from relay_passes.constant_file import Part, held_part
from relay_passes.constants import values_of
from relay_passes.image_order import image_results, stored_order
from relay_passes.op_work import VIEWS, dtype_bytes, op_name, static_shape, tensor_args
from relay_passes.plan import OpPlan, Plan
from relay_passes.planner.problem import Cut
from relay_passes.program import PlacementError
from relay_passes.sharding import (
    Sharding,
    argument_cut,
    argument_rows,
    is_contiguous,
    shard_call,
    shardings,
)

JOIN = "hetero_tvm.join"
SLICE = "hetero_tvm.slice"
PARTS = ("npu", "gpu")  # in the order of memory


@dataclasses.dataclass(frozen=True)
class Splitted:
    """The module with parts, and what stands where in it."""

    mod: IRModule
    device: Mapping[str, str]  # binding -> device; views are not in it
    region: Mapping[str, int]  # binding on the NPU -> its region
    output_axes: tuple[tuple[int, ...] | None, ...]  # permutation that gives each output's shape


def split_tensor(mod: IRModule, plan: Plan) -> Splitted:
    """Cut what `plan` cuts."""
    return _Splitter(mod, plan).run()


class _Splitter:
    """Writes the new `main`; one use."""

    def __init__(self, mod: IRModule, plan: Plan) -> None:
        self.mod = mod
        self.main = mod["main"]
        self.plans: dict[str, OpPlan] = {op.name: op for op in plan.ops}
        self.builder = relax.BlockBuilder(mod)
        self.bindings: list[relax.VarBinding] = []
        self.bound: set[str] = set()  # names of `bindings`
        self.now: dict[relax.Var, relax.Expr] = {p: p for p in self.main.params}  # old -> new
        self.parts: dict[relax.Var, tuple[Cut, dict[str, relax.Var]]] = {}  # of old variables
        self.calls: dict[relax.Var, relax.Call] = {}
        self.made: dict[tuple[object, ...], relax.Var] = {}  # joins, slices, permutations
        self.device: dict[str, str] = {}
        self.region: dict[str, int] = {}
        self.images = image_results(_calls(self.main))
        result = self.main.body.body
        self.outputs = set(result.fields if isinstance(result, relax.Tuple) else [result])
        self.names = {param.name for param in self.main.params} | set(self.plans)

    def run(self) -> Splitted:
        for block in self.main.body.blocks:
            for binding in block.bindings:
                self._binding(binding.var, binding.value)
        result, axes = self._result(self.main.body.body)
        body = relax.SeqExpr([relax.DataflowBlock(self.bindings)], result)
        main = relax.Function(self.main.params, body, result.ty, True, self.main.attrs)
        mod = IRModule(dict(self.mod.functions_items()), attrs=self.mod.attrs)
        mod["main"] = self.builder.normalize(main)
        return Splitted(mod, self.device, self.region, axes)

    # --- operators -------------------------------------------------------------------------------

    def _binding(self, var: relax.Var, value: relax.Expr) -> None:
        if not isinstance(value, relax.Call):
            self.now[var] = self._emit(var.name, self._mapped(value, None), None, None, of=var)
            return
        if var.name not in self.plans:
            raise PlacementError(f"the plan is for another program: {var.name} differs")
        plan = self.plans[var.name]
        self.calls[var] = value
        cut = plan.cut
        if cut is None:
            fresh = self._mapped(value, plan)
            self.now[var] = self._emit(var.name, fresh, plan.device, plan.region, of=var)
            return
        sharding = _sharding(value, cut, var.name)
        parts = {}
        for part in parts_of(plan):
            region = plan.region if part.device == "npu" else None
            args = []
            for i, arg in enumerate(tensor_args(value)):
                rows = argument_rows(sharding, cut, part.of, i)
                if rows is not None:
                    args.append(self._rows(arg, *rows, part.device, region))
                else:
                    own = argument_cut(value, sharding, cut, i)
                    args.append(self._part(arg, own, part, region))
            call = shard_call(value, sharding, cut, part.of, args)
            parts[part.of] = self._emit(self._name(part.name), call, part.device, region)
        self.parts[var] = (cut, parts)

    def _part(
        self, expr: relax.Expr, cut: Cut | None, reader: OpPart, region: int | None
    ) -> relax.Expr:
        """The part of a tensor that `reader` needs, or all of it where `cut` is None."""
        if isinstance(expr, GenericConst):
            return expr if cut is None else _constant_part(expr, cut.axis, *cut.of(reader.of))
        if cut is None:
            return self._whole(expr, reader.device, region)
        if isinstance(expr, relax.Var) and expr in self.parts and self.parts[expr][0] == cut:
            return self.parts[expr][1][reader.of]
        whole = self._whole(expr, reader.device, region)
        return self._slice(whole, cut.axis, *cut.of(reader.of), reader.device, region)

    def _rows(
        self, expr: relax.Expr, axis: int, begin: int, end: int, device: str, region: int | None
    ) -> relax.Expr:
        """[begin, end) of a tensor, whatever its own parts are."""
        if isinstance(expr, GenericConst):
            return _constant_part(expr, axis, begin, end)
        if (begin, end) == (0, (static_shape(expr.ty) or ())[axis]):
            return self._whole(expr, device, region)
        if expr in self.parts and op_name(self.calls[expr]) not in VIEWS:
            joined, axes = self._join(expr)
            if axes is not None and is_contiguous(static_shape(joined.ty) or (), axes[axis]):
                key = ("rows", expr, begin, end, device, region)
                if key not in self.made:
                    rows = self._slice(joined, axes[axis], begin, end, device, region)
                    back = relax.op.permute_dims(rows, list(axes))
                    name = self._name(f"{expr.name}_{device}_rows")
                    self.made[key] = self._emit(name, back, device, region)
                return self.made[key]
        whole = self._whole(expr, device, region)
        return self._slice(whole, axis, begin, end, device, region)

    def _slice(
        self, whole: relax.Var, axis: int, begin: int, end: int, device: str, region: int | None
    ) -> relax.Var:
        """[begin, end) of a tensor, as a view where that is one block of memory."""
        key = ("slice", whole, axis, begin, end, device, region)
        if key not in self.made:
            name = self._name(f"{whole.name}_{device}_part")
            shape = list(static_shape(whole.ty) or ())
            in_region = region is not None and self.region.get(whole.name) == region
            if is_contiguous(shape, axis) and not in_region:  # a region sees no memory of its own
                dtype = str(whole.ty.dtype)
                inner = int(np.prod(shape[axis + 1 :], dtype=np.int64)) * dtype_bytes(dtype)
                shape[axis] = end - begin
                call = _packed(SLICE, [whole, relax.prim_value(begin * inner)], shape, dtype)
                self.made[key] = self._emit(name, call, None, None)
            else:
                call = relax.op.strided_slice(whole, [axis], [begin], [end])
                self.made[key] = self._emit(name, call, device, region)
        return self.made[key]

    # --- the whole of what was cut ---------------------------------------------------------------

    def _whole(self, expr: relax.Expr, device: str | None, region: int | None) -> relax.Expr:
        """All of a tensor, to be read on `device`."""
        if not isinstance(expr, relax.Var):
            return expr
        if expr not in self.parts:
            return self.now[expr]
        call = self.calls[expr]
        if op_name(call) in VIEWS:
            # A view's memory is its operand's: that is what is joined.
            (data,) = tensor_args(call)
            whole = self._whole(data, device, region)
            # Of a tensor that lies in memory, no device computes it; inside a region, the NPU does.
            inside = region is not None and self.region.get(whole.name) == region
            where = (device, region) if inside else (None, None)
            key: tuple[object, ...] = ("view", expr, whole, *where)
            if key not in self.made:
                rest = [whole, *call.args[1:]]
                view = relax.Call(call.op, rest, call.attrs, call.ty_args)
                self.made[key] = self._emit(self._name(expr.name), view, *where, of=expr)
            return self.made[key]
        joined, axes = self._join(expr)
        if axes is None:
            return joined
        key = ("permuted", expr, device, region)
        if key not in self.made:
            back = relax.op.permute_dims(joined, list(axes))
            name = self._name(f"{expr.name}_{device}_whole")
            self.made[key] = self._emit(name, back, device, region)
        return self.made[key]

    def _join(self, var: relax.Var) -> tuple[relax.Var, tuple[int, ...] | None]:
        """Both parts of `var` in one buffer, and the permutation from there to its shape."""
        cut, parts = self.parts[var]
        shape = list(static_shape(var.ty) or ())
        axes: tuple[int, ...] | None = None
        stored = parts
        if not is_contiguous(shape, cut.axis):
            first = stored_order(shape, cut.axis, image=var in self.images)
            axes = tuple(first.index(a) for a in range(len(shape)))
            shape = [shape[a] for a in first]
            stored = {d: self._first(var, d, parts[d], first) for d in PARTS}
        key = ("join", var)
        if key not in self.made:
            call = _packed(JOIN, [stored[d] for d in PARTS], shape, str(var.ty.dtype))
            name = self._name(var.name if axes is None else f"{var.name}_joined")
            self.made[key] = self._emit(name, call, None, None, of=var)
        return self.made[key], axes

    def _first(self, var: relax.Var, device: str, part: relax.Var, first: list[int]) -> relax.Var:
        """`part` in the order of memory, stored so by its own device."""
        key = ("first", part)
        if key not in self.made:
            region = self.plans[var.name].region if device == "npu" else None
            call = relax.op.permute_dims(part, first)
            name = self._name(f"{part.name}_first")
            self.made[key] = self._emit(name, call, device, region)
        return self.made[key]

    # --- expressions -----------------------------------------------------------------------------

    def _mapped(self, expr: relax.Expr, plan: OpPlan | None) -> relax.Expr:
        """`expr` over the new variables."""
        device = plan.device if plan else None
        region = plan.region if plan else None
        if isinstance(expr, relax.Call):
            args = [self._mapped(arg, plan) for arg in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._mapped(field, plan) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._mapped(expr.tuple_value, plan), expr.index)
        if isinstance(expr, relax.Var):
            return self._whole(expr, device, region)
        return expr

    def _result(self, expr: relax.Expr) -> tuple[relax.Expr, tuple[tuple[int, ...] | None, ...]]:
        """What `main` returns; a join that is not in order is returned as it lies."""
        fields = list(expr.fields) if isinstance(expr, relax.Tuple) else [expr]
        results, axes = [], []
        for field in fields:
            permutation = None
            if isinstance(field, relax.Var) and field in self.parts:
                if op_name(self.calls[field]) in VIEWS:
                    whole = self._whole(field, "gpu", None)
                else:
                    whole, permutation = self._join(field)
            else:
                whole = self._mapped(field, None)
            results.append(whole)
            axes.append(permutation)
        if not isinstance(expr, relax.Tuple):
            return results[0], tuple(axes)
        return self.builder.normalize(relax.Tuple(results)), tuple(axes)

    def _emit(
        self,
        name: str,
        value: relax.Expr,
        device: str | None,
        region: int | None,
        of: relax.Var | None = None,
    ) -> relax.Var:
        """Bind `value`; `of` is the old variable that it stands for."""
        value = self.builder.normalize(value)
        is_output = of is not None and of in self.outputs
        var = relax.Var(name, value.ty) if is_output else relax.DataflowVar(name, value.ty)
        self.bindings.append(relax.VarBinding(var, value))
        self.bound.add(name)
        if device is not None:
            self.device[name] = device
            if device == "npu":
                assert region is not None, name
                self.region[name] = region
        return var

    def _name(self, wanted: str) -> str:
        """`wanted`, or the next free name like it; an operator that is cut frees its own."""
        plan = self.plans.get(wanted)
        if plan is not None and plan.cut is not None and wanted not in self.device:
            return wanted if not self._taken(wanted) else self._free(wanted)
        return self._free(wanted)

    def _taken(self, name: str) -> bool:
        return name in self.bound

    def _free(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name


def _sharding(call: relax.Call, cut: Cut, name: str) -> Sharding:
    for sharding in shardings(call):
        if sharding.axis == cut.axis:
            return sharding
    raise PlacementError(f"{name}: {op_name(call)} cannot be cut along axis {cut.axis}")


def _calls(main: relax.Function) -> Iterator[tuple[relax.Var, relax.Call]]:
    for block in main.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                yield binding.var, binding.value


def _constant_part(whole: GenericConst, axis: int, begin: int, end: int) -> relax.Expr:
    array = values_of(whole)
    index = [slice(None)] * array.ndim
    index[axis] = slice(begin, end)
    return held_part(array[tuple(index)], Part(whole, axis, begin, end))


def _packed(symbol: str, args: Sequence[relax.Expr], shape: list[int], dtype: str) -> relax.Call:
    """A call that no pass looks into; `plan_memory` resolves it."""
    ty = relax.TensorType(shape, dtype)
    packed = Op.get("relax.call_pure_packed")
    return relax.Call(packed, [relax.ExternFunc(symbol), *args], ty_args=[ty])
