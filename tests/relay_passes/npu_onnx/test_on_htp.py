"""Every accepted row on Qualcomm's x86 simulator of the NPU, in one process of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import npu_numbers
import numpy as np
import pytest
from npu_op_cases import CASES

from relay_passes.npu_onnx import region_to_onnx
from relay_passes.npu_support import decline_reason
from target_specs.loader import load_spec

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
NPU = load_spec("snapdragon-8-gen-3").npu
ROWS = [case for case in CASES if case.htp and decline_reason(case.call(), NPU) is None]
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
    command = [sys.executable, "-c", RUN_ALL, str(folder), str(NPU.soc_model)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=600
    )
    assert (folder / "failed.json").is_file(), done.stderr[-2000:]
    return folder, json.loads((folder / "failed.json").read_text())


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


def test_most_rows_are_accepted():
    assert len(ROWS) > 0.9 * len(CASES)
