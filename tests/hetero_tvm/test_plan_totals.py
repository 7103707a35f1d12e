"""A plan's totals add up, and every prediction names what it rests on."""

import pytest
import tiny_models as tiny

from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_report import explain
from hetero_tvm.plan_totals import mode_dict, standing_still, waiting_figures
from hetero_tvm.progress import Progress
from target_specs.loader import load_spec


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tiny.mlp(tmp_path_factory.mktemp("model") / "mlp.onnx", rows=512)
    config = BuildConfig(model=path, target="host", output=None)
    return explain(config, Progress(quiet=True))


def test_a_mode_as_data_adds_up(report):
    for plan in report.modes.values():
        found = mode_dict(plan)
        assert sum(found["operators"].values()) == len(plan.ops)
        assert found["predicted_us"] >= max(found["busy_us"].values()) - 1e-6
        assert found["bound_us"] <= found["predicted_us"] + 1e-6
        assert found["busy_us"]["npu"] >= found["device_us"]["npu"] - 1e-6  # and starts, borders
        assert sum(found["macs"].values()) == 512 * 32 * 64 + 512 * 64 * 16
        still = [pair for pair in found["waits"]["pairs"] if pair["waiter"] != "cpu"]
        assert found["waits"]["count"] == sum(pair["count"] for pair in still)
        assert found["waits"]["us"] == pytest.approx(sum(pair["us"] for pair in still))
    assert mode_dict(report.modes["gpu"])["border_bytes"] == 0
    # y [512, 16] in float32; the model's inputs are nobody's result
    assert mode_dict(report.modes["npu"])["border_bytes"] == 512 * 16 * 4
    assert mode_dict(report.modes["npu"])["npu_regions"] == 1


def test_the_wait_for_the_outputs_is_not_counted(report):
    assert [wait.waiter for wait in report.modes["npu"].waits] == ["cpu"]
    assert standing_still(report.modes["npu"]) == []


def test_every_operator_that_computes_rests_on_a_figure(report):
    for op in report.plan.ops:
        for device, us in op.cost_us.items():
            if us:
                assert report.figures[report.figure_of[op.name, device]].source
                assert report.provenance_of[op.name, device] == "modelled"


def test_waits_rest_on_figures_of_the_spec():
    spec = load_spec("host")
    found = waiting_figures(spec)
    assert found["npu.submit_us"] == (spec.npu.submit_us, spec.npu.origin("submit_us"))
