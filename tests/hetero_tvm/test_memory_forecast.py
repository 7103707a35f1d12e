"""What is forecast of a program and of a plan, by hand, and beside what a build then has."""

import json

import numpy as np
import pytest
import tiny_models as tiny
from square_programs import program
from tvm import relax

from hetero_tvm import build_record, cli
from hetero_tvm.bundle import read_manifest
from hetero_tvm.memory_forecast import (
    BUILD_BASE_BYTES,
    BUILD_PER_WEIGHT_BYTE,
    LOAD_BASE_BYTES,
    LOAD_PER_WEIGHT_BYTE,
    forecast,
    plan_memory,
)
from relay_passes.npu_support import WINDOW_BYTES
from relay_passes.plan import OpPlan, Plan, Split
from target_specs.loader import load_spec

KB = 1024  # of one tensor [16, 16] of float32
HOST, CHIP = load_spec("host").npu, load_spec("snapdragon-8-gen-3").npu


# (weights, build, load) in MB as measured; None where it was not.
MEASURED = [(134.2, 1674, 924), (268.4, 3029, 1299), (69.0, None, 678)]


@pytest.mark.parametrize(("weights", "build", "load"), MEASURED)
def test_the_constants_fit_what_was_measured(weights, build, load):
    if build is not None:
        assert BUILD_BASE_BYTES + BUILD_PER_WEIGHT_BYTE * weights * 1e6 == pytest.approx(
            build * 1e6, rel=0.1
        )
    assert LOAD_BASE_BYTES + LOAD_PER_WEIGHT_BYTE * weights * 1e6 == pytest.approx(
        load * 1e6, rel=0.1
    )


def two_products():
    weights = [relax.const(np.ones((16, 16), "float32")) for _ in range(2)]

    def two(builder, x):
        return relax.op.matmul(builder.emit(relax.op.matmul(x, weights[0]), "first"), weights[1])

    return program(two)


def test_forecast_adds_up():
    nodes = two_products()
    found = forecast(nodes, {"npu": {"first": True}, "gpu": {"first": True, "out": True}}, CHIP)
    assert (found.weights, found.largest_weight) == (2 * KB, KB)
    assert found.npu_weights == KB // 2  # it keeps float32 as float16
    assert found.gpu_weights == 2 * KB
    assert found.activations == 2 * KB
    assert found.build == BUILD_BASE_BYTES + BUILD_PER_WEIGHT_BYTE * 2 * KB
    assert (found.npu_window, found.npu_parts) == (WINDOW_BYTES, 1)
    assert forecast(nodes, {}, CHIP).npu_parts == 0
    assert forecast(nodes, {}, HOST).npu_window is None


def plan_of(**places):
    """Two products: `first` and `out`, each on a device or split."""
    ops = [
        OpPlan(
            name=name,
            op="relax.matmul",
            device="gpu+npu" if isinstance(where, Split) else where,
            reason="",
            cost_us={},
            declined={},
            macs=0,
            split=where if isinstance(where, Split) else None,
            region=None if where == "gpu" else 0,
        )
        for name, where in places.items()
    ]
    return Plan(ops=tuple(ops), predicted_us=0.0)


def test_each_device_has_its_own():
    found = plan_memory(two_products(), plan_of(first="gpu", out="npu"), CHIP, {})
    assert set(found.devices) == {"gpu", "npu"}
    assert found.devices["gpu"].weights == KB
    assert found.devices["npu"].weights == KB // 2
    assert found.devices["gpu"].activations == KB  # what it makes
    assert found.devices["npu"].activations == 2 * KB  # what it reads and makes
    assert (found.npu_regions, found.npu_largest_region) == (1, KB // 2 + 2 * KB)
    assert (found.weights, found.activations) == (2 * KB, 2 * KB)


def test_a_split_weight_is_shared_out_and_packed_ones_are_smaller():
    columns = Split(kind="weight", axis=1, at=4, extent=16)
    found = plan_memory(two_products(), plan_of(first="gpu", out=columns), CHIP, {"out": 0.125})
    assert found.devices["npu"].weights == KB // 4 // 8  # 16 rows: by the codes
    found = plan_memory(two_products(), plan_of(first="gpu", out=columns), HOST, {"first": 0.25})
    assert found.devices["npu"].weights == KB // 4
    assert found.devices["gpu"].weights == KB // 4 + KB * 3 // 4
    rows = Split(kind="activation", axis=0, at=4, extent=16)
    found = plan_memory(two_products(), plan_of(first="gpu", out=rows), HOST, {})
    assert found.devices["npu"].weights == KB  # each row reads all of it
    assert found.devices["gpu"].weights == 2 * KB


def test_a_dry_run_says_what_the_build_then_has(tmp_path, capsys):
    """Weights of the GPU to the byte; activations no less than what is then allocated."""
    model = str(tiny.mlp(tmp_path / "m.onnx", rows=64, width=256))
    shared = [model, "-t", "host", "--devices", "gpu", "--json"]
    assert cli.main(["build", *shared, "--plan-only"]) == 0
    said = json.loads(capsys.readouterr().out)["memory_bytes"]
    path = tmp_path / "m.so"
    assert cli.main(["build", *shared, "-o", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["memory_bytes"] is None
    table = build_record.unpack(read_manifest(path).record)["memory"]["main"]
    assert said["devices"] == {
        "gpu": {"weights": 4 * (32 * 256 + 256 + 256 * 16), "activations": said["activations"]}
    }
    assert table["constants"] == said["devices"]["gpu"]["weights"]
    assert 0 < sum(table["storages"]) <= said["activations"]
    assert cli.main(["plan", *shared]) == 0
    assert json.loads(capsys.readouterr().out)["memory_bytes"] == said
