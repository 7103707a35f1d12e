"""Regions that the NPU could not address: where they are cut, and that the cut build is right."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
from tvm import relax

import hetero_tvm
import target_specs
from hetero_tvm import cli
from relay_passes.npu_support import decline_reason, window_bytes
from relay_passes.npu_window import largest_region, region_bytes, regions_of, window_breaks
from relay_passes.plan import OpPlan, Plan
from relay_passes.program import read_program
from target_specs.loader import load_spec
from target_specs.spec import NpuSpec

KB = 1024  # of a tensor [16, 16] of float32
HOST, CHIP = load_spec("host").npu, load_spec("snapdragon-8-gen-3").npu
LAYERS = 4
SPECS = Path(target_specs.__file__).parent / "socs"


def with_window(npu: NpuSpec, nbytes: int, monkeypatch) -> NpuSpec:
    """`npu` with a window that may be smaller than a MiB."""
    monkeypatch.setattr("relay_passes.npu_window.window_bytes", lambda _: nbytes)
    return npu


def program():
    """`LAYERS` products in a row, each with a weight of its own."""
    x = relax.Var("x", relax.TensorType((16, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            value = x
            for i in range(LAYERS - 1):
                weight = relax.const(np.full((16, 16), i, "float32"))
                value = builder.emit(relax.op.matmul(value, weight), f"layer{i}")
            weight = relax.const(np.ones((16, 16), "float32"))
            out = builder.emit_output(relax.op.matmul(value, weight), f"layer{LAYERS - 1}")
        builder.emit_func_output(out)
    return read_program(relax.transform.Normalize()(builder.get()))


def on_npu(nodes, regions=None):
    ops = [
        OpPlan(
            name=node.name, op="relax.matmul", device="npu", reason="", cost_us={}, declined={},
            macs=0, region=0 if regions is None else regions[i],
        )
        for i, node in enumerate(nodes)
    ]  # fmt: skip
    return Plan(ops=tuple(ops), predicted_us=0.0)


def test_what_a_region_takes():
    nodes = program()
    plan = on_npu(nodes)
    members = regions_of(nodes, plan)[0]
    readers = {f"layer{i}": {f"layer{i + 1}"} for i in range(LAYERS - 1)} | {
        f"layer{LAYERS - 1}": set()
    }
    # weights, what comes in and goes out, two tensors inside at a time
    assert region_bytes(members, readers, HOST) == (LAYERS + 2 + 2) * KB
    assert region_bytes(members, readers, CHIP) == (LAYERS // 2 + 2 + 2) * KB  # in float16
    assert region_bytes(members[:1], readers, HOST) == 3 * KB
    assert largest_region(nodes, plan, HOST) == (LAYERS + 2 + 2) * KB


@pytest.mark.parametrize(
    ("window", "cut"),
    [
        (8 * KB, ()),  # all of it
        (7 * KB, ("layer3",)),
        (5 * KB, ("layer2",)),  # two layers: 2 weights, in, out, one inside
        (3 * KB, ("layer1", "layer2", "layer3")),
    ],
)
def test_regions_are_cut_where_the_window_is_full(monkeypatch, window, cut):
    nodes = program()
    npu = with_window(HOST, window, monkeypatch)
    assert window_breaks(nodes, on_npu(nodes), npu) == cut
    regions = [sum(name in cut for name in (f"layer{j}" for j in range(i + 1))) for i in range(4)]
    assert largest_region(nodes, on_npu(nodes, regions), npu) <= window
    assert window_breaks(nodes, on_npu(nodes, regions), npu) == ()


def test_a_stand_in_has_no_window():
    assert window_bytes(HOST) is None
    assert window_breaks(program(), on_npu(program()), HOST) == ()
    assert window_bytes(CHIP) == 3584 << 20


def test_one_operator_that_is_too_large_is_declined(monkeypatch):
    call = program()[0].call
    assert decline_reason(call, CHIP) is None
    monkeypatch.setattr("relay_passes.npu_support.window_bytes", lambda _: KB // 2 - 1)
    assert "can address" in decline_reason(call, CHIP)
    assert "can address" in decline_reason(call, HOST)
    monkeypatch.setattr("relay_passes.npu_support.window_bytes", lambda _: KB // 2)
    assert decline_reason(call, CHIP) is None


def test_a_build_cuts_a_region_that_is_too_large(tmp_path, capsys):
    """A target whose NPU addresses 3 MiB; two layers of 2.25 MiB each."""
    spec = (SPECS / "host.toml").read_text().replace('name = "host"', 'name = "narrow"', 1)
    target = tmp_path / "narrow.toml"
    target.write_text(spec.replace("tile = 1\n", "tile = 1\nwindow_mb = 3\n", 1))
    model = tiny.residual_mlp(tmp_path / "m.onnx", rows=8, wide=768)
    flags = [str(model), "--devices", "npu", "--json", "-o", str(tmp_path / "m.so"), "--target"]
    built = {}
    for name in ("host", str(target)):
        assert (
            cli.main(
                ["build", *flags, name, "--no-measure"]
                if name == "host"
                else ["build", *flags, name]
            )
            == 0
        )
        built[name] = json.loads(capsys.readouterr().out)["npu_regions"]
    assert built == {"host": 1, str(target): 2}
    x = np.random.default_rng(7).standard_normal((8, 768), np.float32)
    (wanted,) = tiny.run_with_onnxruntime(model, x=x).values()
    (got,) = hetero_tvm.load(tmp_path / "m.so")(x=x).values()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert (
        cli.main(["plan", str(model), "--target", str(target), "--devices", "npu", "--json"]) == 0
    )
    memory = json.loads(capsys.readouterr().out)["memory_bytes"]
    assert memory["npu_regions"] == 2
    assert memory["npu_largest_region"] <= memory["npu_window"] == 3 << 20
