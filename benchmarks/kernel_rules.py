"""The rules for the GPU against the generic one: no kernel family may be slower than without it.

    python benchmarks/kernel_rules.py [--json] [--target host]

Every case is lowered twice, by `default_rules` and by the last resort alone, and both run in turn
on this machine's OpenCL device; the ratio of medians must not be below one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tvm
from tvm import relax

from hetero_tvm import runtime, vm_lowering
from relay_passes.lower_gpu import lower_gpu
from schedules.defaults import default_legalizations, default_rules
from schedules.last_resort import LastResort
from schedules.tvm_target import tvm_target
from target_specs.loader import load_spec

Build = Callable[[relax.Expr], relax.Expr]


def _normal(*shape: int) -> np.ndarray:
    """The same values at every call: both sides compute the same."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _const(*shape: int) -> relax.Expr:
    return relax.const(_normal(*shape))


def _conv(channels: int, kernel: int, groups: int = 1) -> Build:
    weight = _const(channels, channels // groups, kernel, kernel)
    return lambda x: relax.op.nn.conv2d(x, weight, padding=kernel // 2, groups=groups)


def _norm(size: int) -> Build:
    one = relax.const(np.ones(size, np.float32))
    return lambda x: relax.op.nn.layer_norm(x, one, one, [-1])


# name -> shape of the input, operator
CASES: dict[str, tuple[tuple[int, ...], Build]] = {
    "matmul": ((128, 384), lambda x: relax.op.matmul(x, _const(384, 384))),
    "one row": ((1, 1024), lambda x: relax.op.matmul(x, _const(1024, 1024))),
    "scores": ((12, 64, 32), lambda x: relax.op.matmul(x, relax.op.permute_dims(x, [0, 2, 1]))),
    "conv 3x3": ((1, 32, 40, 40), _conv(32, 3)),
    "conv 1x1": ((1, 64, 40, 40), _conv(64, 1)),
    "depthwise": ((1, 64, 40, 40), _conv(64, 5, groups=64)),
    "pool": ((1, 64, 40, 40), lambda x: relax.op.nn.max_pool2d(x, [2, 2], [2, 2])),
    "softmax": ((12, 128, 128), lambda x: relax.op.nn.softmax(x)),
    "layer norm": ((128, 384), _norm(384)),
    "mean of rows": ((512, 384), lambda x: relax.op.mean(x, [-1])),
    "mean of columns": ((512, 384), lambda x: relax.op.mean(x, [0])),
    "element-wise": ((512, 1024), lambda x: relax.op.nn.silu(x)),
    "broadcast": ((512, 1024), lambda x: relax.op.multiply(x, _const(1024))),
    "transpose": ((512, 1024), lambda x: relax.op.permute_dims(x, [1, 0])),
}


def compiled(shape: tuple[int, ...], build: Build, target: str, *, generic: bool) -> Callable:
    """What runs the operator once and waits."""
    gpu = load_spec(target).gpu
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(build(x)))
        builder.emit_func_output(out)
    gpu_target = tvm_target(gpu)
    mod = lower_gpu(
        relax.transform.Normalize()(builder.get()),
        target=gpu_target,
        legalizations=default_legalizations(gpu),
        rules=[LastResort(gpu)] if generic else default_rules(gpu),
    )
    device = runtime.open_opencl()
    executable = vm_lowering.compile_executable(mod, gpu_target, None, [])
    machine = relax.VirtualMachine(executable, device)
    tensor = tvm.runtime.tensor(_normal(*shape), device)

    def run() -> Any:
        result = machine["main"](tensor)
        runtime.sync()
        return result

    return run


def measure(name: str, target: str, rounds: int) -> dict[str, Any]:
    """Both medians of one case, in microseconds, and the ratio."""
    shape, build = CASES[name]
    runs = [compiled(shape, build, target, generic=generic) for generic in (False, True)]
    got, want = (run().numpy() for run in runs)
    error = float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-6))
    if not error <= 1e-4:
        raise SystemExit(f"{name}: the rules differ by {error:.1e}, relative")
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for run, kept in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            kept.append((time.perf_counter() - started) * 1e6)
    ours, generic = (statistics.median(kept) for kept in times)
    return {"name": name, "rules_us": ours, "generic_us": generic, "ratio": generic / ours}


def main() -> None:
    """Print all cases; exit with 1 where a family is slower than the generic rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host", help="whose GPU's limits the kernels are for")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runtime.load()
    cases = [measure(name, args.target, args.rounds) for name in CASES]
    if args.json:
        sys.stdout.write(json.dumps({"schema_version": 1, "cases": cases}, indent=2) + "\n")
    else:
        lines = [f"{'case':<18}{'rules us':>12}{'generic us':>12}{'ratio':>8}"]
        lines += [
            f"{case['name']:<18}{case['rules_us']:>12.1f}{case['generic_us']:>12.1f}"
            f"{case['ratio']:>8.2f}"
            for case in cases
        ]
        sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(any(case["ratio"] < 1 for case in cases))


if __name__ == "__main__":
    main()
