"""A placed model as the simulator's graph keeps what the plan says."""

import pytest
import tiny_models as tiny
from attended_programs import attended

from hetero_tvm import compiler, pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_graph import plan_graph
from hetero_tvm.progress import Progress
from hetero_tvm.simulation import waiting_of
from hetero_tvm.steps import program
from relay_passes.part_work import early_works
from relay_passes.place import place_all
from relay_passes.planner.timeline import evaluate
from relay_passes.program import read_program
from schedules.cost_model import CostModel
from target_specs.loader import load_spec


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


@pytest.mark.parametrize("gpu_share", [1.0, 0.5])
def test_what_is_made_early_is_in_two_parts(gpu_share):
    """Attention whose reader is cut: times are the plan's, loads the GPU's alone."""
    costs, mod = CostModel(load_spec("host")), attended(2)

    def cost(work, device, *, both=False):
        rates = {"matmul": {"gpu": 60.0, "npu": 35.0}, "view": {"gpu": 1e9, "npu": 1e9}}
        rate = rates.get(work.kind, {"gpu": 1000.0, "npu": 1.0})[device]
        return (work.macs + work.bytes / 10) / rate * (gpu_share if device == "gpu" else 1.0)

    waiting = waiting_of(costs, fast=True, element_bytes=4)
    takes_all, share = lambda call, device: None, {"gpu_share": gpu_share}
    plan = place_all(mod, takes_all, cost, waiting, tile=8, **share)["split"]
    nodes = read_program(mod)
    (at,) = [i for i, op in enumerate(plan.ops) if op.name == "mixed1"]
    placed = plan.ops[at]
    assert placed.early == plan.ops[at + 1].split.cut
    graph = plan_graph(mod, plan, costs, waiting)
    names = [op.name for op in plan.ops]
    assert evaluate(graph.problem, [0] * len(names)).total_us == pytest.approx(plan.predicted_us)
    (choice,) = graph.problem.ops[at].choices
    assert (choice.us["gpu"] - choice.late_us, choice.late_us) == pytest.approx(placed.early_us)
    works = early_works(nodes[at], placed)
    load = graph.loads[at][0]["gpu"]
    assert load.us == pytest.approx(sum(costs.cost_us(work, "gpu") for work in works))
    assert load.nbytes == sum(costs.gpu_bytes(work) for work in works)
    made = program(graph.problem, [0] * len(names), [ways[0] for ways in graph.loads], names)
    first, late = (step for step in made.steps if getattr(step, "name", "") == "mixed1")
    assert (first.late, late.late) == (False, True)
    assert late.us == pytest.approx(load.us * choice.late_us / choice.us["gpu"])
    jobs = [step for step in made.steps if getattr(step, "before_late", False)]
    assert "stream1" in [job.name for job in jobs]
