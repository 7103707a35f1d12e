"""The plan in numbers: hand-overs, modes, figures."""

import dataclasses

import pytest
import tiny_models as tiny

from hetero_tvm import npu_compiler, pipeline
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_report import MODES, explain, handovers
from hetero_tvm.progress import Progress
from relay_passes.program import read_program
from schedules.cost_model import CostModel
from target_specs.loader import load_spec

SPEC = load_spec("snapdragon-8-gen-3")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tiny.mlp(tmp_path_factory.mktemp("model") / "mlp.onnx")
    return BuildConfig(model=path, target="snapdragon-8-gen-3", output=None)


@pytest.fixture(scope="module")
def state(config):
    start = pipeline.State(config=config, spec=SPEC, note=lambda line: None)
    return pipeline.run(start, plan_only=True)


@pytest.fixture(scope="module")
def report(config):
    return explain(config, Progress(quiet=True))


@pytest.mark.parametrize("name", MODES)
def test_hand_overs_add_up_to_the_plans(report, name):
    mode = report.modes[name]
    assert sum(h.us for h in mode.handovers) == pytest.approx(mode.plan.handover_us)
    assert mode.plan.predicted_us == pytest.approx(
        sum(mode.plan.device_us.values()) + mode.plan.handover_us
    )


def test_totals_are_those_of_the_planner(report):
    for name in ("gpu", "npu"):
        wanted = report.modes["gpu+npu"].plan.alternatives_us[name]
        assert report.modes[name].plan.predicted_us == pytest.approx(wanted)


def test_hand_overs_are_counted_per_pair_of_devices(state):
    """x -> first (gpu) -> bias (npu) -> relu (gpu) -> second (npu) -> y"""
    nodes = read_program(state.mod)
    by_op = {"relax.matmul": "gpu", "relax.add": "npu", "relax.nn.relu": "gpu"}
    device = {node.name: by_op[str(node.call.op.name)] for node in nodes}
    device[nodes[-1].name] = "npu"
    found = {(h.source, h.target): h for h in handovers(nodes, device, CostModel(SPEC))}
    assert found.keys() == {("cpu", "gpu"), ("gpu", "npu"), ("npu", "gpu"), ("npu", "cpu")}
    hidden = 4 * 64 * 4  # [4, 64] in float32
    assert (found["gpu", "npu"].tensors, found["gpu", "npu"].nbytes) == (2, 2 * hidden)
    assert (found["npu", "gpu"].tensors, found["npu", "gpu"].nbytes) == (1, hidden)
    # only the model's input, only its output
    assert found["cpu", "gpu"].nbytes == found["npu", "cpu"].nbytes == 0


def test_both_is_never_slower_and_a_tie_goes_to_the_simplest(report):
    us = {name: report.modes[name].plan.predicted_us for name in MODES}
    assert us["gpu+npu"] <= min(us["gpu"], us["npu"]) + 1e-6
    assert us["gpu+npu"] == pytest.approx(us["npu"])
    assert report.best == "npu"


def test_every_time_has_its_figure_but_a_views(report):
    for op in report.plan.ops:
        for device in op.cost_us:
            figure = report.figures[report.figure_of[op.name, device]]
            assert figure in {
                table.origin(key)
                for table in (SPEC.gpu, SPEC.npu, SPEC.memory)
                for key in table.figures()
            }


def test_nothing_is_compiled(config, monkeypatch):
    monkeypatch.setattr(npu_compiler, "compile_regions", None)
    monkeypatch.setattr(pipeline.vm_lowering, "compile_executable", None)
    report = explain(dataclasses.replace(config, devices="npu"), Progress(quiet=True))
    assert report.plan.macs["npu"] > 0
    assert report.plan is report.modes["npu"].plan
    assert report.with_estimates_us is None
