"""The table of calls: one entry a call, in order, with the operators, work and bytes of each."""

import dataclasses

import numpy as np
import pytest
import tvm
from split_programs import plan_of
from tvm import relax

from hetero_tvm import vm_lowering
from relay_passes.attention import update_kv
from relay_passes.call_table import call_table
from relay_passes.group_regions import GroupRegions
from relay_passes.join_launches import JoinLaunches
from relay_passes.lower_gpu import lower_gpu
from relay_passes.lower_npu import lower_npu
from relay_passes.planner.problem import Cut
from relay_passes.program import read_program
from relay_passes.split_tensor import split_tensor
from schedules.defaults import default_legalizations, default_rules
from schedules.joined_kernel import Joiner
from schedules.tvm_target import tvm_target
from target_specs.loader import load_spec

SPEC = load_spec("host")


@dataclasses.dataclass(frozen=True)
class Region:
    names: tuple
    weight_bytes: int


def _table(build, devices, shape=(8, 16), dtype="float32", *, joined=False, early=None):
    """The table of a program: `build(builder, x)`, operators in order on `devices`.

    `early`: where the first is cut that the GPU makes in two parts.
    """
    x = relax.Var("x", relax.TensorType(shape, dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x), "out")
        builder.emit_func_output(out)
    mod = relax.transform.Normalize()(builder.get())
    nodes = read_program(mod)
    plan = plan_of(nodes, [(device, None) for device in devices])
    macs = {"relax.matmul": 8 * 16 * 16}
    plan = dataclasses.replace(
        plan, ops=tuple(dataclasses.replace(op, macs=macs.get(op.op, 0)) for op in plan.ops)
    )
    plan = dataclasses.replace(
        plan, ops=(dataclasses.replace(plan.ops[0], early=early), *plan.ops[1:])
    )
    cut = split_tensor(mod, plan)
    grouped = tvm.transform.Sequential([GroupRegions(cut.region)])(cut.mod)
    lowered, regions = lower_npu(grouped, SPEC.npu)
    lowered = lower_gpu(
        lowered,
        target=tvm_target(SPEC.gpu),
        legalizations=default_legalizations(SPEC.gpu),
        rules=default_rules(SPEC.gpu),
    )
    if joined:
        lowered = JoinLaunches(Joiner(SPEC.gpu).join)(lowered)
    symbols = [region.symbol for region in regions]
    ordered = tvm.transform.Sequential(vm_lowering.in_order(symbols))(lowered)
    return call_table(ordered, "main", {region.symbol: region for region in regions}, plan)


def _weight(seed, *shape):
    return relax.const(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_equal_kernels_are_told_apart_by_their_place():
    """Three calls of one kernel, each with the operators of its own."""

    def build(builder, x):
        for n in range(3):
            product = builder.emit(relax.op.matmul(x, _weight(n, 16, 16)), f"product{n}")
            x = builder.emit(relax.op.nn.relu(product), f"active{n}")
        return relax.op.nn.softmax(x)

    table = _table(build, ["gpu"] * 7)
    assert [call.operators for call in table] == [
        *[(f"product{n}", f"active{n}") for n in range(3)],
        ("out",),
    ]
    assert len({call.symbol for call in table[:3]}) == 1
    assert [call.macs for call in table] == [2048, 2048, 2048, 0]
    # x, weight and result; softmax reads and writes one tensor
    assert [call.bytes for call in table] == [512 + 1024 + 512] * 3 + [1024]
    assert [r.operator for call in table for r in call.results] == [
        "active0",
        "active1",
        "active2",
        "out",
    ]


def test_a_region_counts_its_weights_and_names_its_results():
    def build(builder, x):
        soft = builder.emit(relax.op.nn.softmax(x), "soft")
        product = builder.emit(relax.op.matmul(soft, _weight(0, 16, 16)), "product")
        return relax.op.nn.softmax(product)

    gpu, npu, last = _table(build, ["gpu", "npu", "gpu"])
    assert (gpu.device, npu.device, last.device) == ("gpu", "npu", "gpu")
    assert npu.operators == ("product",)
    assert [(r.operator, r.shape) for r in npu.results] == [("product", (8, 16))]
    assert (npu.macs, npu.bytes) == (2048, 512 + 1024 + 512)


def test_what_is_early_is_two_calls_with_a_part_of_the_work_each():
    def build(builder, x):
        product = builder.emit(relax.op.matmul(x, _weight(0, 16, 16)), "product")
        return relax.op.nn.softmax(product)

    table = _table(build, ["gpu", "npu"], early=Cut(0, 2, 8))
    parts = {call.operators[0]: call for call in table if call.device == "gpu"}
    assert parts.keys() == {"product_early", "product_late"}
    assert [parts[f"product_{name}"].macs for name in ("early", "late")] == [512, 1536]


def test_a_look_up_reads_what_it_picks():
    def build(builder, x):
        table = _weight(0, 1000, 32)
        return relax.op.take(table, x, axis=0)

    (call,) = _table(build, ["gpu"], shape=(4,), dtype="int32")
    assert call.bytes == 4 * 4 + 2 * (4 * 32 * 4)


def test_kernels_that_lowering_adds_take_nobodys_name():
    """Convolutions are padded by kernels of their own, in variables that are called alike."""

    def build(builder, x):
        for n in range(3):
            conv = builder.emit(
                relax.op.nn.conv2d(x, _weight(n, 4, 4, 3, 3), padding=(1, 1)), f"conv{n}"
            )
            x = builder.emit(relax.op.nn.relu(conv), f"active{n}")
        return relax.op.nn.softmax(x)

    table = _table(build, ["gpu"] * 7, shape=(1, 4, 8, 8))
    named = [
        call.operators for call in table if set(call.operators) & {f"conv{n}" for n in range(3)}
    ]
    assert named == [(f"conv{n}", f"active{n}") for n in range(3)]
    assert len(table) > len(named) + 1  # paddings and changes of layout


@pytest.mark.parametrize("function", ["main"])
def test_a_call_that_nobody_named_is_still_in_the_table(function):
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function(function, [x]):
        y = builder.emit(
            relax.op.call_dps_packed("other", [x], relax.TensorType((4,), "float32")), "y"
        )
        builder.emit_func_output(y)
    plan = plan_of([], [])
    region = {"other": Region(("y",), 5)}
    (call,) = call_table(builder.get(), function, region, plan)
    assert (call.symbol, call.bytes, call.macs) == ("other", 5 + 32, 0)
    assert call_table(builder.get(), function, {}, plan) == ()


def test_a_call_that_a_pass_has_added_says_whom_it_serves():
    """A padded convolution: its padding is a kernel of its own, and no operator of the plan."""

    def build(builder, x):
        filters = _weight(0, 8, 4, 3, 3)
        first = builder.emit(relax.op.nn.conv2d(x, filters, padding=1), "first")
        return relax.op.nn.relu(first)

    table = _table(build, ["gpu"] * 2, shape=(1, 4, 8, 8))
    added = [call for call in table if not call.operators]
    assert added, "the test needs a kernel without an operator"
    assert {call.serves for call in added} == {"first"}
    assert {call.about for call in added} == {"for first"}
    assert all(not call.serves for call in table if call.operators)
    assert [call.about for call in table if call.operators][-1] == "out"


def test_of_joined_kernels_every_result_is_told_apart():
    """What is written in place is no result: it is read as an argument."""
    cache = relax.const(np.zeros((1, 8, 4, 16), np.float32))
    gain = relax.const(np.ones(16, np.float32))

    def build(builder, x):
        soft = builder.emit(relax.op.nn.softmax(x), "soft")
        rows = builder.emit(relax.op.reshape(soft, (1, 8, 1, 16)), "rows")
        past = relax.const(np.zeros(1, np.int32))
        held = builder.emit(update_kv(cache, relax.op.sin(rows), past), "held")
        return relax.Tuple([held, relax.op.nn.rms_norm(soft, gain, axes=[-1])])

    apart = _table(build, ["gpu"] * 5)
    (call,) = _table(build, ["gpu"] * 5, joined=True)
    assert call.operators == tuple(name for one in apart for name in one.operators)
    assert call.results == tuple(result for one in apart for result in one.results)
    last = call.operators[-1]
    assert [result.operator for result in call.results] == ["soft", call.operators[2], last]
    assert "held" in call.operators
