"""One product, really computed, on one device of this machine: in a process of its own.

    python -m hetero_tvm.device_check '{"place": "gpu", "device": 0}'

Drivers and simulators can crash or hang; so `doctor` starts one such process for each check and
reads one line of JSON from it. What is compiled and run is compiled and run as `build` does it, and
the numbers are compared with NumPy's in float64.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Literal

import numpy as np

from hetero_tvm import child_python

Place = Literal["gpu", "npu", "split"]
_ROWS, _SIZE = 64, 256  # [64, 256] x [256, 256]
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2}  # relative error, as `run --compare` has them
_TIMEOUT_S = 180.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to check."""

    place: Place
    device: int | None = None  # OpenCL device by index; None: the one that is chosen by itself
    target: str = "host"  # whose NPU
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What came of it. `error`: one line where there are no numbers."""

    held: bool = False
    relative_error: float | None = None
    seconds: float = 0.0
    device: str = ""  # name of the OpenCL device
    memory: str = ""  # how it shares memory with the host
    error: str = ""


def check(wanted: Wanted, timeout_s: float = _TIMEOUT_S) -> Found:
    """Run one check in a new process."""
    command = [sys.executable, "-m", "hetero_tvm.device_check"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*command, json.dumps(dataclasses.asdict(wanted))],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=child_python.environment(),
        )
    except subprocess.TimeoutExpired:
        return Found(error=f"no result after {timeout_s:g} s")
    seconds = time.monotonic() - start
    try:
        return Found(**{**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds})
    except (IndexError, ValueError, TypeError):
        return Found(error=_how_it_ended(done.returncode, done.stderr), seconds=seconds)


def _how_it_ended(code: int, said: str) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}: a driver crashed"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"the process ended with {code}: {lines[-1][:200] if lines else 'it said nothing'}"


def run(wanted: Wanted) -> Found:
    """Compile and run in this process."""
    from hetero_tvm import runtime

    if wanted.device is not None:
        runtime.configure(opencl_device=wanted.device)
    device = runtime.open_opencl()
    about = next(entry for entry in runtime.opencl_devices() if entry["selected"])
    random = np.random.default_rng()
    x = (random.standard_normal((_ROWS, _SIZE)) / 4).astype(wanted.dtype)
    weight = (random.standard_normal((_SIZE, _SIZE)) / 16).astype(wanted.dtype)
    found = _product(wanted, x, weight, device)
    reference = np.maximum(x.astype(np.float64) @ weight.astype(np.float64), 0)
    error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    computes_half = wanted.dtype == "float16" or (wanted.place != "gpu" and wanted.target != "host")
    limit = _TOLERANCE["float16" if computes_half else "float32"]
    return Found(
        held=bool(error <= limit),  # false for NaN
        relative_error=error,
        device=str(about["name"]),
        memory=str(about["memory"]),
    )


def _product(wanted: Wanted, x: np.ndarray, weight: np.ndarray, device: Any) -> np.ndarray:
    """relu(x @ weight), placed as wanted."""
    import tvm
    from tvm import relax

    from hetero_tvm import npu_compiler, runtime, vm_lowering
    from relay_passes.group_regions import GroupRegions
    from relay_passes.lower_gpu import lower_gpu
    from relay_passes.lower_npu import lower_npu
    from relay_passes.op_work import op_name
    from relay_passes.plan import OpPlan, Plan, Split
    from relay_passes.program import read_program
    from relay_passes.split_tensor import split_tensor
    from schedules.defaults import default_legalizations, default_rules
    from schedules.tvm_target import tvm_target
    from target_specs.loader import load_spec, resolve

    npu = load_spec(resolve(wanted.target)).npu
    gpu = load_spec("host").gpu  # kernels for the driver that is here
    parameter = relax.Var("x", relax.TensorType(x.shape, wanted.dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [parameter]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(parameter, relax.const(weight)), "product")
            out = builder.emit_output(relax.op.nn.relu(product), "result")
        builder.emit_func_output(out)
    mod = relax.transform.Normalize()(builder.get())
    split = Split(kind="activation", axis=0, at=_ROWS // 2, extent=_ROWS)
    ops = tuple(
        OpPlan(
            name=node.name,
            op=op_name(node.call),
            device="gpu+npu" if wanted.place == "split" else wanted.place,
            reason="",
            cost_us={},
            declined={},
            macs=0,
            split=split if wanted.place == "split" else None,
            region=None if wanted.place == "gpu" else 0,
        )
        for node in read_program(mod)
    )
    cut = split_tensor(mod, Plan(ops=ops, predicted_us=0.0))
    mod, regions = lower_npu(tvm.transform.Sequential([GroupRegions(cut.region)])(cut.mod), npu)
    npu_module = None
    if regions:
        ready = npu_compiler.compile_regions(regions, npu, cache_dir=None)
        npu_module = runtime.npu_module(ready, npu.provider, npu_compiler.session_options(npu))
    target = tvm_target(gpu)
    mod = lower_gpu(
        mod,
        target=target,
        legalizations=default_legalizations(gpu),
        rules=default_rules(gpu),
    )
    symbols = [region.symbol for region in regions]
    executable = vm_lowering.compile_executable(mod, target, npu_module, symbols)
    machine = relax.VirtualMachine(executable, device)
    result = machine["main"](tvm.runtime.tensor(x, device))
    runtime.sync()
    array = np.asarray(result.numpy(), np.float64)
    axes = cut.output_axes[0]
    return array if axes is None else np.transpose(array, axes)


def main() -> int:
    """Child: run what the argument says; the last line of stdout is the result."""
    with os.fdopen(os.dup(1), "w") as real:
        os.dup2(2, 1)  # vendors' libraries print there
        try:
            found = run(Wanted(**json.loads(sys.argv[1])))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            found = Found(error=f"{type(error).__name__}: {lines[-1][:300] if lines else ''}")
        real.write(json.dumps(dataclasses.asdict(found)) + "\n")
        real.flush()
        os._exit(0)  # whatever a driver does while the process ends is not asked here


if __name__ == "__main__":
    sys.exit(main())
