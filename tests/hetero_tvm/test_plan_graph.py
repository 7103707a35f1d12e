"""A placed model as the simulator's graph keeps what the plan says."""

import dataclasses

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
from relay_passes.planner.problem import Cut
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
def test_what_is_made_early_loads_the_gpu_with_both_parts(gpu_share):
    """Attention whose reader is cut: nothing of the plan is lost, and no part is longer."""
    costs, mod = CostModel(load_spec("host")), attended(2, rows=256)

    def cost(work, device, *, both=False):
        on_npu = work.kind not in ("matmul", "view") and device == "npu"
        return costs.cost_us(work, device, both=both) + (1e6 if on_npu else 0.0)

    waiting = waiting_of(costs, fast=True, element_bytes=4)
    plan = place_all(mod, lambda call, device: None, cost, waiting, tile=8, gpu_share=gpu_share)[
        "split"
    ]
    nodes = read_program(mod)
    (at,) = [i for i, op in enumerate(plan.ops) if op.name == "mixed1"]
    if plan.ops[at].early is None:  # as the host's rates are
        cut = Cut(1, 64, 256)
        works = early_works(nodes[at], dataclasses.replace(plan.ops[at], early=cut))
        us = tuple(costs.cost_us(work, "gpu") / gpu_share for work in works)
        early = dataclasses.replace(plan.ops[at], device="gpu", early=cut, early_us=us)
        plan = dataclasses.replace(plan, ops=(*plan.ops[:at], early, *plan.ops[at + 1 :]))
    graph = plan_graph(mod, plan, costs, waiting)
    works = early_works(nodes[at], plan.ops[at])
    (choice,) = graph.problem.ops[at].choices
    load = graph.loads[at][0]["gpu"]
    assert (choice.us["gpu"], choice.late_us) == pytest.approx(
        (sum(plan.ops[at].early_us), plan.ops[at].early_us[1])
    )
    assert load.us == pytest.approx(choice.us["gpu"] * gpu_share)
    assert load.nbytes == sum(costs.gpu_bytes(work) for work in works)
    steps = program(
        graph.problem, [0] * len(plan.ops), [ways[0] for ways in graph.loads], graph.names
    )
    parts = [step.us for step in steps.steps if getattr(step, "name", "") == "mixed1"]
    assert parts == pytest.approx([us * gpu_share for us in plan.ops[at].early_us])
