"""Measure this machine's rates and print them as the file `target_specs/socs/host.toml`.

    python benchmarks/host_rates.py > host.toml        then move it into place

Operators are timed by `hetero_tvm/host_bench.py`; a rate is the geometric mean over shapes as they
occur in encoders and convolutional detectors. Run it on a quiet machine: ONNX Runtime's threads
wait for one another, and suffer more from other programs than an OpenCL driver's do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tvm import relax

sys.path.insert(0, str(Path(__file__).parent.parent))

from hetero_tvm import runtime
from hetero_tvm.host_bench import (
    Case,
    chain,
    chains_us,
    compiled,
    in_turns_us,
    matmul,
    memory_gbps,
    overheads,
    weight,
)
from hetero_tvm.host_profile import compute_units, cpu_name
from relay_passes.op_work import op_work
from relay_passes.program import read_program
from target_specs.loader import load_spec
from target_specs.spec import GpuSpec, NpuSpec

_SPEC = load_spec("host")  # measure() replaces its vector width by the best one


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


def rate(key: str, case: Case, device: str, budget_s: float) -> float:
    """GFLOP/s or GB/s of the case on the device."""
    works = [op_work(node.call) for node in read_program(chain(case, 1))]
    flops = sum(2 * work.macs for work in works)
    moved = sum(work.bytes for work in works)
    amount = flops if key.endswith("_gflops") else moved
    value = amount / chains_us(case, _SPEC, (device,), budget_s)[device] / 1e3
    note(f"{device} {key} {list(case.shape)}: {value:.1f}")
    return value


def traffic_gbps(shape: tuple[int, ...], device: str, budget_s: float) -> float:
    """An addition of two tensors: its time minus a tiny one's, over three tensors' bytes."""

    def step(x: relax.Expr) -> relax.Expr:
        return relax.op.add(x, relax.op.exp(x)) if device == "gpu" else relax.op.add(x, x)

    mods = [chain(Case(size, step), 1) for size in (shape, (1, 8))]
    times = in_turns_us([compiled(mod, _SPEC, lambda _: device) for mod in mods], budget_s)
    tensors = 2 if device == "gpu" else 3  # the GPU's kernel reads one and writes one
    value = tensors * 4 * math.prod(shape) / max(times[0] - times[1], 0.01) / 1e3
    note(f"{device} vector_gbps {list(shape)}: {value:.1f}")
    return value


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
    one, both = memory_gbps(budget_s)
    both = max(one, both)
    memory = {"peak_gbps": both, "one_device_gbps": one, "two_devices_gbps": both}
    tables: dict[str, dict[str, float]] = {"memory": memory}
    extra = overheads(_SPEC, budget_s)
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
        f"{device['name']}, ONNX Runtime {onnxruntime.__version__}; "
        "a twentieth of the runs were faster"
    )
    gpu, npu = _SPEC.gpu, _SPEC.npu
    dtypes = ", ".join(f'"{name}"' for name in sorted(npu.dtypes))
    lines = ['name = "host"', 'soc = "any"', "soc_ids = []", f'source = "{where}"']
    lines += ["", "[memory]", *_origin("the command above")]
    lines += _numbers(tables["memory"])
    lines += ["", "[gpu]", f'name = "{gpu.name}"', *_origin("the command above")]
    for key in ("max_work_group_size", "local_memory_bytes", "wave_size", "half"):
        lines.append(_as_before(gpu, key))
    lines += [f"cores = {compute_units(device)}"]
    lines += [f"vector_width = {gpu.vector_width}  # the fastest of 4, 8 and 16"]
    lines += ["float32_rate = 1.0  # the figures are of float32", *_numbers(tables["gpu"])]
    lines += ["", "[npu]", f'name = "{npu.name}"', 'provider = "cpu"']
    lines += [*_origin("the command above"), f"dtypes = [{dtypes}]", f"max_rank = {npu.max_rank}"]
    lines += [_as_before(npu, "coded_rows"), "tile = 1", *_numbers(tables["npu"])]
    return "\n".join(lines) + "\n"


def _as_before(table: GpuSpec | NpuSpec, key: str) -> str:
    origin, value = table.origin(key), str(getattr(table, key)).lower()
    return (
        f'{key} = {{ value = {value}, provenance = "{origin.provenance}", '
        f'source = "{origin.source}" }}'
    )


def _origin(source: str) -> list[str]:
    return ['provenance = "measured"', f'source = "{source}"']


def _numbers(table: dict[str, float]) -> list[str]:
    return [f"{key} = {float(f'{value:.3g}')}" for key, value in table.items()]


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
