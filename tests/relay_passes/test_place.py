# ruff: noqa: N805 -- a TVMScript module is not a class
"""Plans of small modules: who goes where, and the words that say why."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.op_work import op_name, tensor_args
from relay_passes.place import place


@I.ir_module
class Mlp:
    @R.function
    def main(ids: R.Tensor((4,), "int64"), x: R.Tensor((4, 8), "float32")) -> R.Tensor(
        (2, 16), "float32"
    ):
        with R.dataflow():
            mask = R.astype(ids, dtype="float32")
            column = R.reshape(mask, R.shape([4, 1]))
            masked = R.multiply(x, column)
            up = R.matmul(masked, R.const([[1.0] * 8] * 8, "float32"))
            act = R.nn.relu(up)
            flat = R.reshape(act, R.shape([2, 16]))
            ranked = R.sort(flat, axis=1)
            out = R.add(ranked, ranked)
            R.output(out)
        return out


COST = {"relax.matmul": {"gpu": 200.0, "npu": 40.0}, "relax.nn.relu": {"gpu": 1.0, "npu": 2.0}}


def declined(call, device):
    if op_name(call) == "relax.sort":
        return f"{device} cannot sort"
    if device == "npu" and any(str(arg.ty.dtype) == "int64" for arg in tensor_args(call)):
        return "dtype int64"
    return None


def cost_us(work, device):
    if work.kind == "view":
        return 0.0
    return COST["relax.matmul"][device] if work.kind == "matmul" else {"cpu": 5.0}.get(device, 1.0)


def handover(source, target, _nbytes):
    return 0.0 if "cpu" in (source, target) else 60.0


def plan_for(devices=("gpu", "npu"), cost=cost_us):
    return place(Mlp, declined, cost, handover, devices)


def test_costs_decide():
    plan = plan_for()
    assert plan.device == {
        "mask": "gpu",
        "column": "gpu",
        "masked": "gpu",
        "up": "npu",
        "act": "npu",
        "flat": "npu",
        "ranked": "cpu",
        "out": "gpu",
    }
    assert plan.macs == {"cpu": 0, "gpu": 0, "npu": 4 * 8 * 8}
    assert plan.handover_us == 60.0
    assert plan.predicted_us == 1 + 1 + 40 + 1 + 5 + 1 + 60
    assert plan.predicted_us <= min(plan.alternatives_us.values())


def test_reasons_are_words_with_numbers():
    reasons = {op.name: op.reason for op in plan_for().ops}
    assert reasons["mask"] == "gpu: NPU declines: dtype int64"
    assert reasons["column"] == "gpu: a view, stays with its neighbours"
    assert reasons["up"] == "npu: 40 µs against 200 µs on the gpu"
    assert reasons["act"] == (
        "npu: stays with its neighbours (1.0 µs against 1.0 µs on the gpu), a hand-over costs 60 µs"
    )
    assert reasons["ranked"] == "cpu: GPU declines: gpu cannot sort; NPU declines: npu cannot sort"


def test_refusals_are_recorded():
    refused = plan_for().refused
    assert {(r["name"], r["device"]) for r in refused} == {
        ("mask", "npu"),
        ("ranked", "gpu"),
        ("ranked", "npu"),
    }


def test_dear_handovers_keep_everything_on_the_gpu():
    plan = place(Mlp, declined, cost_us, lambda s, t, n: 0.0 if "cpu" in (s, t) else 500.0)
    assert set(plan.device.values()) == {"gpu", "cpu"}
    assert {op.name: op.reason for op in plan.ops}["up"] == (
        "gpu: stays with its neighbours (200 µs against 40 µs on the npu), a hand-over costs 500 µs"
    )


@pytest.mark.parametrize(
    ("devices", "up", "mask"), [(("gpu",), "gpu", "gpu"), (("npu",), "npu", "gpu")]
)
def test_one_device_takes_what_it_can(devices, up, mask):
    plan = plan_for(devices)
    assert (plan.device["up"], plan.device["mask"], plan.device["ranked"]) == (up, mask, "cpu")
    assert {op.name: op.reason for op in plan.ops}["up"] == f"{up}: the only device asked for"
    assert plan.predicted_us == plan.alternatives_us[devices[0]]


def test_one_devices_views_follow_too():
    """`masked` is on the NPU, so the view before it may be on either side of the hand-over."""
    plan = plan_for(("npu",))
    assert plan.device["masked"] == "npu"
    assert plan.handover_us == 60.0


def test_an_unfit_operator_stays_off_the_npu():
    plan = place(Mlp, declined, cost_us, handover, unfit={"up": "float16 is too coarse here"})
    assert plan.device["up"] == "gpu"
    assert plan.ops[3].reason == "gpu: NPU declines: float16 is too coarse here"
