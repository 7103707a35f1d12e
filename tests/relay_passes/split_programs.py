"""Random models, and plans by hand that cut them wherever `sharding` allows it."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from tvm import IRModule, relax

from relay_passes.constants import tensor_constant
from relay_passes.op_work import op_name, static_shape, tensor_args
from relay_passes.plan import OpPlan, Plan, Split
from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate
from relay_passes.program import Node, read_program
from relay_passes.sharding import Sharding, argument_cut, fits, shardings

OP = relax.op
Grow = Callable[["Model", relax.Var, tuple[int, ...]], relax.Expr | None]


class Model:
    """Grows one function, operator by operator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.values = np.random.default_rng(rng.randrange(2**32))
        self.builder = relax.BlockBuilder()
        self.params: list[relax.Var] = []
        self.tensors: list[relax.Var] = []
        self.made: list[relax.Var] = []
        self.calls: dict[relax.Var, relax.Call] = {}

    def input(self, *shape: int) -> relax.Var:
        name = f"input{len(self.params)}"
        self.params.append(relax.Var(name, relax.TensorType(shape, "float32")))
        self.tensors.append(self.params[-1])
        return self.params[-1]

    def weight(self, *shape: int) -> relax.Expr:
        return tensor_constant(self.values.uniform(-1, 1, shape).astype(np.float32))

    def emit(self, call: relax.Expr) -> relax.Var:
        name = f"op{len(self.made)}_{op_name(call).split('.')[-1]}"
        self.made.append(self.builder.emit(call, name))
        self.calls[self.made[-1]] = call
        self.tensors.append(self.made[-1])
        return self.made[-1]

    def finish(
        self, build: list[str | Grow] | None, steps: int, outputs: int, newest: bool = False
    ) -> IRModule:
        with self.builder.function("main", self.params):
            with self.builder.dataflow():
                for step in range(steps):
                    self.grow(build[step] if build else None, newest)
                unread = self._unread()
                read = [var for var in self.made if var not in unread]
                chosen = unread + self.rng.sample(read, min(len(read), outputs))
                results = [self.builder.emit_output(var, f"out{i}") for i, var in enumerate(chosen)]
            self.builder.emit_func_output(results[0] if len(results) == 1 else results)
        return relax.transform.CanonicalizeBindings()(self.builder.get())

    def _unread(self) -> list[relax.Var]:
        read = {arg for var in self.made for arg in tensor_args(self.calls[var])}
        return [var for var in self.made if var not in read]

    def grow(self, kind: str | Grow | None, newest: bool) -> None:
        """One operator more, on the newest tensor or one of the newest."""
        rng = self.rng
        x = self.tensors[-1] if newest else rng.choice(self.tensors[-3:])
        shape = static_shape(x.ty)
        kind = kind or rng.choice(list(_GROW))
        call = (kind if callable(kind) else _GROW[kind])(self, x, shape)
        self.emit(call if call is not None else OP.nn.relu(x))


def _matmul(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr | None:
    if len(shape) < 2:
        return None
    return OP.matmul(x, model.weight(shape[-1], model.rng.choice([2, 5, 6, 8])))


def _left_weight(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr | None:
    if len(shape) < 2:
        return None
    return OP.matmul(model.weight(model.rng.choice([2, 5]), shape[-2]), x)


def _batched(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr | None:
    """Attention's products: both sides are activations."""
    if len(shape) < 3:
        return None
    for y in reversed(model.tensors[-4:]):
        other = static_shape(y.ty)
        if other[:-2] == shape[:-2] and other[-2] == shape[-1]:
            return OP.matmul(x, y)
    rank = len(shape)
    return OP.matmul(x, model.emit(OP.permute_dims(x, [*range(rank - 2), rank - 1, rank - 2])))


def _bias(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr:
    return OP.add(x, model.weight(shape[-1]))


def _residual(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr | None:
    alike = [y for y in model.tensors if static_shape(y.ty) == shape and not y.same_as(x)]
    return OP.add(x, model.rng.choice(alike)) if alike else None


def _reshape(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr | None:
    axis = model.rng.randrange(len(shape))
    if len(shape) < 4 and shape[axis] % 2 == 0:
        return OP.reshape(x, (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :]))
    if len(shape) > 2 and axis > 0:
        merged = shape[axis - 1] * shape[axis]
        return OP.reshape(x, (*shape[: axis - 1], merged, *shape[axis + 1 :]))
    return None


def _permute(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr:
    return OP.permute_dims(x, model.rng.sample(range(len(shape)), len(shape)))


def _conv2d(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr | None:
    if len(shape) != 4:
        return None
    return OP.nn.conv2d(x, model.weight(model.rng.choice([3, 4]), shape[1], 3, 3), padding=1)


def _concat(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr:
    return OP.concat([x, x], model.rng.randrange(len(shape)))


def _norm(model: Model, x: relax.Var, shape: tuple[int, ...]) -> relax.Expr:
    return OP.nn.layer_norm(x, model.weight(shape[-1]), model.weight(shape[-1]), [-1])


_GROW = {
    "matmul": _matmul,
    "left_weight": _left_weight,
    "batched": _batched,
    "bias": _bias,
    "relu": lambda model, x, shape: OP.nn.relu(x),
    "residual": _residual,
    "softmax": lambda model, x, shape: OP.nn.softmax(x, -1),
    "norm": _norm,
    "reshape": _reshape,
    "permute": _permute,
    "conv2d": _conv2d,
    "concat": _concat,
    "sum": lambda model, x, shape: OP.sum(x, [model.rng.randrange(len(shape))], keepdims=True),
}
_EPILOGUE = ["matmul", "bias", "relu", "residual"]


@st.composite
def models(draw: st.DrawFn) -> IRModule:
    """Two to seven operators on one or two inputs; odd sizes and sizes of one among them."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    model = Model(rng)
    shape = [rng.choice([1, 2, 3, 4, 7]) for _ in range(draw(st.integers(2, 4)))]
    for _ in range(draw(st.integers(1, 2))):
        model.input(*shape)
    if len(shape) == 4:
        build: list[str] | None = ["conv2d", "bias", "relu", "conv2d"]
    else:
        build = draw(st.sampled_from([None, [*_EPILOGUE, "norm"], [*_EPILOGUE, "matmul"]]))
    steps = draw(st.integers(2, 7)) if build is None else len(build)
    return model.finish(build, steps, draw(st.integers(0, 2)))


_DEVICES = ["gpu", "gpu", "npu", "npu", "cpu"]

# --- plans ---------------------------------------------------------------------------------------


def legal_cuts(call: relax.Call) -> list[tuple[Sharding, Cut]]:
    """Every cut of `call`."""
    shape = static_shape(call.ty)
    return [
        (sharding, cut)
        for sharding in shardings(call)
        for at in range(1, shape[sharding.axis])
        if fits(call, sharding, cut := Cut(sharding.axis, at, shape[sharding.axis]))
    ]


def random_plan(
    mod: IRModule,
    rng: random.Random,
    split: float = 0.7,
    able: Callable[[relax.Call, str], bool] = lambda call, device: True,
) -> Plan:
    """A place for every operator; cuts mostly go on along chains. CPU work is rare."""
    nodes = read_program(mod)
    cuts: dict[relax.Var, Cut] = {}
    chosen: list[tuple[str, tuple[Sharding, Cut] | None]] = []
    for node in nodes:
        devices = [device for device in _DEVICES if able(node.call, device)]
        legal = legal_cuts(node.call) if {"gpu", "npu"} <= set(devices) else []
        alike = [
            (sharding, cut)
            for sharding, cut in legal
            if any(
                isinstance(arg, relax.Var)
                and arg in cuts
                and _read(node, sharding, cut, i) == cuts[arg]
                for i, arg in enumerate(tensor_args(node.call))
            )
        ]
        if alike and rng.random() < 0.75:
            chosen.append(("gpu+npu", rng.choice(alike)))
        elif legal and rng.random() < split:
            chosen.append(("gpu+npu", rng.choice(legal)))
        else:
            chosen.append((rng.choice(devices), None))
        if chosen[-1][1] is not None:
            cuts[node.var] = chosen[-1][1][1]
    return plan_of(nodes, chosen)


def plan_of(nodes: list[Node], chosen: list[tuple[str, tuple[Sharding, Cut] | None]]) -> Plan:
    """The plan; NPU regions are those of the planner."""
    index = {node.name: i for i, node in enumerate(nodes)}
    waits = dict.fromkeys(((a, b) for a in DEVICES for b in DEVICES if a != b), 1.0)
    ops = tuple(
        Op(
            choices=(_choice(node, index, nodes, *choice),),
            inputs=tuple(index[name] for name in node.inputs),
            is_output=node.is_output,
        )
        for node, choice in zip(nodes, chosen, strict=True)
    )
    timeline = evaluate(Problem(ops, Waiting(wait_us=waits)), [0] * len(nodes))
    return Plan(
        ops=tuple(
            OpPlan(
                name=node.name,
                op=op_name(node.call),
                device=device,
                reason="",
                cost_us={},
                declined={},
                macs=0,
                split=None if cut is None else _split(*cut),
                region=timeline.region_of[i],
            )
            for i, (node, (device, cut)) in enumerate(zip(nodes, chosen, strict=True))
        ),
        predicted_us=0.0,
    )


def _split(sharding: Sharding, cut: Cut) -> Split:
    return Split(kind=sharding.kind, axis=cut.axis, at=cut.at, extent=cut.extent)


def _read(node: Node, sharding: Sharding, cut: Cut, position: int) -> Cut | None:
    return argument_cut(node.call, sharding, cut, position)


def _choice(
    node: Node,
    index: dict[str, int],
    nodes: list[Node],
    device: str,
    cut: tuple[Sharding, Cut] | None,
) -> Choice:
    if cut is None:
        return Choice(us={device: 1.0}, reads=(None,) * len(node.inputs))
    reads: dict[str, set[Cut | None]] = {name: set() for name in node.inputs}
    maker = {other.var: other.name for other in nodes}
    for position, arg in enumerate(tensor_args(node.call)):
        if isinstance(arg, relax.Var) and arg in maker:
            reads[maker[arg]].add(_read(node, *cut, position))
    return Choice(
        us={"gpu": 1.0, "npu": 1.0},
        reads=tuple(next(iter(r)) if len(r) == 1 else None for r in reads.values()),
        makes=cut[1],
        kind=cut[0].kind,
    )
