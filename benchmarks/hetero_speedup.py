"""Both devices against the better one alone, each held to one core of this machine.

python benchmarks/hetero_speedup.py [--only REGEX] [--rounds N] [--reprofile] [--json]

Cases: matrix products of [M, K] x [K, N], MiniLM at length 128, the OCR detector. Each is built in
four modes (GPU only, NPU only, layer level, split), loaded into one process, and run in turns, so
that whatever else the machine does hits all modes alike. Times are medians. Split is built with
`--measure`: the build times the modes itself and follows the fastest; what it says is timed again.

ratio       the better single device's time over the split's: above 1, both together are faster
efficiency  the time if the two rates added up, 1 / (1/gpu + 1/npu), over the split's time

The OpenCL device is held to one thread (`DPCPP_CPU_NUM_CUS=1`, for Intel's runtime) and so is the
NPU's stand-in (`HETERO_NPU_THREADS=1`). One process per case, so that memory is given back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

ONE_CORE_EACH = {"DPCPP_CPU_NUM_CUS": "1", "HETERO_NPU_THREADS": "1"}
MODES = {  # mode -> what `--devices` and `--no-split` say
    "gpu": ("gpu", True),
    "npu": ("npu", True),
    "layer": ("gpu+npu", False),
    "split": ("gpu+npu", True),
}
ROWS = (64, 128, 256, 512)
WEIGHTS = ((4096, 4096), (4096, 14336), (14336, 4096))


def cases() -> list[str]:
    """Names of all cases."""
    products = [f"gemm {m}x{k}x{n}" for k, n in WEIGHTS for m in ROWS]
    return [*products, "minilm", "ocr-detector"]  # MiniLM at length 128


def _product(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows, depth, columns = (int(part) for part in name.split()[1].split("x"))
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((depth, columns), dtype=np.float32) / np.float32(depth**0.5)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = folder / "product.onnx"
    onnx.save(model, path)
    return path, {}


def _real(name: str) -> tuple[Path, dict[str, Any]]:
    import models

    from hetero_tvm.frontend import parse_input_flag

    inputs = {spec.name: spec for spec in map(parse_input_flag, models.MODELS[name].inputs)}
    return models.fetch(name), inputs


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One case in this process: medians of every mode, in ms."""
    import tvm
    from tvm import relax

    from hetero_tvm import compiler, frontend, pipeline, runtime
    from hetero_tvm.config import BuildConfig, default_cache_dir
    from hetero_tvm.progress import Progress

    runtime.load()
    device = runtime.open_opencl()
    functions: dict[str, Any] = {}
    plans: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, Progress(quiet=True) as progress:
        gemm = name.startswith("gemm")
        path, inputs = _product(name, Path(folder)) if gemm else _real(name)
        costs = compiler.target_costs("host", progress, cache_dir=default_cache_dir())
        for mode, (devices, split) in MODES.items():
            config = BuildConfig(
                model=path,
                target="host",
                output=None,
                inputs=inputs,
                devices=devices,
                split=split,
                check=False,
                measure=mode == "split",
            )
            state = pipeline.State(
                config=config, spec=costs.spec, costs=costs, note=lambda line: None
            )
            for phase in pipeline.PHASES:
                state = phase.run(state)
                if phase.name == "measure":
                    placed = [(op.device, op.split) for op in state.plan.ops]
                    same = next((m for m, (other, _) in plans.items() if other == placed), None)
                    plans[mode] = (placed, state.plan.predicted_us)
                    if same is not None:  # the very same program: measured once
                        functions[mode] = functions[same]
                        break
            else:
                functions[mode] = relax.VirtualMachine(state.executable, device)["main"]
        drawn = frontend.draw_inputs(state.model.ranges, 7)
    tensors = [tvm.runtime.tensor(array, device) for array in drawn.values()]
    distinct = {id(function): function for function in functions.values()}
    times: dict[int, list[float]] = {key: [] for key in distinct}
    for function in distinct.values():
        function(*tensors)
        device.sync()
    for _ in range(rounds):
        for key, function in distinct.items():
            begin = time.perf_counter()
            function(*tensors)
            device.sync()
            times[key].append((time.perf_counter() - begin) * 1e3)
    ms = {mode: statistics.median(times[id(function)]) for mode, function in functions.items()}
    return {
        "name": name,
        "ms": ms,
        "predicted_ms": {mode: us / 1e3 for mode, (_, us) in plans.items()},
        "npu_share": _npu_share(plans["split"][0]),
        **ratios(ms),
    }


def ratios(ms: dict[str, float]) -> dict[str, float]:
    """Ratio and efficiency of the split from the modes' times."""
    ideal = 1 / (1 / ms["gpu"] + 1 / ms["npu"])
    return {
        "ratio": min(ms["gpu"], ms["npu"]) / ms["split"],
        "efficiency": ideal / ms["split"],
    }


def _npu_share(placed: list[Any]) -> float:
    """Of the split operators, the mean share of the NPU."""
    shares = [split.npu_share for _, split in placed if split is not None]
    return statistics.mean(shares) if shares else 0.0


def main() -> int:
    """Run every case in its own process and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="regular expression on case names")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--reprofile", action="store_true", help="measure the machine again first")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case == "profile":
        from hetero_tvm.config import default_cache_dir
        from hetero_tvm.host_profile import host_profile

        host_profile(default_cache_dir(), reprofile=True)
        return 0
    if args.case:
        with contextlib.redirect_stdout(sys.stderr):
            result = measure(args.case, args.rounds)
        print(json.dumps(result))
        return 0
    environment = {**os.environ, **ONE_CORE_EACH}
    if args.reprofile:
        command = [sys.executable, __file__, "--case", "profile"]
        subprocess.run(command, env=environment, check=True)
    results = []
    if not args.json:
        print(f"{'case':<22}{'gpu':>9}{'npu':>9}{'layer':>9}{'split':>9}   ratio  efficiency")
    for name in cases():
        if not re.search(args.only, name):
            continue
        command = [sys.executable, __file__, "--case", name, "--rounds", str(args.rounds)]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        result = json.loads(output.splitlines()[-1])
        results.append(result)
        if not args.json:
            times = "".join(f"{result['ms'][mode]:>9.2f}" for mode in MODES)
            print(f"{name:<22}{times}{result['ratio']:>8.2f}{result['efficiency']:>12.2f}")
    products = [r["efficiency"] for r in results if r["name"].startswith("gemm")]
    mean = math.exp(statistics.mean(map(math.log, products))) if products else None
    if args.json:
        print(json.dumps({"cases": results, "gemm_efficiency_geomean": mean}, indent=1))
    elif mean is not None:
        print(f"GEMM efficiency: {mean:.2f} in the geometric mean, {min(products):.2f} at worst")
    return 0


if __name__ == "__main__":
    sys.exit(main())
