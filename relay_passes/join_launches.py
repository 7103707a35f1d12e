"""Neighbouring GPU kernels become one, where whoever writes kernels says that it pays.

    y = call_tir(a, (x,))                r = call_tir(a_then_b, (x, w))
    z = call_tir(b, (y, w))      ->      y = r[0]; z = r[1]

Every result stays one, whether somebody else reads it or not: what is saved is the launch.

How kernels are joined, and when that pays, is handed in. Here is looked for what could be joined:
calls that follow each other, with nothing between them but names of their results. Memory that is
written in one of them is known by one name only, so that a kernel's parameters never overlap.

Requires: scheduled kernels; views are `relax.reshape`.
Ensures:  the same bindings of the same values; `hetero.calls` names what the new calls compute, and
          `hetero.results` whose value each of their results is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Sequence
from typing import Protocol

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar, Op
from tvm.ir.transform import PassContext

from relay_passes.leaves import variables
from relay_passes.lower_cpu import HOST_ATTR
from relay_passes.lower_gpu import CALLS_ATTR, OPS_ATTR, RESULTS_ATTR

_CALL, _IN_PLACE = Op.get("relax.call_tir"), Op.get("relax.call_tir_inplace")
_RESHAPE = Op.get("relax.reshape")
_LONGEST_NAME = 60


class Join(Protocol):
    """One function that does what several do one after the other, or None; see `Joiner.join`."""

    def __call__(  # noqa: D102
        self,
        funcs: Sequence[tirx.PrimFunc],
        places: Sequence[Sequence[int]],
        count: int,
        given: int,
    ) -> tirx.PrimFunc | None: ...


@tvm.transform.module_pass(opt_level=0, name="JoinLaunches")
class JoinLaunches:
    """Rewrite `main`. `apart`: names of kernels that stay as they are."""

    def __init__(self, join: Join, apart: Collection[str] = ()) -> None:
        self.join = join
        self.apart = frozenset(apart)

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """The module with joined kernels; kernels that nobody calls any more are gone."""
        return _Rewriter(mod, self.join, self.apart).run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    """One call of a kernel."""

    var: relax.Var
    kernel: GlobalVar
    args: tuple[relax.Expr, ...]
    types: tuple[relax.TensorType, ...]  # of its results
    in_place: tuple[int, ...]  # of each result: the argument that it is, or -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wiring:
    """How calls share the parameters of one function: first what is given, then what is new."""

    given: tuple[relax.Expr, ...]
    places: tuple[tuple[int, ...], ...]  # of each call: which parameters those of its kernel are
    results: tuple[int, ...]  # of all results of all calls: which parameters they are
    count: int


class _Rewriter:
    """One module; one use."""

    def __init__(self, mod: IRModule, join: Join, apart: frozenset[str]) -> None:
        self.mod = mod
        self.join = join
        self.apart = apart
        self.main = mod["main"]
        self.builder = relax.BlockBuilder(mod)
        attrs = self.main.attrs or {}
        self.names = {str(k): [str(v) for v in vs] for k, vs in attrs.get(CALLS_ATTR, {}).items()}
        self.results: dict[str, list[list[str]]] = {}
        self.tried: dict[Hashable, tirx.PrimFunc | None] = {}
        self.whole = _whole_tuples(self.main)
        self.field: dict[relax.Var, tuple[relax.Var, int]] = {}  # a name of a field of a tuple
        self.memory: dict[Hashable, Hashable] = {}  # what is no memory of its own -> whose it is
        self.steps: list[_Step] = []  # that are joined so far, by the last wiring
        self.wiring: _Wiring | None = None
        self.held: list[relax.VarBinding] = []  # these calls, and names of what they make

    def run(self) -> IRModule:
        """The rewritten module."""
        blocks = [self._block(block) for block in self.main.body.blocks]
        if not self.results:
            return self.mod
        old = self.main
        body = relax.SeqExpr(blocks, old.body.body)
        main = relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs)
        main = main.with_attr({CALLS_ATTR: self.names, RESULTS_ATTR: self.results})
        main = self.builder.normalize(main)
        result = self.builder.get()
        result["main"] = main
        left = _called(old) - _called(main)
        functions = {var: f for var, f in result.functions.items() if var.name_hint not in left}
        return IRModule(functions, attrs=result.attrs)

    def _block(self, block: relax.BindingBlock) -> relax.BindingBlock:
        is_dataflow = isinstance(block, relax.DataflowBlock)
        done: list[relax.VarBinding] = []
        for binding in block.bindings:
            step = self._step(binding)
            ours = {one.var for one in self.held}.intersection(variables(binding.value))
            if step is not None:
                if not self._extended(step):
                    done += self._flushed(is_dataflow=is_dataflow)
                    self.steps = [step]
                self.held.append(binding)
            elif _is_name(binding.value) and ours:
                self.held.append(binding)
            elif _is_name(binding.value):
                done.append(binding)
            else:
                done += [*self._flushed(is_dataflow=is_dataflow), binding]
            self._note(binding, step)
        return type(block)([*done, *self._flushed(is_dataflow=is_dataflow)])

    def _step(self, binding: relax.VarBinding) -> _Step | None:
        """The call of a kernel that may be joined."""
        call, var = binding.value, binding.var
        if not _is_kernel_call(call) or len(call.args) != 2 or var in self.whole:
            return None
        kernel = call.args[0]
        func = self.mod[kernel]
        if kernel.name_hint in self.apart or HOST_ATTR in (func.attrs or {}):
            return None
        is_tuple = isinstance(var.ty, relax.TupleType)
        types = tuple(var.ty.fields) if is_tuple else (var.ty,)
        in_place = tuple(-1 for _ in types)
        if call.op == _IN_PLACE:
            in_place = tuple(int(n) for n in call.attrs.inplace_indices)
        args = tuple(call.args[1].fields)
        return _Step(var=var, kernel=kernel, args=args, types=types, in_place=in_place)

    # --- what is where ---------------------------------------------------------------------------

    def _note(self, binding: relax.VarBinding, step: _Step | None) -> None:
        """Remember whose memory the variable shows."""
        value, var = binding.value, binding.var
        if step is not None:
            for n, arg in enumerate(step.in_place):
                if arg >= 0:
                    self.memory[var, n] = self._memory_of(step.args[arg])
            if len(step.types) == 1:
                self.field[var] = (var, 0)
        elif isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Var):
            self.field[var] = (value.tuple_value, int(value.index))
        elif not _is_kernel_call(value):
            shown = next(variables(value), None)  # the operand of a view, as far as we know
            if shown is not None:
                self.memory[var] = self._memory_of(shown)

    def _memory_of(self, expr: relax.Expr) -> Hashable:
        """Equal for what may lie in the same memory."""
        key: Hashable = self.field.get(expr, expr)
        return self.memory.get(key, key)

    def _wired(self, steps: Sequence[_Step]) -> _Wiring | None:
        """None where memory that is written would be known by two parameters."""
        given: dict[relax.Expr, int] = {}
        made: dict[tuple[relax.Var, int], int] = {}  # numbers below zero, for now
        fresh: list[Hashable] = []
        written: set[int] = set()
        places: list[list[int]] = []
        results: list[int] = []
        for step in steps:
            own = [
                made[field]
                if (field := self.field.get(arg)) in made
                else given.setdefault(arg, len(given))
                for arg in step.args
            ]
            for n, arg in enumerate(step.in_place):
                if arg < 0:
                    fresh.append((step.var, n))
                    own.append(-len(fresh))
                elif own[arg] < 0 or own[arg] in written:
                    return None
                place = own[-1] if arg < 0 else own[arg]
                made[step.var, n] = place
                written.add(place)
                results.append(place)
            places.append(own)
        known: dict[Hashable, int] = {}
        owners = [(self._memory_of(expr), place) for expr, place in given.items()]
        owners += [(key, -1 - n) for n, key in enumerate(fresh)]
        for key, place in owners:
            other = known.setdefault(key, place)
            if other != place and (other in written or place in written):
                return None

        def final(place: int) -> int:
            return place if place >= 0 else len(given) - 1 - place

        return _Wiring(
            given=tuple(given),
            places=tuple(tuple(map(final, own)) for own in places),
            results=tuple(map(final, results)),
            count=len(given) + len(fresh),
        )

    # --- joining ---------------------------------------------------------------------------------

    def _extended(self, step: _Step) -> bool:
        """Join `step` with those before it, if that is possible and pays."""
        if not self.steps:
            return False
        names = [one.kernel.name_hint for one in self.steps]
        if step.kernel.name_hint in names[:-1]:
            return False  # else equal layers would be cut at other places each, into other kernels
        steps = [*self.steps, step]
        wiring = self._wired(steps)
        if wiring is None or self._kernel(steps, wiring) is None:
            return False
        self.steps, self.wiring = steps, wiring
        return True

    def _kernel(self, steps: Sequence[_Step], wiring: _Wiring) -> tirx.PrimFunc | None:
        """The function that does all of them; None: they stay apart."""
        key = (tuple(step.kernel.name_hint for step in steps), wiring.places)
        if key not in self.tried:
            funcs = [self.mod[step.kernel] for step in steps]
            self.tried[key] = None
            func = self.join(funcs, wiring.places, wiring.count, len(wiring.given))
            if func is not None:
                ops = [str(op) for func in funcs for op in func.attrs.get(OPS_ATTR) or ()]
                func = func.with_attr(OPS_ATTR, list(dict.fromkeys(ops)))
                self.tried[key] = func
        return self.tried[key]

    def _flushed(self, *, is_dataflow: bool) -> list[relax.VarBinding]:
        """The bindings that are held, as a joined call if there are several calls."""
        steps, wiring, held = self.steps, self.wiring, self.held
        self.steps, self.wiring, self.held = [], None, []
        if wiring is None:
            return held
        func = self._kernel(steps, wiring)
        callee = self.builder.add_func(func, _name_of([step.kernel.name_hint for step in steps]))
        types = [ty for step in steps for ty in step.types]
        if any(place < len(wiring.given) for place in wiring.results):
            in_place = [place if place < len(wiring.given) else -1 for place in wiring.results]
            call = relax.op.call_tir_inplace(callee, list(wiring.given), in_place, types)
        else:
            call = relax.call_tir(callee, list(wiring.given), types)
        call = self.builder.normalize(call)
        kind = relax.DataflowVar if is_dataflow else relax.Var
        var = kind(f"joined_{len(self.results)}", call.ty)
        bindings = [relax.VarBinding(var, call)]
        computed = [self.names.pop(step.var.name, [step.var.name]) for step in steps]
        self.names[var.name] = [name for names in computed for name in names]
        self.results[var.name] = [
            names or [step.var.name]
            for names, step in zip(computed, steps, strict=True)
            for _ in step.types
        ]
        numbers: dict[tuple[relax.Var, int], int] = {}
        for step in steps:
            for n in range(len(step.types)):
                numbers[step.var, n] = len(numbers)
        joined = {step.var for step in steps}
        for binding in held:
            field = self.field.get(binding.var)
            if field in numbers:
                value = self.builder.normalize(relax.TupleGetItem(var, numbers[field]))
                bindings.append(relax.VarBinding(binding.var, value))
            elif binding.var not in joined:
                bindings.append(binding)
        return bindings


def _is_kernel_call(value: relax.Expr) -> bool:
    is_call = isinstance(value, relax.Call) and value.op in (_CALL, _IN_PLACE)
    return is_call and isinstance(value.args[0], GlobalVar)


def _is_name(value: relax.Expr) -> bool:
    """Whether it is only another name of something, of another shape maybe."""
    is_reshape = isinstance(value, relax.Call) and value.op == _RESHAPE
    return is_reshape or isinstance(value, relax.TupleGetItem | relax.Var)


def _called(func: relax.Function) -> set[str]:
    """Names of the kernels that `func` calls."""
    bindings = (binding for block in func.body.blocks for binding in block.bindings)
    values = (binding.value for binding in bindings)
    return {value.args[0].name_hint for value in values if _is_kernel_call(value)}


def _whole_tuples(func: relax.Function) -> set[relax.Var]:
    """Variables of tuples that are read as a whole, not only field by field."""
    found = set(variables(func.body.body))
    for block in func.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding.value, relax.TupleGetItem):
                found.update(variables(binding.value))
    return {var for var in found if isinstance(var.ty, relax.TupleType)}


def _name_of(kernels: Sequence[str]) -> str:
    """What a function that does what `kernels` do is called."""
    whole = "_then_".join(kernels)
    return whole if len(whole) <= _LONGEST_NAME else f"{kernels[0][:_LONGEST_NAME]}_and_more"
