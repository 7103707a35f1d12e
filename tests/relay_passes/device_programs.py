"""Random programs over three devices as `PlanMemory` gets them, and a machine that runs its answer.

The machine is adverse in every way that the runtime may be: the GPU and the NPU do their work as
late as they can, or at random moments; a pool gives memory out again the moment that the host has
passed its last use; the caller's own GPU work writes the inputs, and scribbles over fresh memory,
after the function has begun.
"""

from __future__ import annotations

import dataclasses
import math
import random
import weakref
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from tvm import IRModule, relax

from relay_passes.plan_memory import VIEW, WAIT
from relay_passes.split_tensor import JOIN, SLICE

DEVICES = ("cpu", "gpu", "npu")


def device_of(_mod: IRModule, callee: relax.Expr) -> str:
    """Calls are named after their device: `gpu_3`."""
    return str(callee.global_symbol).split("_")[0]


@dataclasses.dataclass
class Program:
    """A module, and how many of each call's last arguments it writes."""

    mod: IRModule
    outputs_of: dict[str, int]


class Builder:
    """Writes one straight-line function of packed calls."""

    def __init__(self, *inputs: int) -> None:
        self.params = [_var(f"input{i}", (n,)) for i, n in enumerate(inputs)]
        self.builder = relax.BlockBuilder()
        self.bindings: list[relax.VarBinding] = []
        self.outputs_of: dict[str, int] = {}

    def compute(self, device: str, inputs: list[relax.Var], *sizes: int) -> list[relax.Var]:
        """A call on `device` that reads `inputs` and makes tensors of `sizes`."""
        number = len(self.outputs_of)
        made = []
        for size in sizes:
            call = relax.op.builtin.alloc_tensor(relax.ShapeExpr([size]), "float32", 0)
            made.append(self._bind(f"t{number}_{len(made)}", call))
        symbol = f"{device}_{number}"
        self.outputs_of[symbol] = len(sizes)
        call = relax.Call(relax.ExternFunc(symbol), [*inputs, *made], ty_args=[relax.TupleType([])])
        self._bind(symbol, call)
        return made

    def join(self, npu: relax.Var, gpu: relax.Var) -> relax.Var:
        return self._packed(JOIN, [npu, gpu], (_size(npu) + _size(gpu),))

    def slice(self, whole: relax.Var, begin: int, end: int) -> relax.Var:
        return self._packed(SLICE, [whole, relax.prim_value(4 * begin)], (end - begin,))

    def reshape(self, var: relax.Var) -> relax.Var:
        return self._bind("view", relax.op.reshape(var, (1, _size(var))))

    def finish(self, outputs: list[relax.Var]) -> Program:
        result = self.builder.normalize(relax.Tuple(outputs))
        body = relax.SeqExpr([relax.BindingBlock(self.bindings)], result)
        main = relax.Function(self.params, body, result.ty, is_pure=False)
        return Program(IRModule({"main": self.builder.normalize(main)}), self.outputs_of)

    def _packed(self, symbol: str, args: list[relax.Expr], shape: tuple[int, ...]) -> relax.Var:
        ty = relax.TensorType(shape, "float32")
        return self._bind("view", relax.Call(relax.ExternFunc(symbol), args, ty_args=[ty]))

    def _bind(self, name: str, value: relax.Expr) -> relax.Var:
        value = self.builder.normalize(value)
        var = relax.Var(f"{name}_{len(self.bindings)}", value.ty)
        self.bindings.append(relax.VarBinding(var, value))
        return var


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Kernels, regions and CPU kernels over shared tensors, with joins, slices and views of them.

    Sizes repeat, so that storage fits again; 1100 floats are more than the slack that reuse allows.
    """
    sizes = st.sampled_from((3, 8, 16, 40, 1100))
    rng = random.Random(draw(st.integers(0, 2**32)))
    builder = Builder(*draw(st.lists(sizes, min_size=1, max_size=2)))
    tensors = list(builder.params)
    halves: list[dict[str, relax.Var]] = []  # joins to be: the parts made so far

    def pick() -> list[relax.Var]:
        recent = tensors[-6:] if rng.random() < 0.8 else tensors
        return rng.sample(recent, rng.randint(0 if rng.random() < 0.1 else 1, min(2, len(recent))))

    for _ in range(draw(st.integers(1, 14))):
        what = rng.random()
        if what < 0.2:
            halves.append({})
        if halves and what < 0.5:
            parts = rng.choice(halves)
            device = rng.choice([d for d in ("gpu", "npu") if d not in parts])
            (parts[device],) = builder.compute(device, pick(), rng.choice((8, 16, 40)))
            if rng.random() < 0.3:
                tensors.append(parts[device])
            if len(parts) == 2:
                tensors.append(builder.join(parts["npu"], parts["gpu"]))
                halves.remove(parts)
        elif what < 0.6:
            whole = rng.choice(tensors)
            begin = rng.randrange(_size(whole))
            tensors.append(builder.slice(whole, begin, rng.randint(begin + 1, _size(whole))))
        elif what < 0.65:
            tensors.append(builder.reshape(rng.choice(tensors)))
        else:
            device = rng.choice(("gpu", "gpu", "npu", "npu", "cpu"))
            count = 2 if rng.random() < 0.15 else 1
            made = [rng.choice((3, 8, 16, 40, 1100)) for _ in range(count)]
            tensors += builder.compute(device, pick(), *made)
    made = [var for var in tensors if var not in builder.params]
    if not made:
        made = builder.compute("npu", [tensors[0]], 8)
    return builder.finish(rng.sample(made, min(len(made), rng.randint(1, 3))) + made[-1:])


# --- what a program means, and what a machine makes of it ----------------------------------------


def inputs_of(program: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(_size(p), np.float32) for p in program.mod["main"].params]


def _kernel(symbol: str, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
    number = int(symbol.split("_")[1])
    for i, output in enumerate(outputs):
        total = np.full(output.size, number + 0.25 * i, np.float32)
        for array in inputs:
            total += 0.5 * np.resize(array, output.size)
        output.reshape(-1)[:] = total


def meaning(program: Program) -> list[np.ndarray]:
    """The outputs, with every tensor in memory of its own."""
    func = program.mod["main"]
    values: dict[relax.Var, np.ndarray] = dict(zip(func.params, inputs_of(program), strict=True))
    for binding in func.body.blocks[0].bindings:
        var, call = binding.var, binding.value
        symbol = _symbol(call)
        if symbol == JOIN:
            values[var] = np.concatenate([values[arg].reshape(-1) for arg in call.args])
        elif symbol == SLICE:
            begin = int(call.args[1].value) // 4
            values[var] = values[call.args[0]].reshape(-1)[begin : begin + _size(var)].copy()
        elif symbol is not None:
            arrays = [values[arg] for arg in call.args]
            count = len(arrays) - program.outputs_of[symbol]
            _kernel(symbol, arrays[:count], arrays[count:])
        elif _op(call) == "relax.reshape":
            values[var] = values[call.args[0]].copy()
        else:
            values[var] = np.full(_size(var), np.nan, np.float32)
    return [values[field].reshape(-1) for field in func.body.body.fields]


class _Storage:
    """Memory that goes back to the pool when nobody holds it any more."""

    def __init__(self, machine: Machine, nbytes: int) -> None:
        pool = machine.pool.setdefault(nbytes, [])
        self.memory = pool.pop() if pool else np.zeros(nbytes, np.uint8)
        machine.memories.append(self.memory)
        weakref.finalize(self, pool.append, self.memory)


@dataclasses.dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]

    def array(self) -> np.ndarray:
        nbytes = 4 * math.prod(self.shape)
        memory = self.storage.memory[self.offset : self.offset + nbytes]
        return memory.view(np.float32).reshape(self.shape)


class Machine:
    """Runs a planned module; `eager` is the chance that a device does some work at each step."""

    def __init__(self, program: Program, planned: IRModule, eager: float, seed: int) -> None:
        self.program = program
        self.func = planned["main"]
        self.eager = eager
        self.rng = random.Random(seed)
        self.pool: dict[int, list[np.ndarray]] = {}
        self.memories: list[np.ndarray] = []
        self.queues: dict[str, list[tuple[Callable[[], None], dict[str, int], object]]]
        self.queues = {"gpu": [], "npu": []}
        self.done = {"gpu": 0, "npu": 0}
        self.needs: dict[str, dict[str, int]] = {"gpu": {}, "npu": {}}

    def run(self) -> list[np.ndarray]:
        values: dict[relax.Var, object] = {}
        for param in self.func.params:
            values[param] = _Tensor(_Storage(self, 4 * _size(param)), 0, _shape(param))
        given = [values[param].array() for param in self.func.params]
        self._submit("gpu", lambda: self._caller(given), None)
        (block,) = self.func.body.blocks
        last = _last_mentions(self.func)
        for position, binding in enumerate(block.bindings):
            values[binding.var] = self._value(values, binding.var, binding.value)
            for var in [var for var in values if last.get(var, -1) <= position]:
                del values[var]
            while self.rng.random() < self.eager:
                self._advance(self.rng.choice(("gpu", "npu")))
        assert self.done["npu"] == len(self.queues["npu"]), "the NPU runs on"
        self._until("gpu", len(self.queues["gpu"]))
        return [values[field].array().reshape(-1).copy() for field in self.func.body.body.fields]

    def _caller(self, inputs: list[np.ndarray]) -> None:
        for memory in self.memories:
            memory[:] = 0xFF  # NaN
        for array, value in zip(inputs, inputs_of(self.program), strict=True):
            array[:] = value

    def _value(self, values: dict, var: relax.Var, value: relax.Expr) -> object:
        if isinstance(value, relax.Var):
            return values[value]
        symbol, op = _symbol(value), _op(value)
        if symbol == WAIT:
            waiter, on, *behind = (int(arg.value) for arg in value.args)
            self._wait(DEVICES[waiter], DEVICES[on], *behind)
            return None
        if op == "relax.memory.alloc_storage":
            return _Storage(self, int(value.args[0][0].value))
        if op == "relax.builtin.alloc_tensor":
            return _Tensor(_Storage(self, 4 * _size(var)), 0, _shape(var))
        if op == "relax.memory.alloc_tensor":
            return _Tensor(values[value.args[0]], int(value.args[1].value), _shape(var))
        if op == "relax.reshape" or symbol == VIEW:
            base = values[value.args[0]]
            offset = int(value.args[1].value) if symbol == VIEW else 0
            return _Tensor(base.storage, base.offset + offset, _shape(var))
        tensors = [values[arg] for arg in value.args]
        arrays = [tensor.array() for tensor in tensors]
        count = len(arrays) - self.program.outputs_of[symbol]
        device = device_of(None, value.op)

        def work() -> None:
            _kernel(symbol, arrays[:count], arrays[count:])

        if device == "cpu":
            work()
        else:
            self._submit(device, work, tensors if device == "npu" else None)
        return None

    def _submit(self, device: str, work: Callable[[], None], kept: object) -> None:
        self.queues[device].append((work, dict(self.needs[device]), kept))

    def _advance(self, device: str) -> None:
        if self.done[device] < len(self.queues[device]):
            work, needs, _ = self.queues[device][self.done[device]]
            for other, count in needs.items():
                self._until(other, count)
            work()
            # The job's tensors are given back only now.
            self.queues[device][self.done[device]] = (work, needs, None)
            self.done[device] += 1

    def _until(self, device: str, count: int) -> None:
        while self.done[device] < count:
            self._advance(device)

    def _wait(self, waiter: str, on: str, behind: int = 0) -> None:
        """For all work of `on` but the last `behind` pieces."""
        if on == "cpu" or waiter == on:
            return
        count = len(self.queues[on]) - behind
        if waiter == "cpu":
            self._until(on, count)
        else:
            self.needs[waiter][on] = max(count, self.needs[waiter].get(on, 0))


def _last_mentions(func: relax.Function) -> dict[relax.Var, int]:
    (block,) = func.body.blocks
    last: dict[relax.Var, int] = {}
    for position, binding in enumerate(block.bindings):
        last[binding.var] = position
        args = binding.value.args if isinstance(binding.value, relax.Call) else [binding.value]
        last.update({arg: position for arg in args if isinstance(arg, relax.Var)})
    last.update(dict.fromkeys(func.body.body.fields, len(block.bindings)))
    last.update(dict.fromkeys(func.params, len(block.bindings)))  # the caller holds them
    return last


def _var(name: str, shape: tuple[int, ...]) -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, "float32"))


def _shape(var: relax.Var) -> tuple[int, ...]:
    return tuple(int(dim.value) for dim in var.ty.shape)


def _size(var: relax.Var) -> int:
    return math.prod(_shape(var))


def _symbol(value: relax.Expr) -> str | None:
    is_packed = isinstance(value, relax.Call) and isinstance(value.op, relax.ExternFunc)
    return str(value.op.global_symbol) if is_packed else None


def _op(value: relax.Expr) -> str | None:
    has_op = isinstance(value, relax.Call) and hasattr(value.op, "name")
    return str(value.op.name) if has_op else None
