"""Projections that exporters pack into one product are split once, and stay split behind it.

Query, key and value in one product, gate and up in another. Costs are given, so that a split pays
whatever this machine is: 1000 multiply-accumulates take a microsecond on either device.
"""

import itertools

import forced_plans
import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import TensorProto, helper, numpy_helper

import hetero_tvm
from hetero_tvm import runtime
from relay_passes import gpu_support, npu_support
from relay_passes.place import place
from relay_passes.planner.problem import Waiting
from target_specs.loader import load_spec

pytestmark = pytest.mark.usefixtures("opencl")
ROWS, WIDE, HEADS = 64, 96, 4
_WAIT_US = 400.0  # less than the split of any product here saves


def _weight(name, *shape):
    rng = np.random.default_rng(len(name) + shape[-1])
    return numpy_helper.from_array(
        (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32), name
    )


def _layer(path):
    """A transformer layer without norms; `x`, `y`: [1, ROWS, WIDE]."""
    node, head = helper.make_node, WIDE // HEADS
    nodes = [
        node("MatMul", ["x", "w_qkv"], ["qkv"], name="qkv"),
        node("Split", ["qkv"], ["q", "k", "v"], axis=-1, num_outputs=3),
    ]
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("Reshape", [name, "heads"], [f"{name}_heads"]),
            node("Transpose", [f"{name}_heads"], [f"{name}_first"], perm=order),
        ]
    nodes += [
        node("MatMul", ["q_first", "k_first"], ["scores"], name="scores"),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["shares"], axis=-1, name="softmax"),
        node("MatMul", ["shares", "v_first"], ["mixed"], name="mix"),
        node("Transpose", ["mixed"], ["rows"], perm=[0, 2, 1, 3]),
        node("Reshape", ["rows", "flat"], ["joined"]),
        node("MatMul", ["joined", "w_out"], ["out"], name="out"),
        node("Add", ["out", "x"], ["h"]),
        node("MatMul", ["h", "w_gate_up"], ["gate_up"], name="gate_up"),
        node("Split", ["gate_up"], ["gate", "up"], axis=-1, num_outputs=2),
        node("Sigmoid", ["gate"], ["open"]),
        node("Mul", ["gate", "open"], ["silu"]),
        node("Mul", ["silu", "up"], ["inner"]),
        node("MatMul", ["inner", "w_down"], ["down"], name="down"),
        node("Add", ["down", "h"], ["y"]),
    ]
    shape = (1, ROWS, WIDE)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    held = [
        _weight("w_qkv", WIDE, 3 * WIDE),
        _weight("w_out", WIDE, WIDE),
        _weight("w_gate_up", WIDE, 4 * WIDE),
        _weight("w_down", 2 * WIDE, WIDE),
        numpy_helper.from_array(np.array([1, ROWS, HEADS, head]), "heads"),
        numpy_helper.from_array(np.array([1, ROWS, WIDE]), "flat"),
        numpy_helper.from_array(np.float32(head**-0.5), "scale"),
    ]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], held)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def _cost(work, _device, *, both=False):
    return work.macs / 1000 + work.bytes / 1e6


def _declined(call, device):
    spec = load_spec("host")
    if device == "npu":
        return npu_support.decline_reason(call, spec.npu)
    return gpu_support.decline_reason(call, spec.gpu)


def _plan(mod, wait_us=_WAIT_US):
    pairs = itertools.permutations(("cpu", "gpu", "npu"), 2)
    waits = Waiting(wait_us={pair: 0.0 if "cpu" in pair else wait_us for pair in pairs})
    return place(mod, _declined, _cost, waits, tile=32)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    model = _layer(folder / "layer.onnx")
    state = forced_plans.build(model, folder / "layer.so", _plan)
    return model, folder / "layer.so", state


@pytest.mark.parametrize(("packed", "parts"), [("qkv", 3), ("gate_up", 2)])
def test_a_packed_product_is_one_split_operator(built, packed, parts):
    ops = built[2].plan.ops
    products = [op for op in ops if op.op == "relax.matmul"]
    of_it = [op for op in products if op.name.startswith(packed)]
    assert len(of_it) == 1
    (product,) = of_it
    assert product.split is not None
    assert (product.split.kind, product.split.axis) == ("activation", 1)
    position = ops.index(product)
    slices = [op for op in ops[position:] if op.op == "relax.strided_slice"][:parts]
    assert len(slices) == parts
    for one in slices:  # each part of it is cut where it is, and computed where it was made
        assert one.split is not None
        assert (one.split.axis, one.split.at) == (1, product.split.at)


def test_what_reads_the_query_and_the_gate_stays_on_the_shards_device(built):
    ops = {op.name: op for op in built[2].plan.ops}
    rows = {op.split.at for op in ops.values() if op.split is not None}
    assert len(rows) == 1  # one boundary from the first product to the last
    cut = [name for name, op in ops.items() if op.split is not None]
    assert {"qkv", "scores", "softmax", "mix", "out", "gate_up", "down"} <= set(cut)


def test_one_exchange_in_the_whole_layer_and_right_numbers(built):
    """Keys and values are the only thing that a device reads of the other's."""
    model, artefact, state = built
    between = [w for w in state.plan.waits if "cpu" not in (w.waiter, w.on)]
    assert len(between) == 2  # each device for the other's keys and values
    x = np.random.default_rng().standard_normal((1, ROWS, WIDE), np.float32)
    want = tiny.run_with_onnxruntime(model, x=x)["y"]
    loaded = hetero_tvm.load(artefact)
    fed = loaded.feed({"x": x})
    runtime.reset_counters()
    results = loaded.call(fed)
    counted = runtime.counters()
    np.testing.assert_allclose(loaded.fetch(results)["y"], want, rtol=1e-4, atol=1e-4)
    assert counted["npu_runs"] == 2  # before the exchange, and behind it
    assert counted["bytes_copied"] == 0


def test_staying_split_is_what_saves_the_waits(built):
    """Were the products split one by one, each would be put together: the plan takes longer."""
    state = built[2]
    alone = state.plan.alternatives_us
    assert state.plan.predicted_us < min(alone["gpu"], alone["npu"], alone["layer"])
    split_macs = sum(op.macs for op in state.plan.ops if op.split is not None)
    products = [op for op in state.plan.ops if op.split is not None and op.macs]
    one_by_one = split_macs / 2 / 1000 + 2 * _WAIT_US * len(products)
    assert state.plan.predicted_us < one_by_one
