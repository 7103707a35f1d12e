# ruff: noqa: N805 -- a TVMScript module is not a class
"""Plans of small modules: who goes where, what is cut, and the words that say why."""

import itertools

import numpy as np
import pytest
from attended_programs import attended
from layered_programs import layered
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.op_work import op_name, tensor_args
from relay_passes.place import MODES, place, place_all, reprice
from relay_passes.plan import Split
from relay_passes.planner.problem import Waiting
from relay_passes.program import read_program


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


COST = {"gpu": 200.0, "npu": 40.0}  # of the one matmul


def declined(call, device):
    if op_name(call) == "relax.sort":
        return f"{device} cannot sort"
    if device == "npu" and any(str(arg.ty.dtype) == "int64" for arg in tensor_args(call)):
        return "dtype int64"
    return None


def cost_us(work, device, *, both=False):
    if work.kind == "view":
        return 0.0
    return COST[device] if work.kind == "matmul" else {"cpu": 5.0}.get(device, 1.0)


def waits(us):
    """Every wait between GPU and NPU takes `us`, with the CPU nothing."""
    pairs = itertools.permutations(("cpu", "gpu", "npu"), 2)
    return Waiting(wait_us={pair: 0.0 if "cpu" in pair else us for pair in pairs})


def plan_for(devices=("gpu", "npu"), us=60.0, **more):
    return place(Mlp, declined, cost_us, waits(us), devices, **more)


def reasons(plan):
    return {op.name: op.reason for op in plan.ops}


def test_costs_decide():
    plan = plan_for()
    device = plan.device
    assert (device["mask"], device["up"], device["ranked"]) == ("gpu", "npu", "cpu")
    assert device["act"] == device["flat"] == "npu"
    assert plan.macs == {"cpu": 0, "gpu": 0, "npu": 4 * 8 * 8}
    assert plan.predicted_us == 1 + 1 + 60 + 40 + 1 + 5 + 1
    (crossing,) = [(w.waiter, w.on) for w in plan.waits if "cpu" not in (w.waiter, w.on)]
    assert crossing == ("npu", "gpu")
    assert plan.exact
    assert plan.bound_us == plan.predicted_us
    assert sum(plan.busy_us.values()) == 49.0
    assert plan.busy_us["cpu"] == 5.0


def test_reasons_are_words_with_numbers():
    found = reasons(plan_for(split=False))
    assert found["mask"] == "gpu: NPU declines: dtype int64"
    assert found["column"] == "gpu: a view, stays with its neighbours"
    assert found["up"] == "npu: 40 µs against 200 µs on the gpu"
    assert found["act"] == (
        "npu: stays with its neighbours (1.0 µs against 1.0 µs on the gpu), a wait costs 60 µs"
    )
    assert found["ranked"] == "cpu: GPU declines: gpu cannot sort; NPU declines: npu cannot sort"


def test_refusals_are_recorded():
    refused = plan_for().refused
    assert {(r["name"], r["device"]) for r in refused} == {
        ("mask", "npu"),
        ("ranked", "gpu"),
        ("ranked", "npu"),
    }


def test_dear_waits_keep_everything_on_the_gpu():
    plan = plan_for(us=500.0, split=False)
    assert set(plan.device.values()) == {"gpu", "cpu"}
    assert reasons(plan)["up"] == (
        "gpu: stays with its neighbours (200 µs against 40 µs on the npu), a wait costs 500 µs"
    )


@pytest.mark.parametrize(
    ("devices", "up", "mask"), [(("gpu",), "gpu", "gpu"), (("npu",), "npu", "gpu")]
)
def test_one_device_takes_what_it_can(devices, up, mask):
    plan = plan_for(devices)
    assert (plan.device["up"], plan.device["mask"], plan.device["ranked"]) == (up, mask, "cpu")
    assert reasons(plan)["up"] == f"{up}: the only device asked for"
    assert plan.predicted_us == plan.alternatives_us[devices[0]]
    assert not any(op.offers or op.split for op in plan.ops)


def test_one_devices_views_follow_too():
    """`masked` is on the NPU, so the view before it may be on either side of the wait."""
    plan = plan_for(("npu",))
    assert plan.device["masked"] == "npu"
    (crossing,) = [wait for wait in plan.waits if (wait.waiter, wait.on) == ("npu", "gpu")]
    assert crossing.us == 61.0  # with `mask`, that the GPU computes meanwhile


def test_an_unfit_operator_stays_off_the_npu():
    plan = plan_for(unfit={"up": "float16 is too coarse here"}, split=False)
    assert plan.device["up"] == "gpu"
    assert plan.ops[3].reason == "gpu: NPU declines: float16 is too coarse here"


# --- splits --------------------------------------------------------------------------------------


def product(rows=128, depth=64, columns=128):
    """`main` with one matmul by a constant and a relu."""
    x = relax.Var("x", relax.TensorType((rows, depth), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = relax.const(np.ones((depth, columns), np.float32))
            up = builder.emit(relax.op.matmul(x, weight), "up")
            act = builder.emit_output(relax.op.nn.relu(up), "act")
        builder.emit_func_output(act)
    return builder.get()


def by_macs(gpu=1.0, npu=1.0, slower_together=1.0, reading=0.0):
    """1000 macs take so many µs on each device, 1000 bytes of weight `reading` on either."""
    rate = {"gpu": gpu, "npu": npu}

    def cost(work, device, *, both=False):
        us = work.macs * rate[device] / 1000 * (slower_together if both else 1.0)
        return us + work.weight_bytes * reading / 1000

    return cost


def takes_all(_call, _device):
    return None


def split_plan(cost, us=1.0, mod=None, **more):
    return place(mod or product(), takes_all, cost, waits(us), tile=32, **more)


def test_a_split_is_chosen_where_it_pays():
    plan = split_plan(by_macs(gpu=1.0, npu=1.0))
    up, act = plan.ops
    whole = 128 * 64 * 128 / 1000
    assert up.device == act.device == "gpu+npu"
    assert up.split.npu_share == act.split.npu_share == 0.5
    assert up.split_us == {"gpu": whole / 2, "npu": whole / 2}
    assert plan.predicted_us == pytest.approx(whole / 2)  # the CPU waits for nothing
    assert plan.macs == {"cpu": 0, "gpu": 128 * 64 * 64, "npu": 128 * 64 * 64}
    assert plan.split_share == 1.0
    assert plan.alternatives_us == pytest.approx(
        {"gpu": whole, "npu": whole, "layer": whole, "split": whole / 2}
    )


def test_cuts_follow_the_devices_speed():
    plan = split_plan(by_macs(gpu=3.0, npu=1.0))
    assert plan.ops[0].split.npu_share == 0.75


@pytest.mark.parametrize(
    ("cost", "device"),
    [
        pytest.param(by_macs(npu=1.0, gpu=100.0), "npu", id="the_other_device_is_hopeless"),
        pytest.param(by_macs(gpu=1.0, npu=1.2, slower_together=2.5), "gpu", id="they_share_cores"),
    ],
)
def test_no_split_where_it_loses_and_the_reason_has_the_numbers(cost, device):
    plan = split_plan(cost)
    up = plan.ops[0]
    assert up.device == device
    assert up.offers
    assert f"{device}: " in up.reason
    best = min(up.offers, key=lambda offer: max(offer.us.values()))
    assert "; splits lost: " in up.reason
    assert f"{best.split.kind}, {best.split.at} of {best.split.extent} on the npu" in up.reason
    assert plan.predicted_us == plan.alternatives_us["layer"]


def test_a_split_says_what_each_part_takes():
    up = split_plan(by_macs()).ops[0]
    assert up.reason == (
        f"{up.split.kind}: the npu computes 64 of 128: 524 µs on the npu beside 524 µs on the gpu, "
        "alone 1049 µs on the gpu and 1049 µs on the npu"
    )


def test_every_split_that_was_considered_is_listed():
    cost = by_macs(reading=30.0)  # rows cut: both devices read the whole weight
    up, act = split_plan(cost).ops
    splits = [offer.split for offer in up.offers]
    assert up.split in splits
    assert {split.kind for split in splits} == {"weight", "activation"}
    assert up.split.kind == "weight"
    assert all(split.at % 32 == 0 for split in splits)
    assert len(set(splits)) == len(splits)
    assert act.offers  # a chain may stay cut
    for offer in up.offers:
        twice = 64 * 128 * 4 * 30.0 / 1000 if offer.split.kind == "activation" else 0.0
        assert sum(offer.us.values()) == pytest.approx(up.cost_us["gpu"] + twice)


def test_without_splits_every_operator_stays_whole():
    plan = split_plan(by_macs(), split=False)
    assert not any(op.split or op.offers for op in plan.ops)
    assert plan.predicted_us == plan.alternatives_us["layer"]
    assert plan.alternatives_us["split"] < plan.predicted_us  # still said


@pytest.mark.parametrize("us", [0.0, 10.0, 300.0, 5000.0])
@pytest.mark.parametrize("npu", [0.3, 1.0, 2.0])
def test_never_predicted_slower_than_a_simpler_mode(us, npu):
    plans = place_all(product(), takes_all, by_macs(npu=npu), waits(us), tile=32)
    assert list(plans) == list(MODES)
    for simpler, other in itertools.combinations(("npu", "layer", "split"), 2):
        assert plans[other].predicted_us <= plans[simpler].predicted_us + 1e-6
    assert plans["layer"].predicted_us <= plans["gpu"].predicted_us + 1e-6
    for plan in plans.values():
        assert plan.bound_us <= plan.predicted_us + 1e-6


def test_a_tie_goes_to_the_simplest():
    """Nothing is gained by the NPU where it is as fast and must be waited for."""
    plans = place_all(product(), takes_all, by_macs(slower_together=5.0), waits(10.0), tile=32)
    assert set(plans["split"].device.values()) == {"gpu"}


# --- objectives ----------------------------------------------------------------------------------

POWER = {"gpu": 4.0, "npu": 1.0}


def test_energy_takes_the_frugal_device_and_adds_up():
    cost = by_macs(gpu=1.0, npu=2.0)
    plan = split_plan(cost, objective="energy", power_w=POWER)
    whole = 128 * 64 * 128 / 1000
    assert plan.device["up"] == "npu"  # two thirds slower, a quarter of the power
    assert plan.joules == pytest.approx(2 * whole * 1.0 / 1e6)
    fast = split_plan(cost, power_w=POWER)
    assert fast.predicted_us < plan.predicted_us
    assert fast.joules > plan.joules
    assert (fast.objective, plan.objective) == ("latency", "energy")


def test_edp_is_between_both():
    cost = by_macs(gpu=1.0, npu=2.0)
    plans = {
        objective: split_plan(cost, objective=objective, power_w=POWER)
        for objective in ("latency", "energy", "edp")
    }
    product_of = {name: plan.predicted_us * plan.joules for name, plan in plans.items()}
    assert product_of["edp"] <= min(product_of["latency"], product_of["energy"]) + 1e-9


def test_energy_without_power_is_refused():
    with pytest.raises(ValueError, match="needs the power of every device"):
        split_plan(by_macs(), objective="energy")
    assert split_plan(by_macs()).joules is None


def test_a_shared_gpu_gets_a_smaller_part():
    whole = split_plan(by_macs())
    shared = split_plan(by_macs(), gpu_share=1 / 3)
    assert whole.ops[0].split.npu_share == 0.5
    assert shared.ops[0].split.npu_share == 0.75
    assert shared.ops[0].cost_us["gpu"] == pytest.approx(3 * whole.ops[0].cost_us["gpu"])
    assert shared.predicted_us > whole.predicted_us
    with pytest.raises(ValueError, match="gpu_share is 0"):
        split_plan(by_macs(), gpu_share=0.0)


def test_a_shared_gpu_takes_no_more_energy():
    alone = place(product(), takes_all, by_macs(), waits(1.0), ("gpu",), power_w=POWER)
    shared = place(
        product(), takes_all, by_macs(), waits(1.0), ("gpu",), power_w=POWER, gpu_share=0.5
    )
    assert shared.joules == pytest.approx(alone.joules)
    assert shared.predicted_us == pytest.approx(2 * alone.predicted_us)


def test_what_is_not_contiguous_is_gathered_at_a_price():
    """Columns of a matrix are stored apart; who needs the whole reads it once more."""
    plan = split_plan(by_macs(), mod=product(rows=1))
    split = plan.ops[0].split
    assert isinstance(split, Split)
    assert (split.kind, split.axis) == ("weight", 1)


def test_the_same_places_at_other_costs():
    """Nothing is searched: also what nobody would choose any more is priced."""
    mod, cost = product(), by_macs(gpu=2.0, npu=1.0)
    plan = place_all(mod, takes_all, cost, waits(1.0), tile=32)["split"]
    assert plan.ops[0].split is not None
    dear = by_macs(gpu=20.0, npu=1.0)
    again = reprice(mod, plan, takes_all, dear, waits(1.0), wanted="split", tile=32)
    assert again.places == plan.places
    assert again.ops[0].split_us["gpu"] == pytest.approx(10 * plan.ops[0].split_us["gpu"])
    assert again.predicted_us > 5 * plan.predicted_us
    same = reprice(mod, plan, takes_all, cost, waits(1.0), wanted="split", tile=32)
    assert same.predicted_us == pytest.approx(plan.predicted_us)
    assert same.ops == plan.ops


def test_a_plan_found_under_other_costs_stays_on_offer():
    mod = product(rows=1024)
    plan = place_all(mod, takes_all, by_macs(gpu=1.0, npu=3.0), waits(1.0), tile=32)["split"]
    split = plan.ops[0].split
    now = by_macs(gpu=3.0, npu=1.0)
    alone = place_all(mod, takes_all, now, waits(1.0), tile=32)["split"]
    assert split not in [offer.split for offer in alone.ops[0].offers]
    both = place_all(mod, takes_all, now, waits(1.0), tile=32, also=[plan])["split"]
    assert split in [offer.split for offer in both.ops[0].offers]
    assert both.predicted_us <= alone.predicted_us


def test_a_device_that_loses_much_beside_the_other_gets_less():
    x = relax.Var("x", relax.TensorType((128, 64), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = relax.const(np.ones((64, 128), np.float32))
            gate, up = (builder.emit(relax.op.matmul(x, weight)) for _ in range(2))
            out = builder.emit_output(relax.op.add(gate, up))
        builder.emit_func_output(out)

    def cost(work, device, *, both=False):
        us = work.macs / (128 * 64 * 128) * 100
        return us * (2 if both and device == "npu" else 1)

    # Side by side the NPU's product takes 200 us; two thirds of both on the GPU take 133 us.
    plan = place(builder.get(), takes_all, cost, waits(1.0))
    assert plan.ops[0].device == plan.ops[1].device == "gpu+npu"
    assert 133 <= plan.predicted_us < 150


def test_the_first_modes_alone():
    found = place_all(product(), takes_all, by_macs(), waits(1.0), tile=32, modes=MODES[:2])
    assert list(found) == ["gpu", "npu"]


def test_a_region_is_cut_where_it_is_told():
    mod = Mlp
    plan = place_all(mod, declined, cost_us, waits(60.0), modes=MODES[:2])["npu"]
    cut = reprice(mod, plan, declined, cost_us, waits(60.0), wanted="npu", breaks=["act"])
    region = {op.name: op.region for op in cut.ops}
    assert cut.breaks == ("act",)
    assert region["up"] != region["act"] == region["flat"]
    assert cut.regions == plan.regions + 1


def test_on_the_gpu_what_has_no_kernel_to_join_is_one():
    """`act` runs inside the product's kernel, but not where the product is on the NPU."""

    def cost(work, device, *, both=False):
        inside = device == "gpu" and work.fuses
        return 0.0 if work.kind == "view" or inside else cost_us(work, device, both=both)

    both = place_all(Mlp, declined, cost, waits(60.0))
    us = {mode: {op.name: op.cost_us for op in plan.ops} for mode, plan in both.items()}
    assert us["gpu"]["act"]["gpu"] == 0.0
    assert us["npu"]["act"]["gpu"] == 1.0
    assert us["gpu"]["mask"]["gpu"] == 1.0  # nothing before it
    assert us["gpu"]["masked"]["gpu"] == 0.0


def test_a_long_program_is_planned_by_a_few_of_its_layers():
    """Middle layers do alike; the whole's own time is told, close to what a search of all finds."""

    def cost(work, device, *, both=False):
        if work.kind == "view":
            return 0.0
        slower = 1.3 if both else 1.0
        rate = {"gpu": 3000.0, "npu": 2000.0, "cpu": 100.0}[device] / slower
        return 1.0 + work.macs / rate + work.bytes / 1e5

    shared = {"declined": lambda call, device: None, "cost_us": cost, "waiting": waits(6.0)}
    mod = layered(8, rows=64)
    whole = place_all(mod, **shared)
    short = place_all(mod, longest=30, **shared)
    for mode in MODES:
        assert short[mode].predicted_us <= 1.05 * whole[mode].predicted_us
        assert short[mode].bound_us <= short[mode].predicted_us
        assert set(short[mode].alternatives_us) == set(MODES)
    found = short["split"].alternatives_us
    assert found["split"] <= found["layer"] <= min(found["gpu"], found["npu"])
    assert short["gpu"] == whole["gpu"]
    plan = short["split"]
    assert not plan.exact
    assert any(op.split for op in plan.ops)
    placed = {op.name: (op.device, op.split) for op in plan.ops}
    for kind in ("norm", "gate", "curve", "inner", "down", "stream"):
        assert len({placed[f"{kind}{layer}"] for layer in range(3, 6)}) == 1, kind
    again = place_all(mod, longest=30, also=[plan], **shared)
    assert again["split"].predicted_us <= plan.predicted_us


def by_kind(work, device, *, both=False):
    """Products about as fast on either device, all else on the GPU alone."""
    rates = {"matmul": {"gpu": 60.0, "npu": 35.0}, "view": {"gpu": 1e9, "npu": 1e9}}
    rate = rates.get(work.kind, {"gpu": 1000.0, "npu": 1.0})[device]
    return (work.macs + work.bytes / 10) / rate * (1.01 if both else 1.0)


@pytest.mark.parametrize("longest", [1000, 12])
def test_attention_in_two_parts_is_found_told_and_priced_again(longest):
    mod, shared = attended(8), (takes_all, by_kind, waits(3.0))
    plan = place_all(mod, *shared, longest=longest, tile=8)["split"]
    early = [op for op in plan.ops if op.early is not None]
    assert [op.op for op in early] == ["hetero.attention"] * 8
    for op in early:
        reader = plan.ops[plan.ops.index(op) + 1]
        assert op.early == reader.split.cut
        assert "first, for the npu to begin with" in op.reason
        first, second = op.early_us
        assert op.part_us("gpu") == first + second >= op.cost_us["gpu"]
        assert first / second == pytest.approx(op.early.at / (64 - op.early.at), rel=0.1)
    again = reprice(mod, plan, *shared, wanted="split", tile=8)
    assert again.ops == plan.ops
    assert again.predicted_us == pytest.approx(plan.predicted_us)

    def slow(work, device, *, both=False):
        return by_kind(work, device, both=both) * (4.0 if device == "gpu" else 1.0)

    dear = reprice(mod, plan, takes_all, slow, waits(3.0), wanted="split", tile=8)
    assert dear.places == plan.places
    for one, other in zip(plan.ops, dear.ops, strict=True):
        assert other.early_us == pytest.approx([4 * us for us in one.early_us])
    kept = place_all(mod, *shared, longest=longest, tile=8, also=[plan])["split"]
    assert kept.predicted_us <= plan.predicted_us


def plan_names(mod):
    return [node.name for node in read_program(mod)]


@pytest.mark.parametrize("seed", range(12))
def test_layers_that_are_priced_by_their_names_have_cuts_of_their_own(seed):
    """As a region's estimate does: what one layer was given another one may not have."""
    rng = np.random.default_rng(seed)
    mod = attended(8, rows=int(rng.integers(1, 9)) * 8, dim=64)
    factor = {name: rng.uniform(0.4, 2.5) for name in plan_names(mod)}

    def cost(work, device, *, both=False):
        own = factor[work.name] if device == "npu" else 1.0
        return own * by_kind(work, device, both=both)

    plans = place_all(mod, takes_all, cost, waits(3.0), longest=12, tile=8)
    best = min(plans[mode].predicted_us for mode in ("gpu", "npu"))
    assert plans["split"].predicted_us <= plans["layer"].predicted_us <= best
    whole = place_all(mod, takes_all, cost, waits(3.0), tile=8)["split"]
    again = place_all(mod, takes_all, cost, waits(3.0), longest=12, tile=8, also=[whole])
    assert again["split"].predicted_us <= best


def test_a_plan_that_has_what_is_not_on_offer_is_left_out():
    """Early work in a layer that stands for one whose attention is read twice."""
    mod, shared = attended(8, tap=4), (takes_all, by_kind, waits(3.0))
    plan = place_all(mod, *shared, tile=8)["split"]
    assert sum(op.early is not None for op in plan.ops) == 7
    found = place_all(mod, *shared, longest=12, tile=8, also=[plan])["split"]
    assert all(op.early is None for op in found.ops if op.name != "mixed7")


def test_a_length_without_graphs_is_the_gpus_or_cut():
    """On an NPU that would take it whole by far."""
    cost = by_macs(gpu=1.0, npu=1.5)
    free = place_all(product(rows=160), takes_all, cost, waits(1.0), tile=32)
    rows = {160: (32, 64)}
    plans = place_all(product(rows=160), takes_all, cost, waits(1.0), tile=32, npu_rows=rows)
    op = next(op for op in plans["split"].ops if op.macs)
    assert op.split is not None
    assert op.split.kind == "hybrid" or op.split.at in rows[160]
    assert {offer.split.at for offer in op.offers if offer.split.axis == 0} == {32, 64}
    for mode in ("npu", "layer"):
        assert {op.device for op in plans[mode].ops if op.macs} == {"gpu"}
    assert plans["split"].predicted_us >= free["split"].predicted_us
    again = reprice(
        product(rows=160),
        plans["split"],
        takes_all,
        cost,
        waits(1.0),
        wanted="split",
        tile=32,
        npu_rows=rows,
    )
    assert again.places == plans["split"].places


def test_what_the_gpu_declines_may_have_any_length_on_the_npu():
    mod = product(rows=160)
    no_gpu = lambda _, device: "no" if device == "gpu" else None  # noqa: E731
    plan = place_all(mod, no_gpu, by_macs(), waits(1.0), npu_rows={160: (32,)})["split"]
    assert {op.device for op in plan.ops} == {"npu"}
