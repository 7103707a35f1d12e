"""Modules evaluated on this machine's CPU."""

import numpy as np

from hetero_tvm.frontend import draw_inputs, import_model
from hetero_tvm.frontend.cpu_run import host_target, run_on_cpu
from tests.hetero_tvm.frontend.onnx_cases import model, node, randn, save


def test_runs_with_inputs_by_name(tmp_path):
    w = randn(3, 4)
    nodes = [node("MatMul", "x w", "h"), node("Sub", "h b", "y")]
    proto = model(nodes, {"b": [4], "x": [2, 3]}, "y", {"w": w})
    imported = import_model(save(proto, tmp_path), check=False)
    inputs = draw_inputs(imported.ranges, 0)
    (y,) = run_on_cpu(imported.mod, [spec.name for spec in imported.inputs], inputs)
    # One product of three terms: a few float32 roundings.
    np.testing.assert_allclose(y, inputs["x"] @ w - inputs["b"], rtol=1e-5, atol=1e-6)


def test_target_is_this_processor():
    assert str(host_target().attrs["mcpu"]) not in ("", "generic")
