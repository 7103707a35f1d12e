"""What people read about a plan."""

import dataclasses
from pathlib import Path

from test_plan_regions import ESTIMATE

from hetero_tvm.memory_forecast import DeviceMemory, PlanMemory
from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_report import PlanReport
from hetero_tvm.report_plan import lengths_table, plan_summary
from relay_passes.plan import Offer, OpPlan, Plan, Split, Wait
from relay_passes.planner.problem import Cut
from schedules.npu_profile import NoEstimate
from target_specs.spec import Origin


def op(name, device, cost, declined=None, kind="relax.matmul", **more):
    return OpPlan(
        name=name,
        op=kind,
        device=device,
        reason="in words",
        cost_us=cost,
        declined=declined or {},
        macs=100,
        **more,
    )


COLUMNS = Split(kind="weight", axis=1, at=192, extent=256)
ROWS = Split(kind="activation", axis=0, at=32, extent=64)
OPS = (
    op("a", "npu", {"npu": 10.0, "gpu": 30.0}, region=0),
    op("b", "npu", {"npu": 5.0, "gpu": 40.0}, region=0),
    op("c", "gpu", {"gpu": 7.0, "npu": 6.0}, kind="relax.add"),
    op("d", "gpu", {"gpu": 9.0}, {"npu": "int64 tensors"}, kind="relax.take"),
    op("e", "gpu", {"gpu": 0.0, "npu": 0.0}, kind="relax.reshape"),
    op("f", "cpu", {"cpu": 3.0}, {"gpu": "sorts", "npu": "no"}, kind="relax.sort"),
)
SPLIT = op(
    "g",
    "gpu+npu",
    {"gpu": 40.0, "npu": 20.0},
    split=COLUMNS,
    split_us={"npu": 15.0, "gpu": 11.0},
    offers=(
        Offer(split=COLUMNS, us={"npu": 15.0, "gpu": 11.0}),
        Offer(split=ROWS, us={"npu": 12.5, "gpu": 21.5}),
    ),
    region=1,
)
LOST = op(
    "h",
    "npu",
    {"gpu": 40.0, "npu": 9.0},
    offers=(
        Offer(split=ROWS, us={"npu": 8.0, "gpu": 21.5}),
        Offer(split=COLUMNS, us={"npu": 8.5, "gpu": 11.0}),
    ),
    region=1,
)
FIGURES = (Origin("published", "a paper"), Origin("scaled", "a rule"))


def plan(us, ops=OPS, **more):
    fields = {"bound_us": us, "busy_us": {"gpu": us / 2, "npu": us / 4, "cpu": 0.0}, **more}
    return Plan(ops=ops, predicted_us=us, **fields)


WAITS = (
    Wait(waiter="npu", on="gpu", before="a", us=40.0),
    Wait(waiter="gpu", on="npu", before="c", us=26.0),
    Wait(waiter="cpu", on="gpu", before="", us=90.0),
)
REPORT = PlanReport(
    model=Path("m.onnx"),
    target="t",
    dtype="float32",
    devices="gpu+npu",
    wanted="split",
    objective="latency",
    gpu_share=1.0,
    modes={
        "gpu": plan(300.0),
        "npu": plan(200.0),
        "layer": plan(150.0),
        "split": plan(100.0, waits=WAITS, border_bytes=4096.0, exact=False, bound_us=80.0),
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
    provenance_of={},
    waiting={"gpu.flag_us": (25.0, FIGURES[1])},
    node_of={"d": "/embeddings/Gather", "g": "/up/MatMul"},
    regions=None,
    memory=PlanMemory(
        devices={
            "gpu": DeviceMemory(weights=1_500_000, activations=250_000),
            "npu": DeviceMemory(weights=2_000_000, activations=120_000),
        },
        activations=300_000,
        weights=3_000_000,
        npu_regions=2,
        npu_largest_region=1_400_000,
        npu_window=3584 << 20,
        build=430_000_000,
        load=530_000_000,
    ),
    seconds=0.1,
)
REGION = Region(
    symbol="npu_region_0",
    operators=("a", "b"),
    alone_us={"a": 9.0, "b": 6.0},
    border_us=5.0,
    estimate=ESTIMATE,
)


def rows(text):
    return [line.split() for line in text.splitlines()]


def with_ops(*ops):
    modes = {**REPORT.modes, "split": dataclasses.replace(REPORT.plan, ops=ops)}
    return dataclasses.replace(REPORT, modes=modes)


def with_modes(**modes):
    return dataclasses.replace(REPORT, modes={**REPORT.modes, **modes})


def test_operators_are_grouped_and_times_added_and_marked():
    found = rows(plan_summary(REPORT, verbose=False))
    assert ["npu", "matmul", "2", "70.0", "ps", "15.0", "s", "-", "faster", "here"] in found
    busy = "while the NPU does other work, or to save a wait".split()
    assert ["gpu", "add", "1", "7.0", "p", "6.0", "s", "-", *busy] in found
    assert ["gpu", "take", "1", "9.0", "p", "-", "-", "NPU", "declines", "[1]"] in found
    view = "a view, stays with its neighbours".split()
    assert ["gpu", "reshape", "1", "0.0", "0.0", "-", *view] in found
    cpu = "GPU and NPU decline [2, 3]".split()
    assert ["cpu", "sort", "1", "-", "-", "3.0", "p", *cpu] in found
    assert [["[1]", "int64", "tensors"], ["[2]", "sorts"], ["[3]", "no"]] == [
        row for row in found if row and row[0].startswith("[")
    ]


def test_a_split_shows_its_parts_and_its_share():
    found = rows(plan_summary(with_ops(SPLIT, SPLIT), verbose=False))
    why = "weight: the NPU has 192 of 256, the GPU the rest".split()
    assert ["gpu+npu", "matmul", "2", "80.0", "40.0", "30.0+22.0", *why] in found


def test_work_in_two_parts_is_said_to_be():
    early = dataclasses.replace(OPS[2], early=Cut(1, 64, 128))
    found = plan_summary(with_ops(early), verbose=False)
    assert "to save a wait; in two parts, 64 of 128 first, for the npu to begin with" in found


def test_a_split_that_lost_shows_what_it_would_have_taken():
    found = rows(plan_summary(with_ops(LOST), verbose=False))
    row = ["npu", "matmul", "1", "40.0", "9.0", "(8.5+11.0)", *"faster here; splits lost".split()]
    assert row in found


def test_verbose_lists_every_split_that_was_considered():
    text = plan_summary(with_ops(SPLIT), verbose=True)
    assert ("weight axis 1: NPU 192 of 256 in 15.0 µs, GPU the rest in 11.0 µs, chosen\n") in text
    assert "activation axis 0: NPU 32 of 64 in 12.5 µs, GPU the rest in 21.5 µs\n" in text
    assert "/up/MatMul" in text
    assert "32 of 64" not in plan_summary(with_ops(SPLIT), verbose=False)


def test_columns_only_where_they_say_something():
    text = plan_summary(with_ops(*OPS[:3]), verbose=False)
    assert "CPU µs" not in text
    assert "split NPU+GPU" not in text
    assert "CPU µs" in plan_summary(REPORT, verbose=False)
    assert "split NPU+GPU" in plan_summary(with_ops(SPLIT), verbose=False)


def test_provenance_is_spelt_out():
    text = " ".join(plan_summary(REPORT, verbose=False).split())
    assert "Times are modelled: a roofline on figures of the target's spec." in text
    assert "What they rest on is p published, s scaled." in text
    assert "a paper" not in text
    assert "p a paper" in plan_summary(REPORT, verbose=True)


def test_what_is_better_than_modelled_is_said():
    """The NPU's time of `a` is the vendor's, that of `b` rests on a scaled figure."""
    kinds = dict.fromkeys(REPORT.figure_of, "modelled")
    kinds["a", "npu"] = "vendor-estimated"
    text = plan_summary(dataclasses.replace(REPORT, provenance_of=kinds), verbose=False)
    why = ["faster", "here"]
    assert ["npu", "matmul", "2", "70.0", "ps", "15.0", "sv", "-", *why] in rows(text)
    text = " ".join(text.split())
    assert "a roofline on figures of the target's spec, or the vendor's estimate." in text
    assert "p published, s scaled, v vendor-estimated." in text


def test_verbose_names_every_node():
    found = rows(plan_summary(REPORT, verbose=True))
    assert ["9.0", "p", "-", "-", "/embeddings/Gather", "[1]"] in found


def mode_row(text, title):
    (row,) = [line for line in text.splitlines() if line.startswith(title)]
    return row.removeprefix(title).split()


def test_modes_side_by_side_and_the_winner():
    text = plan_summary(REPORT, verbose=False)
    # the CPU's wait for the outputs is not one of the two
    assert mode_row(text, "split ") == (
        "0.100 ms 0.050 ms 0.025 ms 0.000 ms 1 2 in 0.066 ms 4,096 bytes at most 25.0% off".split()
    )
    assert mode_row(text, "NPU only") == (
        "0.200 ms 0.100 ms 0.050 ms 0.000 ms 1 0 in 0.000 ms 0 bytes exact".split()
    )
    assert "gpu.flag_us 25 (scaled)" in text
    assert "Best: split, 2.00 x as fast as NPU only, 1.50 x as fast as layer level" in text
    text = plan_summary(with_modes(split=plan(150.0)), verbose=False)
    assert "Best: layer level, 1.33 x as fast as NPU only (modelled)." in text
    even = with_modes(npu=plan(100.0), layer=plan(100.0))
    text = plan_summary(even, verbose=False)
    assert "Best: NPU only; both together gain nothing (modelled)." in text


def test_other_objectives_say_so():
    frugal = plan(400.0, joules=0.0123, objective="energy", exact=False)
    report = dataclasses.replace(with_modes(split=frugal), objective="energy", gpu_share=0.6)
    text = plan_summary(report, verbose=False)
    assert mode_row(text, "split ")[-4:] == ["not", "proven,", "12.30", "mJ"]
    assert "the least energy (modelled)" in text
    assert "The GPU is ours for 60% of its time." in text


def test_one_row_per_length():
    other = with_modes(split=plan(50.0, ops=(SPLIT, *OPS[:3])), npu=plan(60.0))
    lines = lengths_table({64: REPORT, 256: other}).splitlines()
    assert lines[0].split()[:3] == ["length", "GPU", "only"]
    first = "64 0.300 ms 0.200 ms 0.150 ms 0.100 ms 0.0% at most 25.0% off split".split()
    second = "256 0.300 ms 0.060 ms 0.150 ms 0.050 ms 25.0% exact split".split()
    assert [line.split() for line in lines[1:3]] == [first, second]


def test_regions_name_proxy_scale_and_ratio():
    text = plan_summary(dataclasses.replace(REPORT, regions=(REGION,)), verbose=False)
    (row,) = [line for line in text.splitlines() if line.startswith("npu_region_0")]
    assert row.split() == "npu_region_0 2 20.0 µs 25.0 µs 20 … 30 1.25 3 7 0".split()
    assert "(vendor-estimated), for the proxy QCS9100 (v73): there is no table of v75" in text
    assert "Scaled halved." in text
    verdict = "Best: split, 2.00 x as fast as NPU only, 1.50 x as fast as layer level"
    assert f"{verdict} (modelled, NPU regions vendor-estimated)." in " ".join(text.split())


def test_a_region_whose_estimate_does_not_count_says_so():
    silent = dataclasses.replace(REGION, symbol="npu_region_1", estimate=NoEstimate("it crashed"))
    profile = dataclasses.replace(ESTIMATE.profile, us=30, missing_ops=3)
    bound = dataclasses.replace(ESTIMATE, profile=profile)
    low = dataclasses.replace(REGION, symbol="npu_region_2", estimate=bound)  # 15 against 20 µs
    text = plan_summary(dataclasses.replace(REPORT, regions=(silent, low)), verbose=False)
    assert "20.0 µs  no estimate: it crashed" in text
    (row,) = [line for line in text.splitlines() if line.startswith("npu_region_2")]
    assert row.endswith("3  not used")
    assert "layer level (modelled)." in text


def test_memory_is_told_device_by_device():
    said = plan_summary(REPORT, verbose=False)
    assert "gpu             1.50            0.25\n" in said
    assert "2 regions, the largest 1.40 MB, of 3758 MB that it can address" in said
    assert "building will take about 0.4 GB, loading about 0.5 GB" in said
