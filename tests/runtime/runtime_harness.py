"""What the runtime's tests share: hand-written OpenCL, small ONNX models, fresh processes.

A process can open one OpenCL device only, so whatever depends on the choice of it runs in a process
of its own: `fresh(...)` runs one script, `Worker` keeps one device for many checks.
"""

import json
import os
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

ANSWER_LIMIT_S = 120  # a device that hangs is a failure, not a test run without an end

POINTER = (3, 64, 1)
INT32, INT64 = (0, 32, 1), (0, 64, 1)
FLOAT16, FLOAT32, FLOAT64 = (2, 16, 1), (2, 32, 1), (2, 64, 1)
X = ("blockIdx.x", "threadIdx.x")

ADD_ONE = """
__kernel void add_one(__global float* out, __global const float* in, int n, int rounds) {
  int i = get_global_id(0);
  if (i >= n) return;
  float slow = 0.0f;  // takes time that the compiler cannot take away
  for (int k = 0; k < rounds; ++k) slow = slow * 0.5f + in[i];
  out[i] = in[i] + 1.0f + (slow == 12345.678f ? 1.0f : 0.0f);
}
"""
ADD_ONE_ARGS = (POINTER, POINTER, INT32, INT32)


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def opencl_bytes(kernels, code):
    """TVM's wire format; `kernels`: {name: (argument types, launch tags)}."""
    parts = [text("cl"), struct.pack("<Q", len(kernels))]
    for name, (types, tags) in kernels.items():
        parts += [text(name), text(name), struct.pack("<Q", len(types))]
        parts += [struct.pack("<BBH", *kind) for kind in types]
        parts += [struct.pack("<Q", len(tags)), *map(text, tags)]
        parts += [struct.pack("<Q", len(types)), struct.pack("<i", 0) * len(types)]
    return b"".join([*parts, text(code)])


def opencl_module(kernels, sources):
    """A module of hand-written kernels; `sources`: {name: OpenCL C}."""
    import tvm

    code = "".join(f"// Function: {name}\n{source}\n" for name, source in sources.items())
    return tvm.get_global_func("ffi.Module.load_from_bytes.opencl")(opencl_bytes(kernels, code))


@dataclass
class Spec:
    name: str
    dtype: str
    shape: tuple


@dataclass
class Region:
    symbol: str
    onnx: bytes
    inputs: tuple
    outputs: tuple


def onnx_region(symbol, op, shape, dtype="float32", constant=None):
    """A region of one ONNX operator over x, and over a constant where one is given."""
    import onnx
    from onnx import helper, numpy_helper

    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = ["x"] if constant is None else ["x", "c"]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"])],
        symbol,
        [helper.make_tensor_value_info("x", number, shape)],
        [helper.make_tensor_value_info("y", number, shape)],
        [] if constant is None else [numpy_helper.from_array(np.asarray(constant, dtype), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    spec = (Spec("x", dtype, shape),), (Spec("y", dtype, shape),)
    return Region(symbol, model.SerializeToString(), *spec)


def compile_for_qnn(region, soc_model, folder, *, embedded=True):
    """The region with its model compiled for one SoC, as the compiler side makes it.

    Its binary is inside the model, or in a file beside it.
    """
    from hetero_tvm import npu_session

    plain = Path(folder) / f"{region.symbol}_plain.onnx"
    compiled = Path(folder) / f"{region.symbol}_ctx.onnx"
    plain.write_bytes(region.onnx)
    entries = {"ep.context_embed_mode": "1" if embedded else "0"}
    options = {"soc_model": str(soc_model)}
    report, _ = npu_session.compile_context(plain, compiled, options, entries)
    assert not report["reasons"], report["reasons"]
    return Region(region.symbol, compiled.read_bytes(), region.inputs, region.outputs)


def environment(**variables):
    """This process's environment with the runtime's own variables replaced."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERO_OPENCL")}
    path = os.pathsep.join(filter(None, (str(ROOT), str(HERE), os.environ.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **variables}


def fresh(script, *arguments, **variables):
    """Run Python code in a new process; returns the finished process, `.json` is its last line."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
        timeout=300,
    )
    try:
        done.json = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        done.json = None  # it printed none; stderr says why
    return done


class Worker:
    """One device in its own process, for as many checks as one likes."""

    def __init__(self, device, **variables):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "device_checks.py"), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )
        self.unavailable = self._answer()["skip"]

    def _answer(self):
        limit = threading.Timer(ANSWER_LIMIT_S, self._process.kill)
        limit.start()
        line = self._process.stdout.readline()
        limit.cancel()
        if not line:
            raise RuntimeError(f"the device's process ended with {self._process.wait()}")
        return json.loads(line)

    def run(self, check):
        """{"ok": ...} or {"skip": reason} or {"error": traceback}."""
        self._process.stdin.write(check + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        self._process.stdin.close()
        return self._process.wait(timeout=60)
