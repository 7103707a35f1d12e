"""What people read about a plan."""

import dataclasses
from pathlib import Path

from test_plan_regions import ESTIMATE

from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_report import Handover, Mode, PlanReport
from hetero_tvm.report_plan import plan_summary
from relay_passes.plan import OpPlan, Plan
from schedules.npu_profile import NoEstimate
from target_specs.spec import Origin


def op(name, device, cost, declined=None, kind="relax.matmul"):
    return OpPlan(
        name=name,
        op=kind,
        device=device,
        reason="in words",
        cost_us=cost,
        declined=declined or {},
        macs=0,
    )


OPS = (
    op("a", "npu", {"npu": 10.0, "gpu": 30.0}),
    op("b", "npu", {"npu": 5.0, "gpu": 40.0}),
    op("c", "gpu", {"gpu": 7.0, "npu": 6.0}, kind="relax.add"),
    op("d", "gpu", {"gpu": 9.0}, {"npu": "int64 tensors"}, kind="relax.take"),
    op("e", "gpu", {"gpu": 0.0, "npu": 0.0}, kind="relax.reshape"),
    op("f", "cpu", {"cpu": 3.0}, {"gpu": "sorts", "npu": "no"}, kind="relax.sort"),
)
FIGURES = (Origin("published", "a paper"), Origin("scaled", "a rule"))


def mode(us, handovers=()):
    plan = Plan(ops=OPS, predicted_us=us, handover_us=66.0, alternatives_us={})
    return Mode(plan=plan, handovers=handovers)


REPORT = PlanReport(
    model=Path("m.onnx"),
    target="t",
    dtype="float32",
    devices="gpu+npu",
    modes={
        "gpu": mode(300.0),
        "npu": mode(200.0),
        "gpu+npu": mode(
            100.0, (Handover(source="gpu", target="npu", waits=3, tensors=3, nbytes=4096, us=66.0),)
        ),
    },
    figures=FIGURES,
    figure_of={
        ("a", "gpu"): 0,
        ("b", "gpu"): 1,
        ("a", "npu"): 1,
        ("b", "npu"): 1,
        ("c", "gpu"): 0,
        ("c", "npu"): 1,
        ("d", "gpu"): 0,
        ("f", "cpu"): 0,
    },
    node_of={"d": "/embeddings/Gather"},
    regions=None,
    seconds=0.1,
)
REGION = Region(
    symbol="npu_region_0",
    operators=("a", "b"),
    operators_us=15.0,
    border_us=5.0,
    estimate=ESTIMATE,
)


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_operators_are_grouped_and_times_added_and_marked():
    found = rows(plan_summary(REPORT, verbose=False))
    assert ["npu", "matmul", "2", "70.0", "ps", "15.0", "s", "-", "faster", "here"] in found
    neighbours = "stays with its neighbours: hand-overs would cost more".split()
    assert ["gpu", "add", "1", "7.0", "p", "6.0", "s", "-", *neighbours] in found
    assert ["gpu", "take", "1", "9.0", "p", "-", "-", "NPU", "declines", "[1]"] in found
    view = "a view, stays with its neighbours".split()
    assert ["gpu", "reshape", "1", "0.0", "0.0", "-", *view] in found
    cpu = "GPU and NPU decline [2, 3]".split()
    assert ["cpu", "sort", "1", "-", "-", "3.0", "p", *cpu] in found
    assert [["[1]", "int64", "tensors"], ["[2]", "sorts"], ["[3]", "no"]] == [
        row for row in found if row and row[0].startswith("[")
    ]


def test_cpu_column_only_where_it_works():
    plan = dataclasses.replace(REPORT.plan, ops=OPS[:3])
    modes = {**REPORT.modes, "gpu+npu": dataclasses.replace(REPORT.modes["gpu+npu"], plan=plan)}
    text = plan_summary(dataclasses.replace(REPORT, modes=modes), verbose=False)
    assert "CPU µs" not in text
    assert "CPU µs" in plan_summary(REPORT, verbose=False)


def test_provenance_is_spelt_out():
    text = plan_summary(REPORT, verbose=False)
    assert "Times are modelled: a roofline on figures of the target's spec" in text
    assert "p published, s scaled." in text
    assert "a paper" not in text
    assert "p a paper" in plan_summary(REPORT, verbose=True)


def test_verbose_names_every_node():
    found = rows(plan_summary(REPORT, verbose=True))
    assert ["9.0", "p", "-", "-", "/embeddings/Gather", "[1]"] in found


def test_modes_side_by_side_and_the_winner():
    text = plan_summary(REPORT, verbose=False)
    (both,) = [line for line in text.splitlines() if line.startswith("GPU + NPU")]
    assert "0.100 ms" in both
    assert "3 in 0.066 ms, 4,096 bytes" in both
    assert "Best: GPU + NPU, 2.00 x as fast as NPU only (modelled)." in text
    modes = {**REPORT.modes, "npu": mode(100.0)}
    text = plan_summary(dataclasses.replace(REPORT, modes=modes), verbose=False)
    assert "Best: NPU only; both together gain nothing (modelled)." in text


def test_regions_name_proxy_scale_and_ratio():
    text = plan_summary(dataclasses.replace(REPORT, regions=(REGION,)), verbose=False)
    (row,) = [line for line in text.splitlines() if line.startswith("npu_region_0")]
    assert row.split() == "npu_region_0 2 20.0 µs 25.0 µs 20 … 30 1.25 3 7 0".split()
    assert "(vendor-estimated), for the proxy QCS9100 (v73): there is no table of v75" in text
    assert "Scaled halved." in text
    assert "this plan takes 0.105 ms, against 0.300 ms" in text


def test_a_region_without_an_estimate_leaves_the_total_open():
    silent = dataclasses.replace(REGION, estimate=NoEstimate("it crashed"))
    report = dataclasses.replace(REPORT, regions=(REGION, silent))
    text = plan_summary(report, verbose=False)
    assert "20.0 µs  no estimate: it crashed" in text
    assert report.with_estimates_us is None
    assert "instead of the predictions" not in text
