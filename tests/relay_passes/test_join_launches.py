"""Neighbouring kernels become one: which do, what names they keep, and the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx

from relay_passes.attention import update_kv
from relay_passes.join_launches import JoinLaunches
from relay_passes.lower_cpu import HOST_ATTR
from relay_passes.lower_gpu import CALLS_ATTR, OPS_ATTR, RESULTS_ATTR
from schedules.joined_kernel import Joiner
from tests.schedules import on_gpu

X = relax.TensorType((4, 8), "float32")


def _kernel(builder: relax.BlockBuilder, name: str, results: int = 1, **attrs) -> tvm.ir.GlobalVar:
    """`name(a, b)` with so many results."""
    a, b = te.placeholder((4, 8), name="a"), te.placeholder((4, 8), name="b")

    def result(factor: float) -> te.Tensor:
        return te.compute((4, 8), lambda row, column: a(row, column) + b(row, column) * factor)

    outs = [result(float(n)) for n in range(results)]
    func = te.create_prim_func([a, b, *outs]).with_attrs({OPS_ATTR: [f"op_{name}"], **attrs})
    return builder.add_func(func.without_attr("global_symbol"), name)


def _program(build) -> tvm.IRModule:
    """`main(x, y)` of one dataflow block, with names for its calls."""
    x, y = relax.Var("x", X), relax.Var("y", X)
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x, y))
        builder.emit_func_output(out)
    mod = builder.get()
    bindings = [binding for block in mod["main"].body.blocks for binding in block.bindings]
    names = {one.var.name: [f"op_{one.var.name}"] for one in bindings}
    mod["main"] = mod["main"].with_attr(CALLS_ATTR, names)
    return mod


@dataclasses.dataclass
class _Asked:
    """Joins whatever it is asked about, with a function that does nothing, and remembers it."""

    places: list = dataclasses.field(default_factory=list)

    def __call__(self, funcs, places, count, given):
        self.places.append((tuple(places), count, given))
        pairs = [zip(own, f.params, strict=True) for f, own in zip(funcs, places, strict=True)]
        params = {place: param for own in pairs for place, param in own}
        fresh = [tirx.decl_buffer(params[n].shape, params[n].dtype) for n in range(count)]
        return tirx.PrimFunc(fresh, tirx.Evaluate(tirx.const(0)))


def _called(mod: tvm.IRModule) -> list[str]:
    values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    kernels = [
        v for v in values if isinstance(v, relax.Call) and v.op != tvm.ir.Op.get("relax.reshape")
    ]
    return [getattr(v.args[0], "name_hint", "") for v in kernels]


def test_calls_in_a_row_become_one_with_every_result():
    def build(b, x, y):
        first = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X), "u")
        both = b.emit(relax.call_tir(_kernel(b, "second", 2), [first, y], [X, X]), "v")
        parts = [b.emit(relax.TupleGetItem(both, n), f"w{n}") for n in range(2)]
        return relax.call_tir(_kernel(b, "third"), parts, X)

    asked = _Asked()
    mod = JoinLaunches(asked)(_program(build))
    relax.analysis.well_formed(mod)
    assert _called(mod) == ["first_then_second_then_third"]
    # x, y, then u, w0, w1 and the result
    assert asked.places[-1] == (((0, 1, 2), (2, 1, 3, 4), (3, 4, 5)), 6, 2)
    attrs, (joined,) = mod["main"].attrs, mod["main"].attrs[RESULTS_ATTR]
    assert {str(name) for name in attrs[CALLS_ATTR]} >= {str(joined)}
    assert list(attrs[CALLS_ATTR][joined]) == ["op_u", "op_v", "op_gv"]
    of_each = [list(names) for names in attrs[RESULTS_ATTR][joined]]
    assert of_each == [["op_u"], ["op_v"], ["op_v"], ["op_gv"]]
    (func,) = (f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    assert list(func.attrs[OPS_ATTR]) == ["op_first", "op_second", "op_third"]


def _with_a_reshape(b, x, y):
    u = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X))
    again = b.emit(relax.op.reshape(b.emit(relax.op.reshape(u, (8, 4))), (4, 8)))
    return relax.call_tir(_kernel(b, "second"), [again, y], X)


def _with_a_host_kernel(b, x, y):
    u = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X))
    return relax.call_tir(_kernel(b, "second", **{HOST_ATTR: True}), [u, y], X)


def _with_something_between(b, x, y):
    u = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X))
    v = b.emit(relax.op.call_dps_packed("npu_region_0", (u,), X))
    return relax.call_tir(_kernel(b, "second"), [v, y], X)


def _with_a_tuple_that_is_given_out(b, x, y):
    u = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X))
    return relax.call_tir(_kernel(b, "second", 2), [u, y], [X, X])


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(_with_a_reshape, id="the_same_memory_by_another_name"),
        pytest.param(_with_a_host_kernel, id="a_kernel_of_the_host"),
        pytest.param(_with_something_between, id="a_region_between"),
        pytest.param(_with_a_tuple_that_is_given_out, id="a_tuple_read_as_a_whole"),
    ],
)
def test_others_stay_apart(build):
    mod = _program(build)
    assert JoinLaunches(_Asked())(mod).same_as(mod)


def test_what_is_to_stay_or_does_not_pay_stays():
    def build(b, x, y):
        u = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X))
        v = b.emit(relax.call_tir(_kernel(b, "second"), [u, y], X))
        return relax.call_tir(_kernel(b, "third"), [v, y], X)

    mod = _program(build)
    assert JoinLaunches(lambda *_: None)(mod).same_as(mod)
    assert _called(JoinLaunches(_Asked(), {"second"})(mod)) == ["first", "second", "third"]
    assert _called(JoinLaunches(_Asked(), {"third"})(mod)) == ["first_then_second", "third"]


def test_equal_layers_are_cut_at_equal_places():
    """A kernel that was joined before, with others behind it, begins the next launch."""

    def build(b, x, y):
        kernels = [_kernel(b, name) for name in ("first", "second", "third")]
        for _ in range(3):
            for kernel in kernels:
                x = b.emit(relax.call_tir(kernel, [x, y], X))
        return relax.call_tir(kernels[0], [x, y], X)

    mod = JoinLaunches(_Asked())(_program(build))
    assert _called(mod) == [*["first_then_second_then_third"] * 3, "first"]


def test_views_of_what_is_given_are_looked_through():
    """They stand before the joined call, as do fields of a tuple that others made."""

    def build(b, x, y):
        u = b.emit(relax.call_tir(_kernel(b, "first"), [x, y], X))
        b.emit(relax.op.reshape(u, (8, 4)), "seen")  # of a result: behind it
        other = b.emit(relax.op.reshape(b.emit(relax.op.reshape(y, (8, 4))), (4, 8)))
        return relax.call_tir(_kernel(b, "second"), [u, other], X)

    mod = JoinLaunches(_Asked())(_program(build))
    relax.analysis.well_formed(mod)
    assert _called(mod) == ["first_then_second"]
    names = [binding.var.name for binding in mod["main"].body.blocks[0].bindings]
    assert names.index("joined_0") < names.index("seen")


def _decode(b, q, k, cache, past):
    """What a step of a language model does between two products, in small."""
    gain = relax.const(np.random.default_rng(0).standard_normal(64).astype(np.float32))
    normed = b.emit(relax.op.nn.rms_norm(q, gain, axes=[-1], epsilon=1e-5), "normed")
    rows = b.emit(relax.op.reshape(relax.op.multiply(k, relax.op.sin(k)), (1, 2, 1, 32)), "rows")
    held = b.emit(update_kv(cache, rows, past), "held")
    mean = b.emit(relax.op.mean(normed, axis=-1, keepdims=True), "mean")
    return b.emit(relax.Tuple([held, b.emit(relax.op.add(normed, mean), "out")]))


def test_a_cache_is_written_in_place_in_a_joined_kernel():
    shapes = {"q": (1, 64), "k": (1, 64), "cache": (1, 2, 16, 32)}
    params = [relax.Var(n, relax.TensorType(shape, "float32")) for n, shape in shapes.items()]
    params.append(relax.Var("past", relax.TensorType((1,), "int32")))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(_decode(builder, *params))
        builder.emit_func_output(out)
    lowered = on_gpu.lower(builder.get())
    joined = JoinLaunches(Joiner(on_gpu.gpu_spec()).join)(lowered)
    assert len(_called(lowered)) > 2 and len(_called(joined)) == 1
    arrays = [on_gpu.normal(n, *shape) for n, shape in enumerate(shapes.values())]
    arrays.append(np.array([3], np.int32))
    pairs = zip(
        on_gpu.run_lowered(lowered, [a.copy() for a in arrays]),
        on_gpu.run_lowered(joined, [a.copy() for a in arrays]),
        strict=True,
    )
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("seed", range(6))
def test_random_chains_compute_the_same(seed, dtype):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 9)), int(rng.integers(1, 9)) * 8

    def build(x, y):
        b = relax.BlockBuilder.current()
        known = [x, y]
        for _ in range(8):
            a, c = (known[int(rng.integers(len(known)))] for _ in range(2))
            kind = int(rng.integers(5))
            if kind == 0:
                made = relax.op.add(a, relax.op.tanh(c))
            elif kind == 1:
                made = relax.op.nn.softmax(a)
            elif kind == 2:
                made = relax.op.multiply(c, relax.op.mean(a, axis=-1, keepdims=True))
            elif kind == 3:
                made = relax.op.flip(a, axis=int(rng.integers(2)))
            else:
                made = relax.op.matmul(relax.op.permute_dims(a), c)
                made = relax.op.matmul(a, b.emit(made))
                made = relax.op.multiply(made, relax.const(0.01, dtype))
            known.append(b.emit(made))
        return relax.Tuple(known[-3:])

    types = [((rows, columns), dtype)] * 2
    lowered = on_gpu.lower(on_gpu.module(build, *types))
    joined = JoinLaunches(Joiner(on_gpu.gpu_spec()).join)(lowered)
    assert len(_called(joined)) < len(_called(lowered)), seed
    arrays = [on_gpu.normal(seed + n, rows, columns, dtype=dtype) for n in range(2)]
    both = [on_gpu.run_lowered(mod, [a.copy() for a in arrays]) for mod in (lowered, joined)]
    for apart, together in zip(*both, strict=True):
        assert np.array_equal(apart, together, equal_nan=True), seed
