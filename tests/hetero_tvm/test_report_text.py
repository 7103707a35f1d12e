"""What people read about a build."""

from hetero_tvm import report_text
from hetero_tvm.compiler import BuildResult
from relay_passes.plan import OpPlan, Plan


def op(name, device, cost, declined=None, macs=0, kind="relax.matmul"):
    return OpPlan(
        name=name,
        op=kind,
        device=device,
        reason=f"{device}: in words",
        cost_us=cost,
        declined=declined or {},
        macs=macs,
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
            op("f", "cpu", {"cpu": 3.0}, {"npu": "no", "gpu": "sorts"}, kind="relax.sort"),
        ),
        predicted_us=2500.0,
        handover_us=100.0,
        alternatives_us={"gpu": 4000.0, "npu": 2600.0},
    ),
    manifest=None,
    node_of={"d": "/embeddings/Gather"},
    seconds={},
    peak_memory_bytes=0,
)


def test_summary_has_shares_reasons_and_refusals():
    text = report_text.build_summary(RESULT, verbose=False)
    assert "100.0%" in text
    assert "15 µs against 70 µs on the GPU" in text  # summed over both
    assert "7 µs against 6 µs on the NPU, but that would cost hand-overs" in text
    assert "a view: stays with its neighbours" in text
    assert "the NPU declines: no; the GPU declines: sorts" in text
    assert "npu: take: int64 tensors\n       /embeddings/Gather" in text
    assert "2.50 ms" in text
    assert "modelled" in text


def test_verbose_names_every_operator():
    text = report_text.build_summary(RESULT, verbose=True)
    assert "a: npu: in words" in text
    assert "/embeddings/Gather: gpu: in words" in text


def test_braces_in_a_reason_are_kept():
    plan = Plan(
        ops=(op("a", "gpu", {"gpu": 1.0}, {"npu": "shape {1, 2} is odd"}),),
        predicted_us=1.0,
        handover_us=0.0,
        alternatives_us={},
    )
    import dataclasses

    text = report_text.build_summary(dataclasses.replace(RESULT, plan=plan), verbose=False)
    assert "shape {1, 2} is odd" in text
