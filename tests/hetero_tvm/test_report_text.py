"""What people read about a build."""

import dataclasses

from hetero_tvm import report_text
from hetero_tvm.compiler import BuildResult
from hetero_tvm.lengths import LengthRules
from relay_passes.plan import OpPlan, Plan, Split
from relay_passes.planner.problem import Cut


def op(name, device, cost, declined=None, macs=0, kind="relax.matmul", **more):
    return OpPlan(
        name=name,
        op=kind,
        device=device,
        reason=f"{device}: in words",
        cost_us=cost,
        declined=declined or {},
        macs=macs,
        **more,
    )


RESULT = BuildResult(
    path=None,
    target="host",
    plan=Plan(
        ops=(
            op("a", "npu", {"npu": 10.0, "gpu": 30.0}, macs=300),
            op("b", "npu", {"npu": 5.0, "gpu": 40.0}, macs=100),
            op("c", "gpu", {"gpu": 7.0, "npu": 6.0}, kind="relax.add"),
            op("d", "gpu", {"gpu": 9.0}, {"npu": "int64 tensors"}, kind="relax.take"),
            op("e", "gpu", {"gpu": 0.0, "npu": 0.0}, kind="relax.reshape"),
            op(
                "g",
                "gpu+npu",
                {"gpu": 50.0, "npu": 60.0},
                macs=400,
                split=Split(kind="weight", axis=1, at=64, extent=256),
                split_us={"gpu": 38.0, "npu": 16.0},
            ),
            op(
                "h",
                "gpu+npu",
                {"gpu": 50.0, "npu": 60.0},
                macs=200,
                split=Split(kind="weight", axis=1, at=128, extent=256),
                split_us={"gpu": 26.0, "npu": 31.0},
            ),
            op("f", "cpu", {"cpu": 3.0}, {"npu": "no", "gpu": "sorts"}, kind="relax.sort"),
        ),
        predicted_us=2500.0,
        alternatives_us={"gpu": 4000.0, "npu": 2600.0, "layer": 2550.0, "split": 2500.0},
    ),
    manifest=None,
    node_of={"d": "/embeddings/Gather"},
    seconds={},
    peak_memory_bytes=0,
)


def test_summary_has_shares_reasons_and_refusals():
    text = report_text.build_summary(RESULT, verbose=False)
    shares = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:5]}
    assert shares == {
        "npu": ["2", "400", "40.0%"],
        "gpu": ["3", "0", "0.0%"],
        "gpu+npu": ["2", "600", "60.0%"],
        "cpu": ["1", "0", "0.0%"],
    }
    assert "NPU 60.0%, GPU 40.0%, CPU 0.0%" in text  # a quarter of 400, half of 200
    assert "15 µs against 70 µs on the GPU" in text  # summed over both
    assert "7 µs against 6 µs on the NPU, which does other work, or would have to be" in text
    assert "a view: stays with its neighbours" in text
    assert "the NPU declines: no; the GPU declines: sorts" in text
    assert "npu: take: int64 tensors\n       /embeddings/Gather" in text
    assert "predicted 2.50 ms a run (modelled, from the target's spec); GPU only 4.00 ms, " in text
    assert "layer level 2.55 ms, split 2.50 ms" in text


def test_every_length_has_a_row():
    rules = LengthRules(
        input_axes={},
        output_axes={},
        fill={},
        padding=True,
        padding_words="holds, at 40",
        chunking=False,
        chunking_words="changes y",
    )
    result = dataclasses.replace(RESULT, variants={32: RESULT.plan, 64: RESULT.plan}, lengths=rules)
    text = report_text.build_summary(result, verbose=False)
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("32 ", "64 "))]
    assert [row[0] for row in rows] == ["32", "64"]
    assert rows[0][1:] == ["2.50", "ms", "0", "60.0%", "40.0%", "0.0%"]
    assert "above, the plan for length 64" in text
    assert "filling up to a built length: holds, at 40" in text
    assert "cutting into built lengths: changes y" in text
    assert "built length" not in report_text.build_summary(RESULT, verbose=False)


def test_splits_are_summed_over_both_parts():
    text = report_text.build_summary(RESULT, verbose=False)
    (row,) = [line for line in text.splitlines() if "weight split" in line]
    assert row.split(maxsplit=3)[:3] == ["gpu+npu", "matmul", "2"]
    assert "47 µs on the NPU beside 64 µs on the GPU, alone 120 µs and 100 µs" in row


def test_verbose_names_every_operator():
    text = report_text.build_summary(RESULT, verbose=True)
    assert "a: npu: in words" in text
    assert "/embeddings/Gather: gpu: in words" in text


def test_braces_in_a_reason_are_kept():
    plan = Plan(
        ops=(op("a", "gpu", {"gpu": 1.0}, {"npu": "shape {1, 2} is odd"}),),
        predicted_us=1.0,
    )
    text = report_text.build_summary(dataclasses.replace(RESULT, plan=plan), verbose=False)
    assert "shape {1, 2} is odd" in text


def test_work_in_two_parts_is_said_to_be():
    early = dataclasses.replace(RESULT.plan.ops[2], early=Cut(1, 64, 128))
    result = dataclasses.replace(RESULT, plan=dataclasses.replace(RESULT.plan, ops=(early,)))
    text = report_text.build_summary(result, verbose=False)
    assert "waited for; in two parts, 64 of 128 first, for the npu to begin with" in text
