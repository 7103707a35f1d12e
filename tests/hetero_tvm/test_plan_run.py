"""A plan on the simulator: the order that the plan gives, near the planner's own time."""

import pytest
import tiny_models as tiny

from hetero_tvm import pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_run import plan_run
from target_specs.loader import load_spec


@pytest.mark.parametrize("mode", ["gpu", "npu", "split"])
def test_what_runs_is_the_plan(tmp_path, mode):
    path = tiny.residual_mlp(tmp_path / "m.onnx", rows=256, wide=512)
    spec = load_spec("snapdragon-8-gen-3")
    config = BuildConfig(model=path, target=spec.name, output=None, estimate=False)
    state = pipeline.run(State(config=config, spec=spec, note=lambda _: None), plan_only=True)
    plan = state.plans[mode]
    run = plan_run(state.mod, plan, state.prices[mode], 4)
    done = {(span.name, span.device) for span in run.spans if span.kind == "work"}
    wanted = {(op.name, device) for op in plan.ops for device in op.device.split("+")}
    assert wanted <= done
    # another engine, on the same figures: it adds what the host's submissions take
    assert run.total_us == pytest.approx(plan.predicted_us, rel=0.25)
