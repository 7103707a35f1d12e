"""A limit on devices' memory: the plan that keeps it, numbers where none does, nothing loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny_models as tiny

import hetero_tvm
from hetero_tvm import errors, memory_limit, runtime
from hetero_tvm.bundle import read_manifest
from hetero_tvm.errors import BadInput, OverMemoryLimit

# Of `tiny.mlp(rows=4)`: (32 x 64 + 64 + 64 x 16) weights and [4, 32] in, of 4 bytes.
WEIGHTS, INPUT = 4 * (32 * 64 + 64 + 64 * 16), 4 * 4 * 32


@pytest.mark.parametrize(
    ("text", "nbytes"), [("1", 1), ("64K", 65536), ("512M", 512 << 20), ("2G", 2 << 30)]
)
def test_bytes(text, nbytes):
    assert memory_limit.read_bytes(text, "--memory-limit") == nbytes


@pytest.mark.parametrize("text", ["", "0", "-1", "1T", "1.5G", "much", "9" * 16, "5k"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(BadInput, match="give bytes, or a number with K, M or G behind"):
        memory_limit.read_bytes(text, "--memory-limit")


def _build(folder, limit, **more):
    model = tiny.mlp(folder / "mlp.onnx")
    options = {"target": "host", "measure": False, "check": False, **more}
    return hetero_tvm.build(model, output=folder / "m.so", memory_limit=limit, **options)


def test_without_room_it_is_refused_with_numbers_and_nothing_is_written(tmp_path):
    with pytest.raises(OverMemoryLimit) as refused:
        _build(tmp_path, 4096)
    said = str(refused.value)
    assert f"gpu {WEIGHTS:,}" in said or f"npu {WEIGHTS:,}" in said
    assert f"inputs and caches {INPUT:,}; the limit is 4,096" in said
    assert not (tmp_path / "m.so").exists()


def test_one_device_is_held_to_it_too(tmp_path):
    enough = WEIGHTS + INPUT + 4 * 4 * (64 + 64 + 64 + 16)
    with pytest.raises(OverMemoryLimit, match=r"the smallest plan \(gpu\)"):
        _build(tmp_path, WEIGHTS + INPUT, devices="gpu")
    assert _build(tmp_path, enough, devices="gpu").manifest is not None


def test_the_fastest_plan_that_keeps_it_is_followed(tmp_path):
    """Both devices' parts of a product have weights of their own where rows are cut."""
    model = tiny.residual_mlp(tmp_path / "r.onnx", rows=512, wide=512)
    options = {"target": "host", "measure": False, "check": False, "output": tmp_path / "m.so"}
    free = hetero_tvm.build(model, **options)
    assert any(op.split is not None for op in free.plan.ops)
    small = 2 * 4 * 512 * 512 + 4 * 4 * 512 * 512
    held = hetero_tvm.build(model, memory_limit=small, **options)
    assert not any(op.split is not None and op.split.kind == "activation" for op in held.plan.ops)
    assert held.plan.predicted_us >= free.plan.predicted_us


def test_an_artefact_without_room_is_not_loaded(tmp_path, monkeypatch):
    try:
        runtime.open_opencl()
    except errors.EnvironmentProblem as problem:
        pytest.skip(str(problem))
    artefact = _build(tmp_path, None, devices="gpu").path
    needed = read_manifest(artefact).memory_bytes
    assert needed >= WEIGHTS + INPUT
    monkeypatch.setenv(memory_limit.VARIABLE, str(runtime.held_bytes() + needed - 1))
    with pytest.raises(OverMemoryLimit, match=rf"at least {needed:,} bytes of device memory"):
        hetero_tvm.load(artefact)
    monkeypatch.setenv(memory_limit.VARIABLE, str(runtime.held_bytes() + needed))
    hetero_tvm.load(artefact).run({"x": tiny.np.zeros((4, 32), "float32")})
    monkeypatch.setenv(memory_limit.VARIABLE, "some")
    with pytest.raises(BadInput, match="HETERO_MEMORY_LIMIT some: give bytes"):
        hetero_tvm.load(artefact)


def test_what_an_artefact_says_that_it_takes_is_no_invention(tmp_path):
    artefact = _build(tmp_path, None, devices="gpu").path
    taken = (  # in a process of its own, where no other model has left memory to use again
        "import sys, hetero_tvm, numpy\n"
        "from hetero_tvm import runtime\n"
        "model = hetero_tvm.load(sys.argv[1])\n"
        "model.run({'x': numpy.zeros((4, 32), 'float32')})\n"
        "print(runtime.held_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", taken, artefact], capture_output=True, text=True, check=True
    )
    needed = read_manifest(artefact).memory_bytes
    assert needed / 2 <= int(done.stdout) <= 4 * needed
