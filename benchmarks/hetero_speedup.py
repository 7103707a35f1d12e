"""Both devices against the better one alone, each held to one core of this machine.

python benchmarks/hetero_speedup.py [--only REGEX] [--rounds N] [--reprofile] [--json]

Cases: matrix products of [M, K] x [K, N], MiniLM at length 128, the OCR detector. Each is built in
four modes (GPU only, NPU only, layer level, split), loaded into one process, and run in turns, so
that whatever else the machine does hits all modes alike. Times are medians. Ratio and efficiency
are those of the program that `build --measure` follows where it measures on two cores: every other
block of rounds chooses it, the blocks between give all times that are printed; `follows` names it.

ratio       the better single device's time over its time: above 1, both together are faster
efficiency  the time if the two rates added up, 1 / (1/gpu + 1/npu), over its time

The OpenCL device is held to one thread (`DPCPP_CPU_NUM_CUS=1`, for Intel's runtime) and so is the
NPU's stand-in (`HETERO_NPU_THREADS=1`). One process per case, so that memory is given back.

cores       what two busy threads reach together over one alone, beside the rounds (`cores.py`).
            Rounds for which the machine gave less than two cores are dropped, of all modes alike.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cores import TWO, Cores

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

ONE_CORE_EACH = {"DPCPP_CPU_NUM_CUS": "1", "HETERO_NPU_THREADS": "1"}
MODES = ("gpu", "npu", "layer", "split")
LEAST_S = 6.0  # of rounds for one case: the neighbours of a virtual machine come and go
MOST_S = 90.0  # to wait for two cores
BLOCK_S = 0.5  # of rounds between two looks at the cores
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
    from hetero_tvm import compiler, measure_plans, pipeline, runtime
    from hetero_tvm.build_state import State
    from hetero_tvm.config import BuildConfig, default_cache_dir
    from hetero_tvm.progress import Progress

    runtime.load()
    with tempfile.TemporaryDirectory() as folder, Progress(quiet=True) as progress:
        gemm = name.startswith("gemm")
        path, inputs = _product(name, Path(folder)) if gemm else _real(name)
        costs = compiler.target_costs("host", progress, cache_dir=default_cache_dir())
        config = BuildConfig(model=path, target="host", output=None, inputs=inputs, check=False)
        state = State(config=config, spec=costs.spec, costs=costs, note=progress.note)
        names = [phase.name for phase in pipeline.PHASES]
        after = names.index("place") + 1
        for phase in pipeline.PHASES[:after]:
            state = phase.run(state)
        executables = {}
        for mode, plan in measure_plans.distinct(state.plans).items():
            built = dataclasses.replace(state, plan=plan)
            for phase in pipeline.PHASES[after:]:
                built = phase.run(built)
            executables[mode] = built.executable
    timed = in_turns(measure_plans.runners(executables, state.model.ranges), rounds)
    followed = measure_plans.fastest(timed.choosing_us)
    median = {mode: us / 1e3 for mode, us in timed.us.items()}
    built_as = measure_plans.simplest(state.plans)
    ms = {mode: median[built_as[mode]] for mode in MODES}
    shares = [op.split.npu_share for op in state.plans["split"].ops if op.split is not None]
    return {
        "name": name,
        "ms": {**ms, "measured build": median[followed]},
        "follows": followed,
        "predicted_ms": {mode: state.plans[mode].predicted_us / 1e3 for mode in MODES},
        "npu_share": statistics.mean(shares) if shares else 0.0,
        "cores": timed.cores,
        "rounds": {"counted": timed.counted, "with_less_than_two_cores": timed.dropped},
        **ratios({**ms, "split": median[followed]}),
    }


@dataclasses.dataclass
class Timed:
    """Medians in µs of each mode's runs, and on how many cores of this machine they ran."""

    choosing_us: dict[str, float]  # of every other block: what chooses is not what is reported
    us: dict[str, float]
    cores: float  # the least that the looks beside the counted rounds saw
    counted: int
    dropped: int


def in_turns(runs: Mapping[str, Callable[[], float]], rounds: int) -> Timed:
    """Run all in turns; what ran while the machine gave less than two cores does not count.

    Where it never gives two for long enough, everything counts, and `cores` says so.
    """
    cores, good, rest = Cores(), [], []
    before = cores.now()
    start = time.perf_counter()
    while (
        len(good) < 2
        or sum(len(block) for _, block in good) < rounds
        or time.perf_counter() - start < LEAST_S
    ):
        if len(good) + len(rest) >= 2 and time.perf_counter() - start > MOST_S:
            break
        block: list[dict[str, float]] = []
        begin = time.perf_counter()
        while not block or time.perf_counter() - begin < BLOCK_S:
            block.append({mode: run() for mode, run in runs.items()})
        after = cores.now()
        least = min(before, after)
        (good if least >= TWO else rest).append((least, block))
        before = after
    enough = len(good) >= 2 and sum(len(block) for _, block in good) >= rounds
    kept = good if enough else good + rest
    return Timed(
        choosing_us=_medians([block for _, block in kept[::2]]),
        us=_medians([block for _, block in kept[1::2]]),
        cores=min(least for least, _ in kept),
        counted=sum(len(block) for _, block in kept),
        dropped=sum(len(block) for _, block in rest) if enough else 0,
    )


def _medians(blocks: list[list[dict[str, float]]]) -> dict[str, float]:
    rounds = [times for block in blocks for times in block]
    return {mode: statistics.median(times[mode] for times in rounds) for mode in rounds[0]}


def ratios(ms: dict[str, float]) -> dict[str, float]:
    """Ratio and efficiency of the split from the modes' times."""
    ideal = 1 / (1 / ms["gpu"] + 1 / ms["npu"])
    return {
        "ratio": min(ms["gpu"], ms["npu"]) / ms["split"],
        "efficiency": ideal / ms["split"],
    }


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
        titles = "".join(f"{mode:>9}" for mode in MODES)
        print(f"{'case, ms':<22}{titles}  follows   ratio  efficiency  cores")
    for name in cases():
        if not re.search(args.only, name):
            continue
        command = [sys.executable, __file__, "--case", name, "--rounds", str(args.rounds)]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        result = json.loads(output.splitlines()[-1])
        results.append(result)
        if not args.json:
            times = "".join(f"{result['ms'][mode]:>9.2f}" for mode in MODES)
            rates = f"{result['ratio']:>8.2f}{result['efficiency']:>12.2f}{result['cores']:>7.2f}"
            print(f"{name:<22}{times}{result['follows']:>9}{rates}", flush=True)
    products = [r["efficiency"] for r in results if r["name"].startswith("gemm")]
    mean = math.exp(statistics.mean(map(math.log, products))) if products else None
    if args.json:
        print(json.dumps({"cases": results, "gemm_efficiency_geomean": mean}, indent=1))
    elif mean is not None:
        print(f"GEMM efficiency: {mean:.2f} in the geometric mean, {min(products):.2f} at worst")
    return 0


if __name__ == "__main__":
    sys.exit(main())
