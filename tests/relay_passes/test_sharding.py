"""Both parts of every operator, put together, are the whole; and what no rule may cut."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.attention import AttentionAttrs, attention
from relay_passes.constants import array_of, tensor_constant
from relay_passes.op_work import op_name, op_work, static_shape, tensor_args
from relay_passes.planner.problem import Cut
from relay_passes.sharding import (
    argument_cut,
    argument_rows,
    fits,
    is_contiguous,
    shard_call,
    shard_work,
    shardings,
)

OP = relax.op


@dataclasses.dataclass
class Case:
    """One operator on arrays; those in `constants` are weights."""

    build: Callable[..., relax.Expr]
    arrays: list[np.ndarray]
    constants: tuple[int, ...] = ()

    def call(self) -> tuple[list[relax.Var], relax.Call]:
        params, args = [], []
        for i, array in enumerate(self.arrays):
            if i in self.constants:
                args.append(tensor_constant(array))
            else:
                params.append(relax.Var(f"x{i}", relax.TensorType(array.shape, str(array.dtype))))
                args.append(params[-1])
        return params, relax.BlockBuilder().normalize(self.build(*args))

    def inputs(self) -> list[np.ndarray]:
        return [array for i, array in enumerate(self.arrays) if i not in self.constants]


def numbers(*shape: int) -> np.ndarray:
    seed = sum((i + 1) * extent for i, extent in enumerate(shape))
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape).astype(np.float32)


def sliced(expr: relax.Expr, cut: Cut | None, device: str) -> relax.Expr:
    if cut is None:
        return expr
    begin, end = cut.of(device)
    if isinstance(expr, GenericConst):
        index = [slice(None)] * len(expr.ty.shape)
        index[cut.axis] = slice(begin, end)
        return tensor_constant(np.ascontiguousarray(array_of(expr)[tuple(index)]))
    return OP.strided_slice(expr, [cut.axis], [begin], [end])


def run(params: list[relax.Var], results: list[relax.Expr], arrays: list[np.ndarray]):
    """The results on LLVM, as they are written."""
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            emitted = builder.emit_output(relax.Tuple([builder.emit(r) for r in results]))
        builder.emit_func_output(emitted)
    built = tvm.compile(relax.transform.LegalizeOps()(builder.get()), target="llvm")
    machine = relax.VirtualMachine(built, tvm.cpu())
    return [t.numpy() for t in machine["main"](*map(tvm.runtime.tensor, arrays))]


def cuts_of(call: relax.Call, pick: Callable[[list[int]], int]) -> list[tuple]:
    """One boundary that fits for every way to cut `call`."""
    found = []
    shape = static_shape(call.ty)
    for sharding in shardings(call):
        extent = shape[sharding.axis]
        legal = [
            at for at in range(1, extent) if fits(call, sharding, Cut(sharding.axis, at, extent))
        ]
        if legal:
            found.append((sharding, Cut(sharding.axis, pick(legal), extent)))
    return found


def check(case: Case, pick: Callable[[list[int]], int]) -> list[int]:
    """Cut along every axis that a rule gives; returns these axes."""
    params, call = case.call()
    cuts = cuts_of(call, pick)
    results: list[relax.Expr] = [call]
    for sharding, cut in cuts:
        for device in ("npu", "gpu"):
            args = []
            for i, arg in enumerate(tensor_args(call)):
                rows = argument_rows(sharding, cut, device, i)
                if rows is None:
                    args.append(sliced(arg, argument_cut(call, sharding, cut, i), device))
                else:
                    args.append(OP.strided_slice(arg, *([n] for n in rows)))
            results.append(shard_call(call, sharding, cut, device, args))
    whole, *parts = run(params, results, case.inputs())
    for i, (_, cut) in enumerate(cuts):
        npu, gpu = parts[2 * i : 2 * i + 2]
        assert npu.shape[cut.axis] == cut.at
        together = np.concatenate([npu, gpu], axis=cut.axis)
        np.testing.assert_allclose(together, whole, rtol=2e-6, atol=2e-6, err_msg=str(cut))
    return [cut.axis for _, cut in cuts]


# --- random operators ----------------------------------------------------------------------------

EXTENT = st.integers(1, 7)
SHAPE = st.lists(EXTENT, min_size=1, max_size=4).map(tuple)


def _operand(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.integers(0, 3)) == 0 else extent for extent in kept)


@st.composite
def elementwise(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    kind = draw(st.sampled_from(["unary", "binary", "where", "clip", "astype", "broadcast_to"]))
    if kind == "unary":
        op = draw(st.sampled_from([OP.exp, OP.nn.relu, OP.nn.silu, OP.nn.leakyrelu, OP.negative]))
        return Case(op, [numbers(*shape)])
    if kind == "binary":
        op = draw(st.sampled_from([OP.add, OP.multiply, OP.maximum, OP.subtract, OP.power]))
        arrays = [numbers(*shape), numbers(*_operand(draw, shape))]
        order = draw(st.permutations([0, 1]))
        return Case(op, [arrays[i] for i in order], draw(st.sampled_from([(), (1,)])))
    if kind == "where":
        condition = numbers(*_operand(draw, shape)) > 0.5
        return Case(OP.where, [condition, numbers(*shape), numbers(*_operand(draw, shape))])
    if kind == "clip":
        return Case(lambda x: OP.clip(x, 0.2, 0.7), [numbers(*shape)])
    if kind == "astype":
        return Case(lambda x: OP.astype(x, "float16"), [numbers(*shape)])
    return Case(lambda x: OP.broadcast_to(x, shape), [numbers(*_operand(draw, shape))])


@st.composite
def matmul(draw: st.DrawFn) -> Case:
    m, k, n = (draw(EXTENT) for _ in range(3))
    batch = draw(st.lists(EXTENT, max_size=2).map(tuple))
    left = numbers(*_operand(draw, batch) if batch else (), m, k)
    right = numbers(*batch, k, n)
    constants = draw(st.sampled_from([(), (0,), (1,)]))
    return Case(OP.matmul, [left, right], constants)


@st.composite
def conv2d(draw: st.DrawFn) -> Case:
    images, inputs, outputs = (draw(st.integers(1, 5)) for _ in range(3))
    layout, kernel = draw(st.sampled_from([("NCHW", "OIHW"), ("NHWC", "HWIO"), ("NHWC", "OHWI")]))
    groups = draw(st.sampled_from([g for g in range(1, inputs + 1) if inputs % g == 0]))
    sizes = {"N": images, "C": inputs, "O": outputs * groups, "I": inputs // groups}
    window = draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    reach = (window - 1) * dilation + 1
    sizes |= {"H": draw(st.integers(reach, 12)), "W": draw(st.integers(reach, 7))}
    data = [sizes[axis] for axis in layout]
    weight = [sizes.get(axis, window) if axis in "OI" else window for axis in kernel]
    padding = [draw(st.integers(0, 3)) for _ in range(4)]

    def build(x: relax.Expr, w: relax.Expr) -> relax.Expr:
        return OP.nn.conv2d(x, w, stride, padding, dilation, groups, layout, kernel)

    return Case(build, [numbers(*data), numbers(*weight)], draw(st.sampled_from([(1,), ()])))


@st.composite
def reshape(draw: st.DrawFn) -> Case:
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))

    def grouped() -> tuple[int, ...]:
        shape, product = [], 1
        for factor in factors:
            product *= factor
            if draw(st.booleans()):
                shape.append(product)
                product = 1
        return (*shape, product)

    before, after = grouped(), grouped()
    return Case(lambda x: OP.reshape(x, after), [numbers(*before)])


@st.composite
def views(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    kind = draw(st.sampled_from(["squeeze", "flatten", "expand_dims"]))
    if kind == "squeeze":
        ones = [axis for axis, extent in enumerate(shape) if extent == 1]
        axes = ones if draw(st.booleans()) else None
        return Case(lambda x: OP.squeeze(x, axes), [numbers(*shape)])
    if kind == "flatten":
        return Case(OP.flatten, [numbers(*shape)])
    axis = draw(st.integers(0, len(shape)))
    return Case(lambda x: OP.expand_dims(x, axis), [numbers(*shape)])


@st.composite
def permute(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    axes = draw(st.one_of(st.none(), st.permutations(range(len(shape)))))
    return Case(lambda x: OP.permute_dims(x, axes), [numbers(*shape)])


@st.composite
def along_rows(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    kind = draw(st.sampled_from(["softmax", "log_softmax", "layer_norm", "rms_norm"]))
    if kind == "softmax":
        return Case(lambda x: OP.nn.softmax(x, axis), [numbers(*shape)])
    if kind == "log_softmax":
        return Case(lambda x: OP.nn.log_softmax(x, axis), [numbers(*shape)])
    scale = numbers(shape[axis])
    if kind == "rms_norm" and axis == len(shape) - 1 > 0:  # TVM has no others
        return Case(lambda x, g: OP.nn.rms_norm(x, g, [axis]), [numbers(*shape), scale], (1,))
    return Case(
        lambda x, g, b: OP.nn.layer_norm(x, g, b, [axis]), [numbers(*shape), scale, -scale], (1, 2)
    )


@st.composite
def reduce(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    count = len(shape)
    axes = draw(st.lists(st.integers(-count, count - 1), min_size=1, unique_by=lambda a: a % count))
    op = draw(st.sampled_from([OP.sum, OP.mean, OP.max, OP.min]))
    keepdims = draw(st.booleans())
    return Case(lambda x: op(x, axes, keepdims), [numbers(*shape)])


@st.composite
def take(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    picked = draw(st.lists(EXTENT, max_size=2).map(tuple))
    indices = (numbers(*picked) * shape[axis]).astype(np.int64) % shape[axis]
    return Case(lambda x, i: OP.take(x, i, axis), [numbers(*shape), np.asarray(indices)])


@st.composite
def concat(draw: st.DrawFn) -> Case:
    shape = list(draw(SHAPE))
    axis = draw(st.integers(0, len(shape) - 1))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        shape[axis] = draw(EXTENT)
        arrays.append(numbers(*shape))
    return Case(lambda *xs: OP.concat(list(xs), axis), arrays)


@st.composite
def strided_slice(draw: st.DrawFn) -> Case:
    shape = draw(SHAPE)
    count = len(shape)
    axes = draw(st.lists(st.integers(-count, count - 1), min_size=1, unique_by=lambda a: a % count))
    begins = [draw(st.integers(0, shape[axis] - 1)) for axis in axes]
    ends = [draw(st.integers(b + 1, shape[axis])) for b, axis in zip(begins, axes, strict=True)]
    strides = [draw(st.integers(1, 2)) for _ in axes]
    return Case(lambda x: OP.strided_slice(x, axes, begins, ends, strides), [numbers(*shape)])


@st.composite
def windows(draw: st.DrawFn) -> Case:
    layout = draw(st.sampled_from(["NCHW", "NHWC"]))
    sizes = {"N": draw(st.integers(1, 3)), "C": draw(st.integers(1, 5))}
    op = draw(st.sampled_from([OP.nn.max_pool2d, OP.nn.avg_pool2d]))
    shape = [sizes.get(axis, draw(st.integers(3, 9))) for axis in layout]
    size, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = [draw(st.integers(0, size - 1)) for _ in range(4)]
    options = {
        "ceil_mode": draw(st.booleans()),
        "count_include_pad": draw(st.booleans()),
        "layout": layout,
    }
    return Case(
        lambda x: op(x, (size, size), (stride, stride), padding, **options), [numbers(*shape)]
    )


@st.composite
def cached_attention(draw: st.DrawFn) -> Case:
    """A chunk behind others: each part's rows stand where they stood in the whole."""
    groups, rows, room = draw(st.integers(1, 2)), draw(st.integers(2, 7)), draw(st.integers(0, 5))
    past, depth = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    attrs = AttentionAttrs(scale=0.5, window=draw(st.sampled_from([0, 3])))
    heads = groups * draw(st.integers(1, 3))
    caches = [numbers(1, groups, past + rows + room, width) for width in (depth, depth + 1)]
    arrays = [numbers(1, heads, rows, depth), *caches, np.array([past], np.int32)]
    return Case(lambda q, k, v, p: attention(q, k, v, p, attrs), arrays)


FAMILIES = {
    strategy.__name__: strategy
    for strategy in (
        cached_attention,
        *(elementwise, matmul, conv2d, reshape, views, permute, along_rows, reduce, take),
        *(concat, strided_slice, windows),
    )
}


_MORE = {"conv2d": 15}  # examples: they have most that can go wrong at a border


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_make_the_whole(family):
    @given(FAMILIES[family](), st.randoms(use_true_random=False))
    @settings(max_examples=_MORE.get(family, 10), suppress_health_check=[HealthCheck.too_slow])
    def every_axis(case, rng):
        check(case, rng.choice)

    every_axis()


# --- which axes ----------------------------------------------------------------------------------


def _axes(case: Case) -> list[tuple]:
    _, call = case.call()
    return [(s.axis, s.reads, s.kind) for s in shardings(call)]


def test_matmul_with_a_weight_is_cut_by_weight_or_by_rows():
    case = Case(OP.matmul, [numbers(2, 4, 5), numbers(5, 6)], (1,))
    assert _axes(case) == [
        (0, (0, None), "activation"),
        (1, (1, None), "activation"),
        (2, (None, 1), "weight"),
    ]


def test_a_broadcast_operand_is_read_whole():
    case = Case(OP.add, [numbers(3, 4), numbers(4)])
    assert _axes(case) == [(0, (0, None), "activation"), (1, (1, 0), "activation")]


def test_reshape_moves_a_boundary_to_the_axis_with_the_same_outside():
    case = Case(lambda x: OP.reshape(x, (6, 4, 3)), [numbers(6, 12)])
    _, call = case.call()
    (first, second) = shardings(call)
    assert (first.axis, first.reads, second.axis, second.reads) == (0, (0,), 1, (1,))
    assert argument_cut(call, second, Cut(1, 3, 4), 0) == Cut(1, 9, 12)


def test_conv2d_is_cut_by_output_channels_by_images_or_by_rows():
    case = Case(
        lambda x, w: OP.nn.conv2d(x, w, padding=1), [numbers(2, 3, 5, 5), numbers(4, 3, 3, 3)], (1,)
    )
    assert _axes(case) == [
        (1, (None, 0), "weight"),
        (0, (0, None), "activation"),
        (2, (None, None), "activation"),
    ]


def test_a_convolutions_part_reads_its_rows_and_the_halo():
    case = Case(
        lambda x, w: OP.nn.conv2d(x, w, strides=2, padding=1),
        [numbers(1, 3, 9, 5), numbers(4, 3, 3, 3)],
        (1,),
    )
    _, call = case.call()
    rows = next(sharding for sharding in shardings(call) if sharding.axis == 2)
    read = [argument_rows(rows, Cut(2, 2, 5), device, 0) for device in ("npu", "gpu")]
    assert read == [(2, 0, 4), (2, 3, 9)]
    assert argument_rows(rows, Cut(2, 2, 5), "npu", 1) is None  # the weight: all of it
    whole = op_work(call)
    parts = [shard_work(call, whole, rows, Cut(2, 2, 5), device) for device in ("npu", "gpu")]
    assert [part.macs for part in parts] == [whole.macs * 2 // 5, whole.macs * 3 // 5]
    of_images = [4 * 3 * 5 * n for n in (4, 6)]
    weights = [part.bytes - part.output_bytes for part in parts]
    assert [w - i for w, i in zip(weights, of_images, strict=True)] == [4 * 4 * 3 * 9] * 2


def test_windows_side_by_side_are_cut_as_the_image_is():
    """So a chain of pointwise convolutions stays cut, without a wait."""
    case = Case(OP.nn.conv2d, [numbers(1, 3, 9, 5), numbers(4, 3, 1, 1)], (1,))
    assert _axes(case)[-1] == (2, (2, None), "activation")
    pool = Case(lambda x: OP.nn.max_pool2d(x, (3, 3), (3, 3)), [numbers(1, 3, 9, 6)])
    assert _axes(pool)[-1] == (2, (2,), "activation")


def test_softmax_is_not_cut_along_its_own_axis():
    assert [
        axis for axis, *_ in _axes(Case(lambda x: OP.nn.softmax(x, 1), [numbers(2, 3, 4)]))
    ] == [
        0,
        2,
    ]


# --- what is not cut -----------------------------------------------------------------------------


def test_a_boundary_inside_an_element_does_not_fit():
    case = Case(lambda x: OP.reshape(x, (12,)), [numbers(3, 4)])
    _, call = case.call()
    (sharding,) = shardings(call)
    assert [at for at in range(1, 12) if fits(call, sharding, Cut(0, at, 12))] == [4, 8]
    with pytest.raises(ValueError, match=r"relax.reshape: no boundary of argument 0"):
        argument_cut(call, sharding, Cut(0, 5, 12), 0)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(lambda x: OP.sort(x), [numbers(3, 4)]), id="no_rule"),
        pytest.param(Case(lambda x: OP.cumsum(x, 0), [numbers(3, 4)]), id="scan"),
        pytest.param(Case(lambda x: OP.sum(x), [numbers(3, 4)]), id="one_result"),
        pytest.param(Case(OP.exp, [numbers(1, 1)]), id="one_element"),
        pytest.param(Case(OP.matmul, [numbers(3, 4), numbers(4)]), id="vector"),
        pytest.param(
            Case(
                lambda x, w: OP.nn.conv2d(x, w, groups=2),
                [numbers(1, 4, 3, 5), numbers(4, 2, 3, 3)],
                (1,),
            ),
            id="channels_of_groups",
        ),
        pytest.param(Case(lambda x: OP.split(x, 2), [numbers(4, 4)]), id="several_results"),
    ],
)
def test_is_never_cut(case):
    _, call = case.call()
    assert shardings(call) == ()


def test_operands_in_a_tuple_variable_are_not_looked_for():
    both = relax.Var("both", relax.TupleType([relax.TensorType((2, 3), "float32")] * 2))
    call = relax.BlockBuilder().normalize(relax.op.concat(both, 0))
    assert op_name(call) == "relax.concat"
    assert shardings(call) == ()


def test_unknown_shapes_are_not_cut():
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType([n, 4], "float32"))
    assert shardings(relax.BlockBuilder().normalize(relax.op.exp(x))) == ()


def test_contiguous_is_what_lies_in_two_blocks():
    assert [is_contiguous((1, 1, 3, 4), axis) for axis in range(4)] == [True, True, True, False]


# --- work ----------------------------------------------------------------------------------------


@given(matmul(), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_parts_work_as_much_as_the_whole(case, rng):
    _, call = case.call()
    whole = op_work(call)
    for sharding, cut in cuts_of(call, rng.choice):
        parts = [shard_work(call, whole, sharding, cut, device) for device in ("npu", "gpu")]
        assert sum(part.macs for part in parts) == whole.macs
        assert sum(part.output_bytes for part in parts) == whole.output_bytes
        twice = sum(
            4 * math.prod(static_shape(arg.ty))
            for arg, axis in zip(tensor_args(call), sharding.reads, strict=True)
            if axis is None
        )
        assert sum(part.bytes for part in parts) == whole.bytes + twice
