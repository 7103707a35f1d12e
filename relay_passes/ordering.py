"""Does every access to memory happen after those that it must come after?

    kernel(x, y); wait(npu, gpu); region(y, z)        y is written before it is read: nothing to say
    kernel(x, y); region(y, z)                        reported

Reads a function as `PlanMemory` leaves it and works out from the meaning of its calls alone which
bytes each one touches, and what is sure to be done when it starts:

- each device does its work in the order in which it was given;
- the host gives it out in order, so what the CPU did is done before everything after it;
- `wait(waiter, on)` puts what `on` was given before it before what `waiter` is given after it,
  `wait(waiter, npu, n)` all of it but the last n regions;
  a wait of the CPU stops the host, and so puts it before everything that is given later.

A call writes those arguments whose bytes nothing has written since their tensor was made, and those
that its kernel stores to: that changes them in place.

Two calls on different devices are in conflict when they touch the same bytes, one of them writes,
and neither is sure to be done before the other starts. Besides the calls of the function:

- the GPU may still be busy with the caller's work, which may write the inputs and may touch the
  memory that the function is given for its own tensors;
- storage goes back to the allocator when the host has passed the last call that names it, and may
  be given out again at once. Jobs of the NPU keep their tensors; kernels in the GPU's queue do not;
- when the function returns, its NPU jobs must be done. The GPU's queue is the caller's too.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import tvm
import tvm_ffi
from tvm import IRModule, relax
from tvm.ir import GlobalVar, Op
from tvm.ir.transform import PassContext

from relay_passes.op_work import dtype_bytes, static_shape
from relay_passes.plan_memory import NUMBER, VIEW, WAIT, DeviceOf
from relay_passes.tir_calls import StoredParams

_DEVICES = {number: device for device, number in NUMBER.items()}
_ALLOCATIONS = ("relax.memory.alloc_storage", "relax.builtin.alloc_tensor")


def violations(mod: IRModule, device_of: DeviceOf) -> list[str]:
    """Every pair of accesses in the Relax functions of `mod` that is not ordered, in words."""
    found = []
    for name, func in mod.functions.items():
        if isinstance(func, relax.Function):
            reader = _Reader(mod, func, device_of)
            reader.read()
            found += [f"{name.name_hint}: {what}" for what in reader.complaints()]
    return found


@tvm_ffi.register_error  # so that it leaves a TVM pass as what it is
class DisorderError(AssertionError):
    """A compiled function touches memory in an order that nothing guarantees: a bug of ours."""


@tvm.transform.module_pass(opt_level=0, name="CheckOrder")
class CheckOrder:
    """Refuse a module with `violations`; leave any other as it is.

    It runs in every build: a missing wait shows as a wrong number once in a thousand runs, and only
    on the device.
    """

    def __init__(self, device_of: DeviceOf) -> None:
        self.device_of = device_of

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """The same module; raises `DisorderError`."""
        found = violations(mod, self.device_of)
        if found:
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            raise DisorderError(f"memory is touched out of order: {found[0]}{more}")
        return mod


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """Something that a device does."""

    index: int
    name: str
    device: str
    before: int  # bit i: work i is sure to be done when this starts


@dataclasses.dataclass(eq=False)
class _Memory:
    """A piece of memory, and who touched which bytes of it."""

    name: str
    born: int  # position of the binding that allocates it; -1: the caller's
    dead: int  # position of the last binding that names it
    accesses: list[tuple[_Work, int, int, bool]]  # first byte, one past the last, writes


@dataclasses.dataclass(eq=False)
class _Tensor:
    """What one allocation of a tensor made; views of it are `_Bytes`."""

    memory: _Memory
    offset: int  # in the memory
    written: list[tuple[int, int]]  # bytes of the tensor that have a value

    def state(self, begin: int, end: int) -> str:
        """`all`, `none` or `some` of the bytes have a value."""
        have = sum(max(0, min(end, b) - max(begin, a)) for a, b in self.written)
        return "none" if have == 0 and end > begin else "all" if have >= end - begin else "some"


@dataclasses.dataclass(frozen=True)
class _Bytes:
    """What a variable names."""

    tensor: _Tensor
    begin: int  # in the tensor
    nbytes: int


class _Reader:
    """One function; one use."""

    def __init__(self, mod: IRModule, func: relax.Function, device_of: DeviceOf) -> None:
        self.mod = mod
        self.func = func
        self.device_of = device_of
        self.bindings = [b for block in func.body.blocks for b in block.bindings]
        self.value: dict[relax.Var, relax.Expr] = {}
        self.bytes: dict[relax.Var, _Bytes] = {}
        self.storage: dict[relax.Var, _Memory] = {}
        self.memories: list[_Memory] = []
        self.works: list[_Work] = []
        self.stored = StoredParams(mod)
        # Per device: all that its next work comes after.
        self.next = dict.fromkeys(NUMBER, 0)
        self.done: dict[str, list[int]] = {device: [] for device in NUMBER}  # .. when each is
        self.odd: list[str] = []  # what is wrong with the program itself
        self.callers = self._work("the caller's work", "gpu")

    def read(self) -> None:
        for param in self.func.params:
            if isinstance(param.ty, relax.TensorType):
                tensor = self._new_tensor(param, self._memory(param.name, -1), 0)
                tensor.written.append((0, _nbytes(param)))
                tensor.memory.accesses.append((self.callers, 0, _nbytes(param), True))
        for position, binding in enumerate(self.bindings):
            self._binding(position, binding.var, binding.value)
            for var in self._variables(binding.value) | {binding.var}:
                self._use(var, position)
        for var in self._variables(self.func.body.body):
            self._use(var, len(self.bindings))

    def complaints(self) -> list[str]:
        """What was found."""
        found = list(self.odd)
        for memory in self.memories:
            for one, two in itertools.combinations(memory.accesses, 2):
                if one[1] < two[2] and two[1] < one[2] and (one[3] or two[3]):
                    found += self._unordered(one, two, memory.name)
            found += self._reused(memory)
        for work in self.works:
            if work.device == "npu" and not self.next["cpu"] >> work.index & 1:
                found.append(f"{work.name} may run on when the function has returned")
        return found

    # --- pairs -----------------------------------------------------------------------------------

    def _unordered(
        self, one: tuple[_Work, int, int, bool], two: tuple[_Work, int, int, bool], where: str
    ) -> list[str]:
        first, second = sorted((one, two), key=lambda access: access[0].index)
        if first[0] is second[0] or second[0].before >> first[0].index & 1:
            return []
        verbs = ["writes" if access[3] else "reads" for access in (first, second)]
        return [
            f"{second[0].name} {verbs[1]} {where} on the {second[0].device} and does not wait for "
            f"{first[0].name}, which {verbs[0]} it on the {first[0].device}"
        ]

    def _reused(self, memory: _Memory) -> list[str]:
        """Who touches `memory` while a kernel may still use it as something else."""
        if memory.born < 0:
            return []
        earlier = {self.callers: "the caller's memory"}
        for other in self.memories:
            if 0 <= other.dead < memory.born:
                for work, *_ in other.accesses:
                    if work.device == "gpu":
                        earlier[work] = other.name
        return [
            f"{work.name} touches {memory.name} on the {work.device} and does not wait for "
            f"{before.name} on the gpu, whose {name} may have been the same memory"
            for work in dict.fromkeys(access[0] for access in memory.accesses)
            for before, name in earlier.items()
            if work is not before and not work.before >> before.index & 1
        ]

    # --- bindings --------------------------------------------------------------------------------

    def _binding(self, position: int, var: relax.Var, value: relax.Expr) -> None:
        self.value[var] = value
        if not isinstance(value, relax.Call):
            return
        symbol = str(value.op.global_symbol) if isinstance(value.op, relax.ExternFunc) else None
        if symbol == WAIT:
            waiter, on, *behind = (int(arg.value) for arg in value.args)
            self._wait(_DEVICES[waiter], _DEVICES[on], *behind)
        elif symbol == VIEW:
            self._view(var, value.args[0], int(value.args[1].value))
        elif isinstance(value.op, GlobalVar | relax.ExternFunc):
            self._call(position, var, value)
        elif value.op == Op.get("relax.reshape"):
            self._view(var, value.args[0], 0)
        elif str(value.op.name) in _ALLOCATIONS:
            memory = self._memory(var.name, position)
            if isinstance(var.ty, relax.TensorType):
                self._new_tensor(var, memory, 0)
            else:
                self.storage[var] = memory
        elif value.op == Op.get("relax.memory.alloc_tensor"):
            self._new_tensor(var, self.storage[value.args[0]], int(value.args[1].value))
        else:
            self.odd.append(f"{var.name} is bound to {value.op}, which PlanMemory leaves nowhere")

    def _memory(self, name: str, born: int) -> _Memory:
        self.memories.append(_Memory(name, born, born, []))
        return self.memories[-1]

    def _new_tensor(self, var: relax.Var, memory: _Memory, offset: int) -> _Tensor:
        tensor = _Tensor(memory, offset, [])
        self.bytes[var] = _Bytes(tensor, 0, _nbytes(var))
        return tensor

    def _view(self, var: relax.Var, base: relax.Expr, offset: int) -> None:
        (found,) = self._find(base)
        if offset + _nbytes(var) > found.nbytes:
            self.odd.append(f"{var.name} reaches beyond what it is a view of")
        self.bytes[var] = _Bytes(found.tensor, found.begin + offset, _nbytes(var))

    def _call(self, position: int, var: relax.Var, call: relax.Call) -> None:
        work = self._work(var.name, self.device_of(self.mod, call.op))
        stored = self.stored.of(call.op)
        for number, arg in enumerate(call.args):
            for found in self._find(arg):
                begin, end = found.begin, found.begin + found.nbytes
                state = found.tensor.state(begin, end)
                if state == "some":
                    self.odd.append(f"{work.name} reads bytes that nothing wrote")
                if state != "all":
                    found.tensor.written.append((begin, end))
                at = found.tensor.offset
                access = (work, at + begin, at + end, state != "all" or number in stored)
                found.tensor.memory.accesses.append(access)
        if isinstance(var.ty, relax.TensorType):  # memory of the callee's own
            tensor = self._new_tensor(var, self._memory(var.name, position), 0)
            tensor.written.append((0, _nbytes(var)))
            tensor.memory.accesses.append((work, 0, _nbytes(var), True))

    def _find(self, expr: relax.Expr) -> list[_Bytes]:
        """The tensors that `expr` stands for."""
        if isinstance(expr, relax.Tuple):
            return [found for field in expr.fields for found in self._find(field)]
        if isinstance(expr, relax.TupleGetItem):
            whole = expr.tuple_value
            while isinstance(whole, relax.Var) and whole in self.value:
                whole = self.value[whole]
            return self._find(whole.fields[expr.index] if isinstance(whole, relax.Tuple) else whole)
        if isinstance(expr, relax.Var):
            if expr in self.bytes:
                return [self.bytes[expr]]
            value = self.value.get(expr)
            return [] if isinstance(value, relax.Call) or value is None else self._find(value)
        return []

    def _variables(self, expr: relax.Expr) -> set[relax.Var]:
        if isinstance(expr, relax.Var):
            return {expr}
        parts: list[relax.Expr] = []
        if isinstance(expr, relax.Call):
            parts = list(expr.args)
        elif isinstance(expr, relax.Tuple):
            parts = list(expr.fields)
        elif isinstance(expr, relax.TupleGetItem):
            parts = [expr.tuple_value]
        return {var for part in parts for var in self._variables(part)}

    def _use(self, var: relax.Var, position: int) -> None:
        memories = [self.storage[var]] if var in self.storage else []
        for memory in memories + [found.tensor.memory for found in self._find(var)]:
            memory.dead = max(memory.dead, position)

    # --- order -----------------------------------------------------------------------------------

    def _work(self, name: str, device: str) -> _Work:
        work = _Work(len(self.works), name, device, self.next[device])
        self.works.append(work)
        done = work.before | 1 << work.index
        self.done[device].append(done)
        for later in NUMBER if device == "cpu" else (device,):
            self.next[later] |= done
        return work

    def _wait(self, waiter: str, on: str, behind: int = 0) -> None:
        if behind and on != "npu":
            self.odd.append(f"a wait for all but {behind} of the {on}: only jobs are counted")
        waited_for = self.done[on][: len(self.done[on]) - behind]
        for later in NUMBER if waiter == "cpu" else (waiter,):
            self.next[later] |= waited_for[-1] if waited_for else 0


def _nbytes(var: relax.Var) -> int:
    shape = static_shape(var.ty)
    assert shape is not None, f"{var.name}: dynamic shape"
    return math.prod(shape) * dtype_bytes(str(var.ty.dtype))
