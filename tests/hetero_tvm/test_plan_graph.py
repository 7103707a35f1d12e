"""A placed model as the simulator's graph keeps what the plan says."""

import pytest
import tiny_models as tiny

from hetero_tvm import compiler, pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_graph import plan_graph
from hetero_tvm.progress import Progress
from hetero_tvm.simulation import waiting_of
from relay_passes.planner.timeline import evaluate
from schedules.cost_model import CostModel


@pytest.mark.parametrize("target", ["snapdragon-8-gen-3", "host"])
@pytest.mark.parametrize("mode", ["gpu", "npu", "layer", "split"])
def test_has_the_plans_time(tmp_path, target, mode):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    config = BuildConfig(model=path, target=target, output=None)
    progress = Progress(quiet=True)
    spec = compiler.target_spec(target, progress)
    state = State(config=config, spec=spec, note=progress.note)
    state = pipeline.run(state, plan_only=True, on_phase=lambda phase: None)
    costs = CostModel(spec)
    plan = state.plans[mode]
    graph = plan_graph(state.mod, plan, costs, waiting_of(costs, fast=True, element_bytes=4))
    assert list(graph.names) == [op.name for op in plan.ops]
    assert [op.choices[0].device for op in graph.problem.ops] == [op.device for op in plan.ops]
    timeline = evaluate(graph.problem, [0] * len(graph.names))
    assert timeline.total_us == pytest.approx(plan.predicted_us)
    for op, ways in zip(graph.problem.ops, graph.loads, strict=True):
        assert ways[0].keys() == op.choices[0].us.keys()
        for device, load in ways[0].items():
            # Alone it is never slower than beside the other device.
            assert load.us <= op.choices[0].us[device] + 1e-9
