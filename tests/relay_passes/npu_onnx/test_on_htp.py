"""Every accepted row, and 4-bit weights, on Qualcomm's x86 simulator, in one process of its own."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import npu_numbers
import numpy as np
import pytest
from npu_op_cases import CASES
from tvm import relax

from relay_passes.npu_onnx import BlockCodes, region_to_onnx
from relay_passes.npu_support import decline_reason
from schedules.w4a16 import W4Weight
from target_specs.loader import load_spec

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
NPU = load_spec("snapdragon-8-gen-3").npu
ROWS = [case for case in CASES if case.htp and decline_reason(case.call(), NPU) is None]
# Group, zero points, element type, shape of the activation.
FOUR_BITS = {
    f"four_bits_{group}_{'points' if zeros else 'symmetric'}_{dtype}_{len(left)}": (
        *(group, zeros, dtype, left),
    )
    for group, zeros, dtype, left in itertools.product(
        (16, 32, 64, 128), (False, True), ("float32", "float16"), ((24, 256), (1, 1, 256))
    )
}
ROOT = Path(__file__).parents[3]
RUN_ALL = """
import json, sys
from pathlib import Path
import numpy as np
from hetero_tvm import npu_session

folder, soc = Path(sys.argv[1]), sys.argv[2]
failed = {}
for path in sorted(folder.glob("*.onnx")):
    try:
        session = npu_session.open_session(path, {"soc_model": soc})
        feeds = dict(np.load(path.with_suffix(".npz")))
        np.savez(path.with_suffix(".out.npz"), *session.run(None, feeds))
    except Exception as error:
        failed[path.stem] = str(error)
(folder / "failed.json").write_text(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder with each row's results, and the messages of those that failed."""
    folder = tmp_path_factory.mktemp("htp")
    for case in ROWS:
        model = region_to_onnx(case.function(), half_inside=True)
        (folder / f"{case.name}.onnx").write_bytes(model.SerializeToString())
        feeds = {f"in{i}": x for i, x in enumerate(case.inputs())}
        np.savez(folder / f"{case.name}.npz", **feeds)
    for name, about in FOUR_BITS.items():
        model, x, want = _four_bits(*about)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        np.savez(folder / f"{name}.npz", in0=x)
        np.save(folder / f"{name}.want.npy", want)
    command = [sys.executable, "-c", RUN_ALL, str(folder), str(NPU.soc_model)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=600
    )
    assert (folder / "failed.json").is_file(), done.stderr[-2000:]
    return folder, json.loads((folder / "failed.json").read_text())


def _four_bits(group, zeros, dtype, left):
    """A product with a 4-bit weight, an activation, and what float64 makes of them."""
    rng = np.random.default_rng()
    depth, columns = left[-1], 48
    scales = (rng.random((depth // group, columns)) + 0.1).astype(dtype).astype("float32")
    weight = W4Weight(
        codes=rng.integers(0, 16, (depth, columns)).astype(np.uint8),
        scales=scales,
        zeros=rng.integers(0, 16, scales.shape).astype(np.uint8) if zeros else None,
        group=group,
    )
    codes, blocks, points = weight.to_blocks()
    form = BlockCodes(codes=codes, scales=blocks.astype(dtype), zeros=points)
    x = relax.Var("x", relax.TensorType(left, dtype))
    builder = relax.BlockBuilder()
    with builder.function("region", [x]):
        with builder.dataflow():
            floats = relax.const(np.zeros((depth, columns), dtype))
            result = builder.emit_output(relax.op.matmul(x, floats))
        builder.emit_func_output(result)
    model = region_to_onnx(
        builder.get()["region"], half_inside=True, product_form=lambda call: form
    )
    values = rng.standard_normal(left).astype(dtype)
    return model, values, values.astype("float64") @ weight.dequantised()


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_same_numbers_within_float16(case, results):
    folder, failed = results
    assert case.name not in failed, failed.get(case.name)
    found = np.load(folder / f"{case.name}.out.npz")
    for exact, other in zip(
        npu_numbers.by_onnx(case, half_inside=False), found.values(), strict=True
    ):
        assert (exact.dtype, exact.shape) == (other.dtype, other.shape)
        assert npu_numbers.relative_error(exact, other) <= case.htp


@pytest.mark.parametrize("name", FOUR_BITS)
def test_four_bit_weights_within_float16(name, results):
    """Weights and activations become float16, 5e-4 each at most; seen up to 1.3e-3 with points."""
    folder, failed = results
    assert name not in failed, failed.get(name)
    (got,) = np.load(folder / f"{name}.out.npz").values()
    want = np.load(folder / f"{name}.want.npy")
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= 3e-3 * np.linalg.norm(want)


def test_most_rows_are_accepted():
    assert len(ROWS) > 0.9 * len(CASES)
