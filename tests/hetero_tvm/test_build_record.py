"""What the artefact keeps for its report: placed graph, memory, sources."""

import base64
import json
import zlib

import pytest
import tiny_models as tiny

from hetero_tvm import build_record, bundle, compiler
from hetero_tvm.config import BuildConfig
from relay_passes.memory_table import MemoryTable

SOURCE = """\
// Function: first_kernel
__kernel void first_kernel(__global float* restrict x);
__kernel void second_kernel(__global float* restrict x);
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
__kernel void first_kernel(__global float* restrict x) {
  x[0] = 1.0f;
}
// Function: second_kernel
__kernel void first_kernel(__global float* restrict x);
__kernel void second_kernel(__global float* restrict x) {
  x[1] = 2.0f;
}
"""
MAIN = {"operators": {}, "figures": [], "waiting": {}, "modes": {}, "totals": {}}
MEMORY = MemoryTable(storages=(64,), tensors=(), constants=3, calls=2)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    model = tiny.mlp(folder / "mlp.onnx", rows=512)
    config = BuildConfig(model=model, target="host", output=folder / "mlp.so", check=False)
    compiler.build(config)
    manifest = bundle.read_manifest(folder / "mlp.so")
    return manifest, build_record.unpack(manifest.record)


def test_sources_are_told_apart_and_prototypes_left_out():
    found = build_record.kernel_sources(SOURCE)
    assert list(found) == ["first_kernel", "second_kernel"]
    assert "x[0] = 1.0f" in found["first_kernel"] and "pragma" in found["first_kernel"]
    assert "x[0]" not in found["second_kernel"] and "first_kernel" not in found["second_kernel"]


def test_a_program_without_kernels_has_no_sources():
    assert build_record.kernel_sources("") == {}


def test_comes_back_as_it_was():
    packed = build_record.pack({"main": MAIN}, {"main": MEMORY}, {"k": "source"})
    assert build_record.unpack(packed) == {
        "functions": {"main": MAIN},
        "memory": {"main": {"storages": [64], "tensors": [], "constants": 3, "calls": 2}},
        "kernels": {"k": "source"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("%%%", "cannot be unpacked"),
        (base64.b64encode(b"nothing").decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(b"x" * 900)[:-8]).decode(), "cut short"),
        (base64.b64encode(zlib.compress(b"[]")).decode(), "lacks a part"),
    ],
)
def test_refuses_what_it_did_not_write(text, said):
    with pytest.raises(ValueError, match=said):
        build_record.unpack(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"functions": {"main": {**MAIN, "figures": {}}}},
        {"functions": {"main": {**MAIN, "operators": {"a": {"inputs": "b"}}}}},
        {"functions": {"main": []}},
        {"memory": {"main": {"tensors": [{"nbytes": "1"}], "calls": 1}}},
        {"memory": []},
        {"kernels": {"k": 1}},
    ],
)
def test_refuses_parts_of_another_kind(wrong):
    record = {"functions": {"main": MAIN}, "memory": {}, "kernels": {}, **wrong}
    text = base64.b64encode(zlib.compress(json.dumps(record).encode())).decode()
    with pytest.raises(ValueError, match="not what this version writes"):
        build_record.unpack(text)


def test_a_record_that_unpacks_to_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(build_record, "_MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="too long"):
        build_record.unpack(base64.b64encode(zlib.compress(b" " * 2000)).decode())


def test_knows_the_graph_of_every_operator(record):
    manifest, found = record
    operators = found["functions"]["main"]["operators"]
    assert list(operators) == [op["name"] for op in manifest.plan["ops"]]
    first, last = next(iter(operators.values())), list(operators.values())[-1]
    assert first["node"] == "first" and first["from_model_input"] and not first["inputs"]
    assert first["tensors"] == [{"shape": [512, 64], "dtype": "float32"}]
    assert first["weight_bytes"] == 32 * 64 * 4
    assert last["node"] == "second" and last["is_output"]
    assert last["inputs"] == [list(operators)[-2]]


def test_every_prediction_names_a_figure(record):
    manifest, found = record
    main = found["functions"]["main"]
    for op in manifest.plan["ops"]:
        for device in op["cost_us"]:
            rest = main["operators"][op["name"]]["rests"][device]
            assert rest["provenance"] == "modelled"
            assert main["figures"][rest["figure"]]["source"]
    assert main["modes"].keys() == {"gpu", "npu", "layer", "split"}
    assert main["npu_regions"] is None  # nobody estimates the host's


def test_every_gpu_call_has_its_source(record):
    manifest, found = record
    for call in manifest.calls["main"]:
        if call.device == "gpu":
            assert f"void {call.symbol}_kernel(" in found["kernels"][f"{call.symbol}_kernel"]
    assert found["memory"]["main"]["calls"] == len(manifest.calls["main"])
