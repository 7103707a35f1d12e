"""The plan in numbers: modes, waits, figures, offers."""

import dataclasses

import pytest
import tiny_models as tiny

from hetero_tvm import npu_compiler, pipeline, vm_lowering
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.plan_report import explain
from hetero_tvm.progress import Progress
from relay_passes.place import MODES
from relay_passes.planner.problem import Cut
from target_specs.loader import load_spec

SPEC = load_spec("snapdragon-8-gen-3")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tiny.mlp(tmp_path_factory.mktemp("model") / "mlp.onnx", rows=512)
    return BuildConfig(model=path, target="host", output=None)


@pytest.fixture(scope="module")
def report(config):
    return explain(config, Progress(quiet=True))


@pytest.fixture(scope="module")
def snapdragon(config):
    """Far too small to be worth two devices."""
    config = dataclasses.replace(config, target="snapdragon-8-gen-3")
    return explain(config, Progress(quiet=True))


def test_every_mode_is_there_and_totals_agree(report):
    assert list(report.modes) == list(MODES)
    for name, plan in report.modes.items():
        for other in report.modes.values():
            assert other.alternatives_us[name] >= plan.predicted_us - 1e-6
    assert report.modes["layer"].predicted_us >= report.modes["split"].predicted_us - 1e-6


def test_a_split_operator_says_all(report):
    """The MLP's rows are cut between both stand-ins."""
    assert report.best == "split"
    found = {op["node"]: op for op in report.to_dict()["operators"]}["first"]
    assert found["device"] == "gpu+npu"
    split = found["split"]
    assert split["kind"] == "activation"
    assert split["npu_share"] == split["at"] / split["extent"]
    assert split["predicted"].keys() == {"gpu", "npu"} == found["predicted"].keys()
    offered = {(s["kind"], s["axis"], s["at"]): s["predicted"] for s in found["splits_offered"]}
    assert offered["activation", 0, split["at"]] == split["predicted"]
    for times in (*offered.values(), found["predicted"]):
        for predicted in times.values():
            assert predicted["us"] > 0
            assert predicted["provenance"] == "modelled"
            assert report.figures[predicted["figure"]].provenance == "measured"


def test_what_is_early_is_said(report):
    first, *rest = report.plan.ops
    early = dataclasses.replace(
        first, device="gpu", split=None, early=Cut(0, 64, 512), early_us=(1.0, 7.0)
    )
    plan = dataclasses.replace(report.plan, ops=(early, *rest))
    said = dataclasses.replace(report, modes={**report.modes, report.wanted: plan}).to_dict()
    assert said["operators"][0]["early"] == {"axis": 0, "at": 64, "extent": 512, "us": [1.0, 7.0]}
    assert {op["early"] for op in report.to_dict()["operators"]} == {None}


def test_a_tie_goes_to_the_simplest(snapdragon):
    assert snapdragon.best in ("gpu", "npu")
    us = {name: plan.predicted_us for name, plan in snapdragon.modes.items()}
    assert us["split"] == pytest.approx(us[snapdragon.best])
    (first,) = [op for op in snapdragon.plan.ops if snapdragon.node_of[op.name] == "first"]
    assert first.offers
    assert "splits lost: " in first.reason


def test_every_time_has_its_figure_but_a_views(snapdragon):
    origins = {
        table.origin(key) for table in (SPEC.gpu, SPEC.npu, SPEC.memory) for key in table.figures()
    }
    for op in snapdragon.plan.ops:
        for device in op.cost_us:
            assert snapdragon.figures[snapdragon.figure_of[op.name, device]] in origins
            assert snapdragon.provenance_of[op.name, device] == "modelled"
    for key, (value, origin) in snapdragon.waiting.items():
        table, figure = key.split(".")
        assert value == getattr(getattr(SPEC, table), figure)
        assert origin in origins


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "split"),
        ({"split": False}, "layer"),
        ({"devices": "npu"}, "npu"),
        ({"devices": "gpu"}, "gpu"),
    ],
)
def test_the_plan_is_the_one_a_build_follows(config, changes, wanted):
    config = dataclasses.replace(config, **changes)
    report = explain(config, Progress(quiet=True))
    assert report.plan is report.modes[wanted]
    assert report.plan.macs.keys() == {"cpu", "gpu", "npu"}
    state = pipeline.run(
        State(config=config, spec=load_spec("host"), note=lambda line: None),
        plan_only=True,
    )
    assert state.plan == report.plan


def test_nothing_is_compiled(config, monkeypatch):
    monkeypatch.setattr(npu_compiler, "compile_regions", None)
    monkeypatch.setattr(vm_lowering, "compile_executable", None)
    report = explain(dataclasses.replace(config, devices="npu"), Progress(quiet=True))
    assert report.plan.macs["npu"] > 0
    assert report.regions is None
    assert report.provenance == "modelled"


def test_energy_without_power_figures_is_one_line(config):
    config = dataclasses.replace(config, objective="energy")
    with pytest.raises(BadInput, match=r"target host does not say what power its devices take"):
        explain(config, Progress(quiet=True))


def test_a_shared_gpu_changes_the_plan(config, report):
    shared = explain(dataclasses.replace(config, gpu_share=0.3), Progress(quiet=True))
    assert shared.gpu_share == 0.3
    assert shared.plan.macs["npu"] > report.plan.macs["npu"]
    assert shared.modes["gpu"].predicted_us > 2 * report.modes["gpu"].predicted_us
    assert shared.modes["npu"].predicted_us == pytest.approx(report.modes["npu"].predicted_us)
