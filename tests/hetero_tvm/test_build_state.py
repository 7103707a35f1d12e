"""Which plan a build follows, and which ones it may fall back to."""

from pathlib import Path

import pytest

from hetero_tvm.build_state import allowed_modes, mode
from hetero_tvm.config import BuildConfig


@pytest.mark.parametrize(
    ("devices", "split", "followed", "allowed"),
    [
        pytest.param("gpu", True, "gpu", {"gpu"}, id="gpu"),
        pytest.param("npu", True, "npu", {"npu"}, id="npu"),
        pytest.param("gpu+npu", False, "layer", {"gpu", "npu", "layer"}, id="layer"),
        pytest.param("gpu+npu", True, "split", {"gpu", "npu", "layer", "split"}, id="split"),
    ],
)
def test_no_plan_uses_more_than_was_allowed(devices, split, followed, allowed):
    config = BuildConfig(
        model=Path("m.onnx"), target="host", output=None, devices=devices, split=split
    )
    assert mode(config) == followed
    assert set(allowed_modes(config)) == allowed
