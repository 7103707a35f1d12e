"""The default kernels on a discrete GPU: written here, checked and timed there, without TVM there.

    python benchmarks/gpu_report.py emit DIR                    OpenCL C and launch sizes, by TVM
    python benchmarks/gpu_report.py run DIR --report FILE.md    on the GPU's machine: numpy, OpenCL

`run` compares each result with float64 and times launches over so many copies of the weights that
no cache holds them. Bandwidth is that of all bytes a kernel must read and write; beside it stands
a device-to-device copy in bulk, and a kernel that reads as many bytes and does nothing with them,
which is as fast as a launch of that size gets. A launch of a dozen microseconds is partly its own
start and end, which a copy in bulk does not have: so launches are timed once behind each other, and
once "overlapping", on two queues in turn. With PyTorch there, products are compared with cuBLAS in
float32 (TF32 off).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

# What such a device reports of itself; the kernels are made from these limits.
LIMITS = {
    "wave_size": 32,
    "vector_width": 4,
    "max_work_group_size": 1024,
    "local_memory_bytes": 49152,
    "denormals": True,
}
GROUP = 32  # codes that share a scale
SIZES = {
    "gemm": [(2048, 2048, 2048), (4096, 4096, 4096)],
    "gemv": [(1, 4096, 14336), (1, 14336, 4096)],
    "w4": [(1, 4096, 14336), (1, 14336, 4096)],
}
# Kernels that only move memory: what they compute of [rows, columns], in NumPy.
_SHAPE = (4096, 4096)
MEMORY_BOUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": lambda x: (lambda e: e / e.sum(-1, keepdims=True))(np.exp(x - x.max(-1)[:, None])),
    "row_sum": lambda x: x.sum(-1),
    "column_mean": lambda x: x.mean(0),
    "transpose": lambda x: x.T,
}
_BULK_BYTES = 1 << 31
_CACHE_BYTES = 400_000_000  # copies of the weights together, several times any cache
_TOLERANCE = 1e-5


def emit(folder: Path) -> None:
    """Write one `.cl` file for each case and `cases.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for kind, shapes in SIZES.items():
        for rows, depth, columns in shapes:
            name = f"{kind}_{rows}x{depth}x{columns}"
            source, case = _compile(kind, rows, depth, columns)
            (folder / f"{name}.cl").write_text(source)
            cases.append({"name": name, "kind": kind, "shape": [rows, depth, columns], **case})
            sys.stderr.write(f"{name}\n")
    for kind in MEMORY_BOUND:
        name = f"{kind}_{_SHAPE[0]}x{_SHAPE[1]}"
        source, case = _compile_memory_bound(kind)
        (folder / f"{name}.cl").write_text(source)
        cases.append({"name": name, "kind": kind, "shape": list(_SHAPE), **case})
        sys.stderr.write(f"{name}\n")
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))


def _compile_memory_bound(kind: str) -> tuple[str, dict[str, Any]]:
    """OpenCL C of one of `MEMORY_BOUND` by the default rules, and how to launch it."""
    from tvm import relax

    forms = {
        "softmax": relax.op.nn.softmax,
        "row_sum": lambda x: relax.op.sum(x, axis=[-1]),
        "column_mean": lambda x: relax.op.mean(x, axis=[0]),
        "transpose": relax.op.permute_dims,
    }
    _, source, case = _compiled(lambda _builder, _gpu, x: forms[kind](x), _SHAPE, ["x"])
    return source, case


def _compile(kind: str, rows: int, depth: int, columns: int) -> tuple[str, dict[str, Any]]:
    """OpenCL C of one product by the default rules, and how to launch it."""
    from tvm import relax

    from schedules.w4a16 import W4Weight, w4a16_product

    def product(builder: Any, gpu: Any, x: Any) -> Any:
        # As in a model, what is multiplied is another kernel's result.
        made = builder.emit(relax.op.nn.relu(x))
        if kind != "w4":
            return relax.op.matmul(made, relax.const(np.zeros((depth, columns), np.float32)))
        weight = W4Weight(  # the values do not matter here
            codes=np.zeros((depth, columns), np.uint8),
            scales=np.zeros((depth // GROUP, columns), np.float32),
            zeros=None,
            group=GROUP,
        )
        return w4a16_product(builder, gpu, made, weight)

    roles = ["x", "words", "scales"] if kind == "w4" else ["x", "weight"]
    func, source, case = _compiled(product, (rows, depth), roles)
    return source, {**case, "weight": [int(n) for n in func.params[1].shape]}


def _compiled(
    build: Callable[[Any, Any, Any], Any], shape: tuple[int, ...], roles: list[str]
) -> tuple[Any, str, dict[str, Any]]:
    """The kernel of what `build` gives for (builder, gpu, x), with as many inputs as `roles`."""
    from tvm import IRModule, relax, tirx

    from relay_passes.lower_gpu import lower_gpu
    from schedules.defaults import default_legalizations, default_rules
    from schedules.launches import launches_of
    from schedules.tvm_target import tvm_target
    from target_specs.loader import load_spec

    gpu = dataclasses.replace(load_spec("host").gpu, **LIMITS)
    target = tvm_target(gpu)
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(builder, gpu, x)))
        builder.emit_func_output(result)
    mod = lower_gpu(
        builder.get(),
        target=target,
        legalizations=default_legalizations(gpu),
        rules=default_rules(gpu),
    )
    (func,) = (
        func
        for func in mod.functions.values()
        if isinstance(func, tirx.PrimFunc) and len(func.params) == len(roles) + 1
    )
    launches = launches_of(IRModule({"main": func.with_attr("global_symbol", "main")}), target)
    (step,) = launches.steps
    places = [*roles, "product"]
    return (
        func,
        launches.source,
        {
            "kernel": step.kernel,
            "arguments": [places[place] for place in step.arguments],
            "groups": list(step.groups),
            "items": list(step.items),
        },
    )


def run(folder: Path) -> dict[str, Any]:
    """Check and time every case of `folder` on this machine's GPU."""
    from opencl_device import OpenClDevice

    device = OpenClDevice()
    report: dict[str, Any] = {**device.describe(), "limits": LIMITS}
    report["copy_gbps"] = _copy_gbps(device, _BULK_BYTES)
    reference = _Reference()
    report["torch"] = reference.version
    report["cases"] = []
    for case in json.loads((folder / "cases.json").read_text()):
        source = (folder / f"{case['name']}.cl").read_text()
        row = {"name": case["name"], **_measure(device, reference, case, source)}
        row["of_copy"] = row["gbps"] / report["copy_gbps"]
        if "overlapping_us" in row:
            row["overlapping_of_copy"] = row["of_copy"] * row["us"] / row["overlapping_us"]
        report["cases"].append(row)
        sys.stderr.write(f"{json.dumps(row)}\n")
    return report


class _Reference:
    """float64 products, and cuBLAS's times where PyTorch has a GPU."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError:
            self.torch = None
        else:
            self.torch = torch if torch.cuda.is_available() else None
        self.version = self.torch.__version__ if self.torch else None

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if self.torch is None:
            return left.astype(np.float64) @ right.astype(np.float64)
        sides = [self.torch.from_numpy(side).cuda().double() for side in (left, right)]
        return (sides[0] @ sides[1]).cpu().numpy()

    def cublas_us(self, rows: int, depth: int, columns: int) -> float | None:
        """Median of rounds of a float32 product."""
        if self.torch is None:
            return None
        torch = self.torch
        torch.backends.cuda.matmul.allow_tf32 = False
        left = torch.randn(rows, depth, device="cuda")
        copies = max(1, min(3, _CACHE_BYTES // (4 * depth * columns)))
        rights = [torch.randn(depth, columns, device="cuda") for _ in range(copies)]
        rounds = []
        for _ in range(6):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for index in range(24):
                torch.matmul(left, rights[index % copies])
            end.record()
            torch.cuda.synchronize()
            rounds.append(start.elapsed_time(end) / 24 * 1e3)
        return statistics.median(rounds[1:])


def _measure(device: Any, reference: _Reference, case: dict[str, Any], source: str) -> dict:
    """Error, time and rates of one kernel."""
    arrays, want = _inputs(case, reference)
    got = np.full(want.shape, np.nan, np.float32)  # an element not written stays NaN
    moved = sum(array.nbytes for array in arrays.values()) + got.nbytes
    copies = 1 if case["kind"] == "gemm" else max(2, -(-_CACHE_BYTES // moved))
    program = device.program(source)
    buffers, launches, products = [], [], []
    for _ in range(copies):
        held = {name: device.upload(array) for name, array in arrays.items()}
        held["product"] = device.upload(got)
        buffers += held.values()
        products.append(held["product"])
        arguments = [held[role] for role in case["arguments"]]
        launches.append(
            device.kernel(program, case["kernel"], arguments, case["groups"], case["items"])
        )
    launches[0]()
    device.download(products[0], got)
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    if not error <= _TOLERANCE:
        raise RuntimeError(f"{case['name']}: relative error {error}")
    us = device.median_us(launches)
    row = {"us": us, "error": error, "bytes": moved, "gbps": moved / us / 1e3}
    if copies > 1:
        row["overlapping_us"] = device.median_us(launches, queues=2)
    for buffer in buffers:
        device.release(buffer)
    if case["kind"] in MEMORY_BOUND:
        return row
    rows, depth, columns = case["shape"]
    row["tflops"] = 2 * rows * depth * columns / us / 1e6
    if case["kind"] == "w4":
        row["of_reading"] = _reading_us(device, moved) / us
    else:
        row["cublas_us"] = reference.cublas_us(rows, depth, columns)
        row["of_cublas"] = row["cublas_us"] and row["cublas_us"] / us
    return row


def _inputs(case: dict[str, Any], reference: _Reference) -> tuple[dict[str, np.ndarray], Any]:
    """The kernel's arguments, and the product in float64."""
    random = np.random.default_rng()
    if case["kind"] in MEMORY_BOUND:
        x = random.standard_normal(case["shape"], dtype=np.float32)
        return {"x": x}, MEMORY_BOUND[case["kind"]](x.astype(np.float64))
    rows, depth, columns = case["shape"]
    x = random.standard_normal((rows, depth), dtype=np.float32)
    if case["kind"] != "w4":
        weight = random.standard_normal((depth, columns), dtype=np.float32)
        panels = _panels(weight, case["weight"][-1])
        return {"x": x, "weight": panels}, reference.product(x, weight)
    codes = random.integers(0, 16, (depth, columns), dtype=np.uint8)
    scales = random.random((depth // GROUP, columns), dtype=np.float32) + np.float32(0.01)
    weight = (codes.astype(np.float32) - 8) * np.repeat(scales, GROUP, axis=0)
    words = np.zeros((depth // 8, columns), np.uint32)
    for place in range(8):
        words |= codes[place::8].astype(np.uint32) << np.uint32(4 * place)
    strips, *split, lanes = case["weight"]
    panels = _panels(words, lanes)
    if len(split) > 1:  # as `schedules.w4a16.pack_w4`: [.., rounds, items, words, lanes]
        rounds, taken, items = split
        panels = panels.reshape(strips, rounds, items, taken, lanes).transpose(0, 1, 3, 2, 4)
    packed = {"words": np.ascontiguousarray(panels), "scales": _panels(scales, lanes)}
    return {"x": x, **packed}, reference.product(x, weight)


def _panels(weight: np.ndarray, panel: int) -> np.ndarray:
    """As `schedules.layout.pack_panels`, which is not importable without TVM."""
    depth, columns = weight.shape
    assert columns % panel == 0
    return np.ascontiguousarray(weight.reshape(depth, -1, panel).transpose(1, 0, 2))


def _copy_gbps(device: Any, size: int) -> float:
    """A device-to-device copy of `size` bytes, counted read and written."""
    count = max(2, min(16, _CACHE_BYTES // size))
    buffers = [device.buffer(size) for _ in range(count)]
    runs = [device.copy(buffers[i], buffers[(i + 1) % count], size) for i in range(count)]
    us = device.median_us(runs)
    for buffer in buffers:
        device.release(buffer)
    return 2 * size / us / 1e3


_READING = """
__kernel void reading(__global const uint4* restrict from, __global uint* restrict to) {
  uint4 seen = (uint4)(0);
  for (int n = 0; n < 4; ++n) {
    const int at = (get_group_id(0) * 4 + n) * 256 + get_local_id(0);
    if (at < VECTORS) seen ^= from[at];
  }
  const uint any = seen.x ^ seen.y ^ seen.z ^ seen.w;
  if (any == 0x12345u) to[0] = any;  // so that nothing is left out
}
"""


def _reading_us(device: Any, size: int) -> float:
    """A kernel that reads `size` bytes, of several such buffers in turn."""
    vectors = size // 16
    program = device.program(_READING.replace("VECTORS", str(vectors)))
    random = np.random.default_rng().integers(0, 1 << 31, size // 4, dtype=np.int32)
    buffers = [device.upload(random) for _ in range(max(2, -(-_CACHE_BYTES // size)))]
    target = device.buffer(16)
    groups = [-(-vectors // 1024), 1, 1]
    runs = [device.kernel(program, "reading", [b, target], groups, [256, 1, 1]) for b in buffers]
    us = device.median_us(runs)
    for buffer in (*buffers, target):
        device.release(buffer)
    return us


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"# Default kernels on {report['device']}",
        "",
        f"{report['opencl']}, driver {report['driver']}, {report['compute_units']} compute units; "
        f"PyTorch {report['torch']}. A copy in bulk moves {report['copy_gbps']:.0f} GB/s, read and "
        "written.",
        "",
        "    python benchmarks/gpu_report.py emit DIR",
        "    python benchmarks/gpu_report.py run DIR --report FILE.md",
        "",
        "| kernel | µs | relative error | GB/s | of a bulk copy | the same, overlapping "
        "| of reading alone | TFLOP/s | of cuBLAS |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["cases"]:
        overlapping, reading, cublas = (
            f"{row[key]:.2f}" if row.get(key) else ""
            for key in ("overlapping_of_copy", "of_reading", "of_cublas")
        )
        tflops = f"{row['tflops']:.1f}" if "tflops" in row else ""
        lines.append(
            f"| {row['name']} | {row['us']:.1f} | {row['error']:.1e} | {row['gbps']:.0f} "
            f"| {row['of_copy']:.2f} | {overlapping} | {reading} | {tflops} | {cublas} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["emit", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report", type=Path, help="write the table here, and JSON beside it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    if args.step == "emit":
        emit(args.folder)
        return
    report = run(args.folder)
    if args.report:
        args.report.write_text(as_markdown(report))
        args.report.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if args.json else as_markdown(report))


if __name__ == "__main__":
    main()
