"""Give every tensor its memory, both parts of a split tensor one buffer, and order the devices.

    alloc_tensor ▸ kernel(x, y)          storage, shared by tensors that never live together
    join(a, b)                           a and b are views of one buffer; the join is gone
    slice(x)                             a view of x
    GPU after NPU, NPU after GPU, ..     call_packed("hetero_tvm.wait", waiter, on[, but for])

One walk over the program in order. GPU kernels go to an in-order queue, NPU regions to an in-order
worker, CPU kernels run at once; nobody blocks but where a wait says so. Each device's work has
tickets 1, 2, 3, ..; `known[d][e]` is the last ticket of `e` that is done before `d`'s next work
starts (vector clocks: C. J. Fidge, 1988; F. Mattern, 1989). A wait is inserted just before the
first work that needs it, and serves everything that its device was given before; a wait for the NPU
leaves out the regions that were submitted after the one that is needed. For each pair of
devices that is the least number of waits: every needed order is an interval between two program
points, and stabbing intervals at their earliest ends is optimal.

Storage is taken over from a dead tensor only where that needs no further wait. All of it is
allocated before any work is given out: storage that the host has passed by goes back to TVM's
pool, which may give it out again while a queued kernel still uses it.

Requires: straight-line functions after `CallTIRRewrite`, static shapes; every call of a kernel or a
          region writes those arguments that nothing wrote before it; a kernel may also change
          arguments in place (its TIR says which), which nobody reads but behind it.
Ensures:  no `alloc_tensor`, `join` or `slice` is left; `ordering.violations` finds nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection

import tvm
from tvm import IRModule, relax
from tvm.ir import GlobalVar, Op
from tvm.ir.transform import PassContext

from relay_passes.leaves import variables
from relay_passes.op_work import dtype_bytes, static_shape
from relay_passes.program import PlacementError
from relay_passes.split_tensor import JOIN, SLICE
from relay_passes.tir_calls import StoredParams

WAIT = "hetero_tvm.wait"
VIEW = "hetero_tvm.view"
NUMBER = {"cpu": 0, "gpu": 1, "npu": 2}  # as the runtime counts devices
DeviceOf = Callable[[IRModule, relax.Expr], str]
# Whoever had memory before the call may have left GPU work on it.
_CALLERS = {"gpu": 0}
_ALIGNMENT = 64  # of storage sizes: whole cache lines, so that sizes match more often


@dataclasses.dataclass
class _Buffer:
    """Memory of one tensor, or of a join with its parts."""

    nbytes: int
    last_use: int = -1  # position of the last binding that touches it
    is_output: bool = False
    is_join: bool = False  # both devices write it
    storage: _Storage | None = None
    before: dict[str, int] = dataclasses.field(default_factory=dict)
    """Device -> ticket of its last use of the memory as something else."""
    base: relax.Var | None = None  # the tensor that covers all of it
    shape: tuple[int, ...] = ()
    dtype: str = ""
    writes: list[tuple[int, int, str, int]] = dataclasses.field(default_factory=list)
    """First byte, one past the last, device, ticket."""

    def made(self, begin: int, end: int) -> dict[str, int]:
        """Device -> ticket of its last write into the bytes."""
        found: dict[str, int] = {}
        for first, past, device, ticket in self.writes:
            if first < end and begin < past:
                found[device] = max(ticket, found.get(device, -1))
        return found


@dataclasses.dataclass
class _Place:
    """Where a variable's tensor lies: in a buffer of ours, or in memory of somebody else."""

    buffer: _Buffer
    offset: int


@dataclasses.dataclass
class _Storage:
    """A piece of memory that tensors use one after the other."""

    nbytes: int
    var: relax.Var
    touched: dict[str, int]  # device -> ticket of its last access


@tvm.transform.module_pass(opt_level=0, name="PlanMemory")
class PlanMemory:
    """Rewrite every Relax function. `device_of(mod, callee)` says where a call runs."""

    def __init__(self, device_of: DeviceOf) -> None:
        self.device_of = device_of

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Plan and write."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            if isinstance(func, relax.Function):
                result[name] = _Writer(mod, func, self.device_of).run()
        return result


def npu_or_kernel(regions: Collection[str], host_attr: str) -> DeviceOf:
    """The rule of our pipeline: regions by symbol, kernels by attribute, the rest on the CPU."""

    def device_of(mod: IRModule, callee: relax.Expr) -> str:
        if isinstance(callee, GlobalVar):
            attrs = mod[callee].attrs
            return "cpu" if attrs is not None and host_attr in attrs else "gpu"
        return "npu" if str(getattr(callee, "global_symbol", "")) in regions else "cpu"

    return device_of


class _Writer:
    """One function; one use."""

    def __init__(self, mod: IRModule, func: relax.Function, device_of: DeviceOf) -> None:
        self.mod = mod
        self.func = func
        self.device_of = device_of
        self.builder = relax.BlockBuilder(mod)
        self.old = [binding for block in func.body.blocks for binding in block.bindings]
        self.allocations: list[relax.VarBinding] = []
        self.new: list[relax.VarBinding] = []
        self.alias: dict[relax.Var, relax.Expr] = {}  # variable -> what it is another name of
        self.place: dict[relax.Var, _Place] = {}
        self.waiting: set[relax.Var] = set()  # allocated by the program, not written yet
        self.free: list[_Storage] = []
        self.tickets = {"cpu": 0, "gpu": 0, "npu": 0}
        # What was queued on the GPU before the call may still run; NPU work never outlives a call.
        self.known = {d: {"cpu": 0, "gpu": -1, "npu": 0} for d in NUMBER}
        self.known["gpu"]["gpu"] = 0
        # What is done when a device's work is, by its ticket.
        self.carried = {d: {0: dict(known)} for d, known in self.known.items()}
        self.dying: dict[int, list[_Buffer]] = {}  # position of the last use -> buffers
        self.stored = StoredParams(mod)

    def run(self) -> relax.Function:
        self._resolve()
        for position, binding in enumerate(self.old):
            self._write(position, binding)
        result = self.func.body.body
        # The caller sees the GPU's queue, but not the NPU's worker.
        if self.tickets["npu"] > self.known["cpu"]["npu"]:
            self._wait(
                "cpu", "npu", self.tickets["npu"]
            )  # no job may outlive the memory of this call
        body = relax.SeqExpr([relax.BindingBlock(self.allocations + self.new)], result)
        params, attrs = self.func.params, self.func.attrs
        written = relax.Function(params, body, self.func.ret_ty, self.func.is_pure, attrs)
        return self.builder.normalize(written)

    # --- what lies where -------------------------------------------------------------------------

    def _resolve(self) -> None:
        """Find every variable's buffer, joins from their ends, and how long each is needed."""
        for param in self.func.params:
            self._adopt(param)
        for binding in self.old:
            self._resolve_binding(binding.var, binding.value)
        for position, binding in enumerate(self.old):
            for var in variables(binding.value):
                found = self._find(var)
                if found is not None:
                    found.buffer.last_use = position
        for var in variables(self.func.body.body):
            found = self._find(var)
            if found is not None:
                found.buffer.is_output = True
        for buffer in {id(place.buffer): place.buffer for place in self.place.values()}.values():
            self.dying.setdefault(buffer.last_use, []).append(buffer)

    def _resolve_binding(self, var: relax.Var, value: relax.Expr) -> None:
        if _is_alloc(value):
            shape, dtype = _shape_of(var), str(var.ty.dtype)
            nbytes = math.prod(shape) * dtype_bytes(dtype)
            self.place[var] = _Place(_Buffer(nbytes, shape=shape, dtype=dtype), 0)
            self.waiting.add(var)
            return
        symbol = _symbol(value)
        if symbol == JOIN:
            self._resolve_join(var, value)
        elif symbol == SLICE:
            whole = self._find(value.args[0])
            assert whole is not None
            begin = int(value.args[1].value)
            self.place[var] = _Place(whole.buffer, whole.offset + begin)
        elif _is_reshape(value):
            found = self._find(value.args[0])
            if found is not None:
                self.place[var] = _Place(found.buffer, found.offset)
        elif isinstance(value, relax.Var | relax.Tuple | relax.TupleGetItem):
            self.alias[var] = value
        elif isinstance(var.ty, relax.TensorType):
            self._adopt(var)

    def _resolve_join(self, var: relax.Var, value: relax.Call) -> None:
        shape, dtype = _shape_of(var), str(var.ty.dtype)
        nbytes = math.prod(shape) * dtype_bytes(dtype)
        whole = _Buffer(nbytes, shape=shape, dtype=dtype, is_join=True)
        offset = 0
        for part in value.args:
            found = self._find(part)
            if found is None or found.buffer.base is not None or found.buffer.is_join:
                raise PlacementError(f"main: {part.name} is not of its own, {var.name} joins it")
            size = found.buffer.nbytes
            # Everything that lies in the part's buffer lies in the whole's from now on.
            for place in self.place.values():
                if place.buffer is found.buffer and place is not found:
                    place.buffer, place.offset = whole, place.offset + offset
            found.buffer, found.offset = whole, offset
            offset += size
        assert offset == whole.nbytes, f"{var.name}: parts of {offset} B in {whole.nbytes} B"
        self.place[var] = _Place(whole, 0)

    def _adopt(self, var: relax.Var) -> None:
        """Memory that is not ours to plan: an input, a result of a packed call."""
        if not isinstance(var.ty, relax.TensorType):
            return
        buffer = _Buffer(1, base=var, is_output=True)
        self.place[var] = _Place(buffer, 0)
        # The caller may have queued GPU work that writes an input: ticket 0.
        buffer.writes.append((0, 1, "gpu", 0))

    def _find(self, expr: relax.Expr) -> _Place | None:
        while isinstance(expr, relax.Var) and expr in self.alias:
            expr = self.alias[expr]
            if isinstance(expr, relax.TupleGetItem):
                whole = self._tuple(expr.tuple_value)
                expr = whole.fields[expr.index] if whole is not None else expr.tuple_value
        return self.place.get(expr) if isinstance(expr, relax.Var) else None

    def _tuple(self, expr: relax.Expr) -> relax.Tuple | None:
        while isinstance(expr, relax.Var) and expr in self.alias:
            expr = self.alias[expr]
        return expr if isinstance(expr, relax.Tuple) else None

    # --- writing ---------------------------------------------------------------------------------

    def _write(self, position: int, binding: relax.VarBinding) -> None:
        var, value = binding.var, binding.value
        symbol = _symbol(value)
        if _is_alloc(value):
            return  # with its first use, when its writer is known
        if symbol == JOIN:
            buffer = self.place[var].buffer
            assert buffer.base is not None, "a join of parts that nothing wrote"
            self._bind(var, buffer.base)
        elif symbol == SLICE:
            (whole, begin) = value.args
            self._bind(var, _view(whole, int(begin.value), _shape_of(var), str(var.ty.dtype)))
        elif isinstance(value, relax.Call) and self._computes(value):
            self._compute(binding)
        else:
            self.new.append(binding)
        self._release(position)

    def _computes(self, call: relax.Call) -> bool:
        if isinstance(call.op, GlobalVar):
            return True
        return isinstance(call.op, relax.ExternFunc)

    def _compute(self, binding: relax.VarBinding) -> None:
        call = binding.value
        device = self.device_of(self.mod, call.op)
        touched = [
            (var, place) for var in variables(call) if (place := self._find(var)) is not None
        ]
        fresh = [self._is_fresh(var) for var, _ in touched]
        writes = [access for access, is_fresh in zip(touched, fresh, strict=True) if is_fresh]
        for var, place in writes:
            self._materialise(var, place, device)
        changed = {call.args[number] for number in self.stored.of(call.op)}
        writes += [
            (var, place)
            for (var, place), is_fresh in zip(touched, fresh, strict=True)
            if not is_fresh and var in changed
        ]
        needs: dict[str, int] = {}
        for (var, place), is_fresh in zip(touched, fresh, strict=True):
            earlier = place.buffer.before if is_fresh else self._made(var, place)
            for on, last in earlier.items():
                needs[on] = max(last, needs.get(on, last))
        self._order(device, needs)
        ticket = self.tickets[device] = self.tickets[device] + 1
        self.known[device][device] = ticket
        self.carried[device][ticket] = dict(self.known[device])
        if device == "cpu":  # the host submits: whatever comes later sees what it did
            for other in self.known.values():
                other["cpu"] = ticket
        for _, place in touched:
            if place.buffer.storage is not None:
                place.buffer.storage.touched[device] = ticket
        for var, place in writes:
            place.buffer.writes.append((*self._range(var, place), device, ticket))
        if isinstance(binding.var.ty, relax.TensorType) and binding.var in self.place:
            self.place[binding.var].buffer.writes = [(0, 1, device, ticket)]
        self.new.append(binding)

    def _range(self, var: relax.Var, place: _Place) -> tuple[int, int]:
        if place.buffer.nbytes == 1:  # of somebody else: all of it
            return 0, 1
        nbytes = math.prod(_shape_of(var)) * dtype_bytes(str(var.ty.dtype))
        return place.offset, place.offset + nbytes

    def _made(self, var: relax.Var, place: _Place) -> dict[str, int]:
        return place.buffer.made(*self._range(var, place))

    def _is_fresh(self, var: relax.Var) -> bool:
        """Allocated, and not written yet."""
        return var in self.waiting

    def _materialise(self, var: relax.Var, place: _Place, device: str) -> None:
        """Bind `var` to memory that `device` may write at once."""
        buffer = place.buffer
        if buffer.base is None:
            self._allocate(buffer, device, var.name)
        assert buffer.base is not None
        shape, dtype = _shape_of(var), str(var.ty.dtype)
        whole = buffer.nbytes == math.prod(shape) * dtype_bytes(dtype)
        if whole and shape == buffer.shape and dtype == buffer.dtype:
            self._bind(var, buffer.base)
        else:
            self._bind(var, _view(buffer.base, place.offset, shape, dtype))
        self.waiting.remove(var)

    def _allocate(self, buffer: _Buffer, device: str, name: str) -> None:
        shape = relax.ShapeExpr(buffer.shape)
        if buffer.is_output:
            call = relax.op.builtin.alloc_tensor(shape, buffer.dtype, 0)
            buffer.base = self._bound(f"{name}_memory", call, self.allocations)
            buffer.before = dict(_CALLERS)
            return
        storage = self._storage(buffer.nbytes, ("gpu", "npu") if buffer.is_join else (device,))
        buffer.storage = storage
        buffer.before = dict(storage.touched)
        call = relax.op.memory.alloc_tensor(storage.var, 0, shape, buffer.dtype)
        buffer.base = self._bound(f"{name}_memory", call, self.new)

    def _storage(self, nbytes: int, writers: Collection[str]) -> _Storage:
        """The smallest free storage that fits and that `writers` may write without waiting."""
        size = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        usable = [
            storage
            for storage in self.free
            if storage.nbytes >= size and all(self._is_known(d, storage.touched) for d in writers)
        ]
        if usable:
            best = min(usable, key=lambda storage: storage.nbytes)
            if best.nbytes <= max(2 * size, size + 4096):
                self.free.remove(best)
                return best
        call = relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")
        return _Storage(size, self._bound("storage", call, self.allocations), dict(_CALLERS))

    def _release(self, position: int) -> None:
        """Give back storage of buffers that nothing after `position` touches."""
        for buffer in self.dying.get(position, []):
            if buffer.storage is not None:
                self.free.append(buffer.storage)

    # --- order -----------------------------------------------------------------------------------

    def _is_known(self, device: str, tickets: dict[str, int]) -> bool:
        return all(
            other == device or self.known[device][other] >= ticket
            for other, ticket in tickets.items()
        )

    def _order(self, device: str, tickets: dict[str, int]) -> None:
        """Wait on `device` for work that it does not know to be done."""
        missing = {
            other: ticket
            for other, ticket in tickets.items()
            if other != device and self.known[device][other] < ticket
        }
        for on in sorted(missing):
            # One device's work may have waited for the other's: then to wait for it is enough.
            carried = self.carried[on][self._waited_for(on, missing[on])]
            if all(carried[other] >= missing[other] for other in missing.keys() - {on}):
                self._wait(device, on, missing[on])
                return
        for on in sorted(missing):
            self._wait(device, on, missing[on])

    def _waited_for(self, on: str, ticket: int) -> int:
        """The last work that a wait for `ticket` waits for: regions can be told apart."""
        return max(ticket, 0) if on == "npu" else self.tickets[on]

    def _wait(self, device: str, on: str, ticket: int) -> None:
        last = self._waited_for(on, ticket)
        numbers = [relax.prim_value(NUMBER[device]), relax.prim_value(NUMBER[on])]
        if last < self.tickets[on]:
            numbers.append(relax.prim_value(self.tickets[on] - last))
        call = relax.Call(relax.ExternFunc(WAIT), numbers, ty_args=[relax.TupleType([])])
        self.new.append(relax.VarBinding(relax.Var("wait", relax.TupleType([])), self._norm(call)))
        seen = self.carried[on][last]
        for other, ticket in seen.items():
            self.known[device][other] = max(self.known[device][other], ticket)
        if device == "cpu":
            # The host goes on after it: so does everything that it submits.
            for waiter in self.known.values():
                for other, ticket in seen.items():
                    waiter[other] = max(waiter[other], ticket)

    # --- bindings --------------------------------------------------------------------------------

    def _norm(self, value: relax.Expr) -> relax.Expr:
        return self.builder.normalize(value)

    def _bound(self, name: str, value: relax.Expr, where: list[relax.VarBinding]) -> relax.Var:
        value = self._norm(value)
        var = relax.Var(name, value.ty)
        where.append(relax.VarBinding(var, value))
        return var

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        self.new.append(relax.VarBinding(var, self._norm(value)))


def _is_alloc(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and value.op == Op.get("relax.builtin.alloc_tensor")


def _is_reshape(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and value.op == Op.get("relax.reshape")


def _symbol(value: relax.Expr) -> str | None:
    if isinstance(value, relax.Call) and isinstance(value.op, relax.ExternFunc):
        return str(value.op.global_symbol)
    return None


def _shape_of(var: relax.Var) -> tuple[int, ...]:
    shape = static_shape(var.ty)
    assert shape is not None, f"{var.name}: dynamic shape"
    return shape


def _view(base: relax.Expr, offset: int, shape: tuple[int, ...], dtype: str) -> relax.Call:
    args = [base, relax.prim_value(offset), relax.ShapeExpr(shape)]
    return relax.Call(relax.ExternFunc(VIEW), args, ty_args=[relax.TensorType(shape, dtype)])
