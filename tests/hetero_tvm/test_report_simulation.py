"""What people read about a simulation."""

import dataclasses
from pathlib import Path

from hetero_tvm.report_simulation import folder_summary, llm_summary, model_summary
from hetero_tvm.simulation import Conditions, FolderReport, LlmReport, ModelReport, Pass
from hetero_tvm.simulator import Frames, Run
from target_specs.llm import load_llm

RUN = Run(
    total_us=2_000.0,
    busy_us={"cpu": 0.0, "gpu": 1_000.0, "npu": 1_500.0},
    waits=4,
    waited_us=300.0,
    nbytes=5e6,
    spans=(),
    signals=(),
)


def done(us, **more):
    fields = {
        "plan_of": "split",
        "planned_us": us,
        "run": dataclasses.replace(RUN, total_us=us),
        "repeats": 1,
        "alone_us": us,
        "operators": {"gpu": 3, "gpu+npu": 2},
        "splits": {"weight": 2},
        "regions": 2,
        "border_bytes": 100.0,
    }
    return Pass(**{**fields, **more})


def llm_report(passes, conditions):
    return LlmReport(
        target="demo",
        figures={"published": 3, "scaled": 2},
        llm=load_llm("llama-3-8b"),
        prompt=100,
        decode=10,
        policy="plan",
        conditions=conditions,
        modes={mode: {"prefill": a, "decode": b} for mode, (a, b) in passes.items()},
        seconds=1.0,
    )


TIMES = {"gpu": (4e6, 8e4), "npu": (1e6, 1e5), "layer": (9e5, 8e4), "split": (8e5, 5e4)}


def test_modes_side_by_side():
    passes = {mode: (done(a), done(b)) for mode, (a, b) in TIMES.items()}
    text = llm_summary(llm_report(passes, Conditions(fast_sync=True)))
    assert "llama-3-8b (W4A16) on demo: prompt 100 tokens, 10 generated, all simulated" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "split 125.0 token/s 20.00 token/s 0.800 s 1.30 s" in rows
    assert "Prefill: split is 1.25 x as fast as NPU only, 1.12 x as fast as layer level." in text
    assert "Decode: split is 1.60 x as fast as GPU only, 1.60 x as fast as layer level." in text
    assert "Figures of the target: 3 published, 2 scaled." in text
    assert "by a predicted sleep and a poll" in text
    assert "frames" not in text
    assert "compiling" not in text
    assert all(len(line) <= 110 for line in text.splitlines())


def test_compiling_and_frames_are_told():
    frames = Frames(count=10, missed=3, mean_us=9_000.0, worst_us=21_000.0)
    slow = done(100_000.0, run=dataclasses.replace(RUN, total_us=1e5, frames=frames), alone_us=8e4)
    compiled = done(1e6, compile_us=179_000.0)
    passes = {mode: (compiled, slow) for mode in TIMES}
    text = llm_summary(llm_report(passes, Conditions(fast_sync=False)))
    assert "Prefill holds 179 ms of compiling NPU graphs, once." in text
    assert (
        "3 of 10 frames missed, ready after 9.0 ms, at worst 21.0 ms; "
        "the model 1.25 x as slow as alone" in text
    )
    assert "by the drivers' own waits" in text


def test_onnx_model():
    report = ModelReport(
        model=Path("models/net.onnx"),
        target="demo",
        figures={"measured": 4},
        dtype="float32",
        conditions=Conditions(),
        modes={mode: done(us) for mode, (us, _) in TIMES.items()},
        seconds=1.0,
    )
    text = model_summary(report)
    assert text.startswith("net.onnx on demo: one pass, simulated")
    assert "800.000 ms" in text
    assert "3 GPU, 2 both" in text


def test_a_folder_says_how_its_prompt_is_cut():
    report = FolderReport(
        model=Path("model"),
        target="demo",
        figures={"published": 3},
        prompt=270,
        decode=10,
        conditions=Conditions(),
        chunks={128: 2, 16: 1},
        modes={
            mode: {1: done(us), 16: done(4 * us), 128: done(8 * us)}
            for mode, us in zip(("gpu", "npu", "layer", "split"), (4e4, 3e4, 3e4, 2e4), strict=True)
        },
        decode_step=1,
        seconds=0.0,
    )
    lines = folder_summary(report).splitlines()
    assert lines[0] == (
        "model on demo: prompt 270 tokens in chunks of 2 x 128 + 16, 10 generated, all simulated"
    )
    # 2 x 8 + 4 = 20 times the token's 20 ms.
    assert lines[6].split() == [
        "split", "675.0", "token/s", "50.00", "token/s", "0.400", "s", "0.60", "s",
    ]  # fmt: skip
    assert "one pass of 1 new token" in lines
    assert "one pass of 128 new tokens" in lines
