"""Measure this machine's rates and print them as the file `target_specs/socs/host.toml`.

    python benchmarks/host_rates.py > host.toml        then move it into place

Both devices are measured through the compiler's own path: a small Relax module, placed by hand,
lowered and run as any model is. A chain of n equal operators minus a chain of one gives the time
of an operator without the run's own cost. Each number is the median of the quietest of four
rounds; a rate is the geometric mean over shapes as they occur in encoders and convolutional
detectors. Run it on a quiet machine: ONNX Runtime's threads wait for one another, and suffer more
from other programs than an OpenCL driver's do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import tvm
from tvm import relax

sys.path.insert(0, str(Path(__file__).parent.parent))

from hetero_tvm import npu_compiler, runtime, vm_lowering
from relay_passes.group_regions import GroupRegions
from relay_passes.lower_gpu import lower_gpu
from relay_passes.lower_npu import lower_npu
from relay_passes.op_work import op_work
from relay_passes.plan import OpPlan, Plan
from relay_passes.program import read_program
from schedules.defaults import default_legalizations, default_rules
from schedules.tvm_target import tvm_target
from target_specs.loader import load_spec

Step = Callable[[relax.Expr], relax.Expr]  # one more operator behind the last
_SPEC = load_spec("host")  # measure() replaces its vector width by the best one
_RNG = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A chain of operators on one input."""

    shape: tuple[int, ...]
    step: Step


def weight(*shape: int) -> relax.Expr:
    """A constant of about unit gain."""
    scale = math.prod(shape[1:]) ** -0.5
    return relax.const(_RNG.standard_normal(shape, dtype=np.float32) * np.float32(scale))


def matmul(rows: int, size: int) -> Case:
    return Case((rows, size), lambda x: relax.op.matmul(x, weight(size, size)))


def scores_and_back(batch: int, rows: int, depth: int) -> Case:
    """The two products of attention, both of activations."""

    def step(x: relax.Expr) -> relax.Expr:
        scores = relax.op.matmul(x, relax.op.permute_dims(x, [0, 2, 1]))  # [B, S, S]
        return relax.op.matmul(scores, x)

    return Case((batch, rows, depth), step)


def conv(channels: int, size: int, kernel: int, groups: int = 1) -> Case:
    return Case(
        (1, channels, size, size),
        lambda x: relax.op.nn.conv2d(
            x, weight(channels, channels // groups, kernel, kernel), padding=kernel // 2,
            groups=groups,
        ),
    )  # fmt: skip


def layer_norm(rows: int, size: int) -> Case:
    one = relax.const(np.ones(size, np.float32))
    return Case((rows, size), lambda x: relax.op.nn.layer_norm(x, one, one, [-1]))


RATES: dict[str, list[Case]] = {
    "matmul_gflops": [matmul(128, 384), matmul(128, 1024), matmul(16, 384)],
    "batched_matmul_gflops": [scores_and_back(12, 128, 32), scores_and_back(8, 256, 64)],
    "conv_gflops": [conv(24, 160, 3), conv(96, 40, 3), conv(96, 80, 1), conv(256, 20, 1)],
    "reduction_gbps": [
        Case((12, 128, 128), lambda x: relax.op.nn.softmax(x)),
        layer_norm(128, 384),
        conv(96, 40, 5, groups=96),
        conv(32, 80, 3, groups=32),
    ],
}
TRAFFIC = [(128, 1536), (1, 96, 80, 80)]  # element-wise: these sizes against a tiny one
TINY = Case((1, 8), lambda x: relax.op.nn.softmax(x))  # never fused with its neighbours


def chain(case: Case, length: int) -> tvm.IRModule:
    """`main` with `length` steps, each behind the last."""
    x = relax.Var("x", relax.TensorType(case.shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            value: relax.Expr = x
            for _ in range(length):
                value = builder.emit(builder.normalize(case.step(value)))
            out = builder.emit_output(value)
        builder.emit_func_output(out)
    return relax.transform.Normalize()(builder.get())


def place_by_hand(mod: tvm.IRModule, device_of: Callable[[int], str]) -> Plan:
    """A plan without costs: the i-th operator on `device_of(i)`."""
    ops = tuple(
        OpPlan(
            name=node.name, op="", device=device_of(i), reason="", cost_us={}, declined={}, macs=0
        )
        for i, node in enumerate(read_program(mod))
    )
    return Plan(ops=ops, predicted_us=0, handover_us=0, alternatives_us={})


def compiled(mod: tvm.IRModule, plan: Plan) -> Callable[[], float]:
    """Compile for the host; the result runs once and returns the seconds."""
    shape = [int(size) for size in mod["main"].params[0].ty.shape]
    mod, regions = lower_npu(GroupRegions(plan)(mod), _SPEC.npu)
    npu_module = None
    if regions:
        ready = npu_compiler.compile_regions(regions, _SPEC.npu, cache_dir=None)
        options = npu_compiler.session_options(_SPEC.npu)
        npu_module = runtime.npu_module(ready, _SPEC.npu.provider, options)
    target = tvm_target(_SPEC.gpu)
    mod = lower_gpu(
        mod,
        target=target,
        legalizations=default_legalizations(_SPEC.gpu),
        rules=default_rules(_SPEC.gpu),
    )
    device = runtime.open_opencl()
    machine = relax.VirtualMachine(vm_lowering.compile_executable(mod, target, npu_module), device)
    data = tvm.runtime.tensor(_RNG.standard_normal(shape, dtype=np.float32), device)

    def run() -> float:
        start = time.perf_counter()
        machine["main"](data)
        runtime.gpu_wait()
        return time.perf_counter() - start

    return run


def median_us(run: Callable[[], float], budget_s: float) -> float:
    """Median of the quietest of four rounds, so that another program's burst does not count."""
    for _ in range(3):
        run()
    medians = []
    for _ in range(4):
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 7 or time.perf_counter() - start < budget_s / 4:
            times.append(run())
        medians.append(statistics.median(times))
    return min(medians) * 1e6


def chain_us(case: Case, device: str, budget_s: float, long: int = 5) -> float:
    """Time of one step of the chain, without the cost of a run."""
    short = 1
    times = {}
    for length in (long, short):
        mod = chain(case, length)
        times[length] = median_us(compiled(mod, place_by_hand(mod, lambda _: device)), budget_s)
    return max((times[long] - times[short]) / (long - short), 0.01)


def rate(key: str, case: Case, device: str, budget_s: float) -> float:
    """GFLOP/s or GB/s of the case on the device."""
    works = [op_work(node.call) for node in read_program(chain(case, 1))]
    flops = sum(2 * work.macs for work in works)
    moved = sum(work.bytes for work in works)
    amount = flops if key.endswith("_gflops") else moved
    value = amount / chain_us(case, device, budget_s) / 1e3
    note(f"{device} {key} {list(case.shape)}: {value:.1f}")
    return value


def traffic_gbps(shape: tuple[int, ...], device: str, budget_s: float) -> float:
    """An addition of two tensors: its time minus a tiny one's, over three tensors' bytes."""

    def step(x: relax.Expr) -> relax.Expr:
        return relax.op.add(x, relax.op.exp(x)) if device == "gpu" else relax.op.add(x, x)

    times = []
    for size in (shape, (1, 8)):
        mod = chain(Case(size, step), 1)
        times.append(median_us(compiled(mod, place_by_hand(mod, lambda _: device)), budget_s))
    tensors = 2 if device == "gpu" else 3  # the GPU's kernel reads one and writes one
    value = tensors * 4 * math.prod(shape) / max(times[0] - times[1], 0.01) / 1e3
    note(f"{device} vector_gbps {list(shape)}: {value:.1f}")
    return value


def overheads(budget_s: float) -> dict[str, dict[str, float]]:
    """Launches and hand-overs: a tiny operator alone, in a chain, and device after device."""
    launch = chain_us(TINY, "gpu", budget_s, long=33)
    tiny = Case((1, 8), lambda x: relax.op.add(x, x))
    op_us = chain_us(tiny, "npu", budget_s, long=33)
    one = chain(TINY, 1)
    gpu_run = median_us(compiled(one, place_by_hand(one, lambda _: "gpu")), budget_s)
    npu_run = median_us(compiled(one, place_by_hand(one, lambda _: "npu")), budget_s)
    per_trip = []
    for trips in (1, 9):
        mod = chain(TINY, 2 * trips)
        plan = place_by_hand(mod, lambda i: ("gpu", "npu")[i % 2])
        per_trip.append(median_us(compiled(mod, plan), budget_s))
    trip = (per_trip[1] - per_trip[0]) / 8
    wait = max(gpu_run - launch, 0.1)  # one kernel, then wait for it
    note(f"gpu run {gpu_run:.1f} µs, npu run {npu_run:.1f} µs, there and back {trip:.1f} µs")
    return {
        "gpu": {"launch_us": launch, "handover_us": wait},
        "npu": {
            "op_us": op_us,
            "launch_us": npu_run,
            "handover_us": max(trip - launch - wait - npu_run, 0.1),
        },
    }


def memory_gbps(threads: int, budget_s: float) -> float:
    """Copying 64 MiB in each thread: bytes read and written."""
    pairs = [(np.ones(1 << 24, np.float32), np.empty(1 << 24, np.float32)) for _ in range(threads)]

    def run() -> float:
        workers = [threading.Thread(target=np.copyto, args=(b, a)) for a, b in pairs]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - start

    return threads * 2 * pairs[0][0].nbytes / median_us(run, budget_s) / 1e3


def best_vector_width(budget_s: float) -> int:
    """Lanes that a work-item should use: the fastest for matrix products and convolutions."""
    speed = {}
    for width in (4, 8, 16):
        _use_vector_width(width)
        cases = (("matmul_gflops", matmul(128, 384)), ("conv_gflops", conv(96, 40, 3)))
        speed[width] = math.prod(rate(key, case, "gpu", budget_s) for key, case in cases)
    return max(speed, key=lambda width: speed[width])


def _use_vector_width(width: int) -> None:
    global _SPEC
    _SPEC = dataclasses.replace(_SPEC, gpu=dataclasses.replace(_SPEC.gpu, vector_width=width))


def measure(budget_s: float) -> dict[str, dict[str, float]]:
    """All figures: table -> key -> value."""
    _use_vector_width(best_vector_width(budget_s))
    one = memory_gbps(1, budget_s)
    both = max(one, memory_gbps(2, budget_s))
    memory = {"peak_gbps": both, "one_device_gbps": one, "two_devices_gbps": both}
    tables: dict[str, dict[str, float]] = {"memory": memory}
    extra = overheads(budget_s)
    for device in ("gpu", "npu"):
        rates = {
            key: statistics.geometric_mean(rate(key, case, device, budget_s) for case in cases)
            for key, cases in RATES.items()
        }
        rates["vector_gbps"] = statistics.geometric_mean(
            traffic_gbps(shape, device, budget_s) for shape in TRAFFIC
        )
        tables[device] = {**rates, **extra[device]}
    return tables


def as_toml(tables: dict[str, dict[str, float]]) -> str:
    """The whole spec file: today's, with the measured figures in the place of the old ones."""
    device = runtime.opencl_devices()[0]
    where = (
        f"python benchmarks/host_rates.py on {cpu_name()}, {os.cpu_count()} cores, OpenCL "
        f"{device['name']}, ONNX Runtime {onnxruntime.__version__}; medians"
    )
    gpu, npu = _SPEC.gpu, _SPEC.npu
    dtypes = ", ".join(f'"{name}"' for name in sorted(npu.dtypes))
    lines = ['name = "host"', 'soc = "any"', "soc_ids = []", f'source = "{where}"']
    lines += ["", "[memory]", *_origin("the command above")]
    lines += _numbers(tables["memory"])
    lines += ["", "[gpu]", f'name = "{gpu.name}"', *_origin("the command above")]
    for key in ("max_work_group_size", "local_memory_bytes", "wave_size", "half"):
        origin = gpu.origin(key)
        value = str(getattr(gpu, key)).lower()
        lines.append(
            f'{key} = {{ value = {value}, provenance = "{origin.provenance}", '
            f'source = "{origin.source}" }}'
        )
    lines += [f"vector_width = {gpu.vector_width}  # the fastest of 4, 8 and 16"]
    lines += ["float32_rate = 1.0  # the figures are of float32", *_numbers(tables["gpu"])]
    lines += ["", "[npu]", f'name = "{npu.name}"', 'provider = "cpu"']
    lines += [*_origin("the command above"), f"dtypes = [{dtypes}]", f"max_rank = {npu.max_rank}"]
    lines += ["tile = 1", *_numbers(tables["npu"])]
    return "\n".join(lines) + "\n"


def _origin(source: str) -> list[str]:
    return ['provenance = "measured"', f'source = "{source}"']


def _numbers(table: dict[str, float]) -> list[str]:
    return [f"{key} = {float(f'{value:.3g}')}" for key, value in table.items()]


def cpu_name() -> str:
    """The processor's name as Linux prints it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def note(text: str) -> None:
    """Progress, beside the result."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.4, help="time for each measurement")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead")
    args = parser.parse_args()
    runtime.load()
    tables = measure(args.seconds)
    sys.stdout.write(json.dumps(tables, indent=1) + "\n" if args.json else as_toml(tables))


if __name__ == "__main__":
    main()
