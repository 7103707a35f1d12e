"""Kernels on the OpenCL device: tuned, by default, CLBlast's and ONNX Runtime's, in one run.

    python benchmarks/kernels.py [--db DIR [--tune 64]] [--json] [--only TEXT]

Everybody has one thread and the same OpenCL device, and they run in turn, A B C A B C …, in one
process, each of them the first in its turn; the figures to quote are ratios of medians. `--db`
builds each case a second time with what `hetero-tvm tune` found, `--tune` lets it search first;
without a database there is no tuned column.
Models run on the GPU role alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["DPCPP_CPU_NUM_CUS"] = "1"  # one thread; read when the driver is loaded
os.environ.setdefault("HETERO_HOST_PROFILE", "shipped")  # the plan has no choice here

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from clblast import ClBlast  # noqa: E402
from models import MODELS, fetch  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

import hetero_tvm  # noqa: E402
from hetero_tvm import runtime  # noqa: E402
from hetero_tvm.run import complete_inputs  # noqa: E402

# name -> (rows, depth, columns); "w4" products have codes of four bits, 32 to a scale.
PRODUCTS = {
    "gemm_512": (512, 512, 512),
    "gemm_1024": (1024, 1024, 1024),
    "gemm_128x4096x4096": (128, 4096, 4096),
    "gemv_4096x14336": (1, 4096, 14336),
    "gemv_4096": (1, 4096, 4096),
    "w4_gemv_4096": (1, 4096, 4096),
}
GROUP = 32
# `accuracy_level` of MatMulNBits: 1 computes in float32, 4 would round activations to 8 bits.
_FLOAT32_ACCURACY = 1
# float32 sums of a few thousand products, against ONNX Runtime's.
_TOLERANCE = 1e-4
_WARM_UP = 3
Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A database of tuned kernels, and how many trials each case has there before it is timed."""

    db: Path
    trials: int


@dataclasses.dataclass
class Case:
    """Whoever can run one case."""

    name: str
    default: Run
    ort: Run
    tuned: Run | None = None
    clblast: Run | None = None


def product(name: str, folder: Path, tuning: Tuning | None, blas: ClBlast | None) -> Case:
    """A product with a float32 weight, built from ONNX as a user's model is."""
    rows, depth, columns = PRODUCTS[name]
    random = np.random.default_rng()
    x = random.standard_normal((rows, depth), dtype=np.float32)
    weight = random.standard_normal((depth, columns), dtype=np.float32)
    model = folder / f"{name}.onnx"
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    onnx.save(_onnx_model(node, [numpy_helper.from_array(weight, "w")], x, columns), model)
    case = built(name, model, [], folder, tuning, {"x": x})
    if blas is not None:
        case.clblast = blas.product(x, weight)
        _check(f"{name} by CLBlast", case.clblast(), case.ort()[0])
    return case


def w4_product(name: str, folder: Path, tuning: Tuning | None) -> Case:
    """A product with a 4-bit weight, which stays so on the GPU."""
    rows, depth, columns = PRODUCTS[name]
    random = np.random.default_rng()
    x = random.standard_normal((rows, depth), dtype=np.float32)
    packed = random.integers(0, 256, (columns, depth // GROUP, GROUP // 2)).astype(np.uint8)
    scales = random.random((columns, depth // GROUP), dtype=np.float32) + np.float32(0.01)
    parts = [
        numpy_helper.from_array(packed, "codes"),
        numpy_helper.from_array(scales.reshape(-1), "scales"),
    ]
    node = helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scales"],
        ["y"],
        domain="com.microsoft",
        K=depth,
        N=columns,
        bits=4,
        block_size=GROUP,
        accuracy_level=_FLOAT32_ACCURACY,
    )
    model = folder / f"{name}.onnx"
    onnx.save(_onnx_model(node, parts, x, columns), model)
    return built(name, model, [], folder, tuning, {"x": x})


def built(
    name: str,
    model: Path,
    flags: list[str],
    folder: Path,
    tuning: Tuning | None,
    inputs: dict | None,
) -> Case:
    """`model` on the GPU role alone, by default and with what tuning found, and ONNX Runtime."""
    if tuning is not None and tuning.trials:
        started = time.perf_counter()
        _verb("tune", model, flags, "--db", str(tuning.db), "--trials", str(tuning.trials))
        sys.stderr.write(f"{name}: tuned in {time.perf_counter() - started:.0f} s\n")
    runs: list[Run] = []
    results: list[dict[str, np.ndarray]] = []
    for database in [None] if tuning is None else [None, tuning.db]:
        artefact = folder / f"{name}-{'default' if database is None else 'tuned'}.so"
        stored = [] if database is None else ["--db", str(database)]
        _verb("build", model, flags, "-o", str(artefact), *stored)
        loaded = hetero_tvm.load(artefact)
        given = complete_inputs(inputs or {}, loaded.manifest, 0)
        results.append(loaded.run(given))
        runs.append(functools.partial(loaded.call, loaded.feed(given)))
    ort = ort_run(str(model), given)
    for got in results:
        for one, want in zip(got.values(), ort(), strict=True):
            _check(name, one, want)
    return Case(name, runs[0], ort, tuned=runs[1] if tuning else None)


def _verb(verb: str, model: Path, flags: list[str], *more: str) -> None:
    """`hetero-tvm VERB` on `model`, for the GPU role alone."""
    command = [sys.executable, "-m", f"hetero_tvm.{verb}", str(model), "--target", "host"]
    command += ["--devices", "gpu", *flags, *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")


def _onnx_model(
    node: onnx.NodeProto, parts: list[onnx.TensorProto], x: np.ndarray, columns: int
) -> onnx.ModelProto:
    """A model of one node on `x`."""
    value, real = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "g", [value("x", real, x.shape)], [value("y", real, (len(x), columns))], parts
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def ort_run(model: str | bytes, inputs: dict[str, np.ndarray]) -> Run:
    """ONNX Runtime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def _check(name: str, got: np.ndarray, want: np.ndarray) -> None:
    error = float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-6))
    if not error <= _TOLERANCE:
        raise SystemExit(f"{name}: differs from ONNX Runtime by {error:.1e}, relative")


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """Medians in milliseconds of everybody who runs the case, in turn."""
    runs = {"tuned": case.tuned, "default": case.default, "clblast": case.clblast, "ort": case.ort}
    present = {who: run for who, run in runs.items() if run is not None}
    times: dict[str, list[float]] = {who: [] for who in present}
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < _WARM_UP + 5 or time.perf_counter() < end:
        # Nobody always comes behind the same one, who leaves caches and threads as he had them.
        first = rounds % len(present)
        order = [*present][first:] + [*present][:first]
        for who in order:
            started = time.perf_counter()
            present[who]()
            times[who].append((time.perf_counter() - started) * 1e3)
        rounds += 1
    medians = {who: statistics.median(kept[_WARM_UP:]) for who, kept in times.items()}
    return {"name": case.name, **{f"{who}_ms": medians.get(who) for who in runs}}


def summary(cases: list[dict[str, Any]]) -> dict[str, float | None]:
    """Geometric means of ratios; above 1, ours is the faster one."""
    best = [case["tuned_ms"] or case["default_ms"] for case in cases]
    against = {}
    for who in ("clblast", "ort", "default"):
        ratios = [
            case[f"{who}_ms"] / ours
            for case, ours in zip(cases, best, strict=True)
            if case[f"{who}_ms"] and (who != "default" or case["tuned_ms"])
        ]
        against[f"{who}_over_ours"] = statistics.geometric_mean(ratios) if ratios else None
    return against


def main() -> None:
    """Measure all cases, or those whose name has a text in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--db", type=Path, help="a database of `hetero-tvm tune`")
    parser.add_argument(
        "--tune", type=int, default=0, metavar="N", help="first search for each case, N trials"
    )
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each case")
    parser.add_argument("--no-clblast", action="store_true", help="without CLBlast (no apt-get)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.tune and args.db is None:
        parser.error("--tune goes with --db DIR")
    tuning = None if args.db is None else Tuning(args.db.resolve(), args.tune)
    runtime.load()
    driver = runtime.opencl_devices()[0]["library"]
    blas = None if args.no_clblast else ClBlast(driver)
    cases = []
    for name in [*PRODUCTS, "ocr-detector", "minilm"]:
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            if name in MODELS:
                flags = [word for text in MODELS[name].inputs for word in ("--input", text)]
                case = built(name, fetch(name), flags, Path(folder), tuning, None)
            elif name.startswith("w4"):
                case = w4_product(name, Path(folder), tuning)
            else:
                case = product(name, Path(folder), tuning, blas)
            cases.append(measure(case, args.seconds))
            sys.stderr.write(f"{json.dumps(cases[-1])}\n")
    report = {"schema_version": 1, "cases": cases, **summary(cases)}
    if args.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    heads = ("tuned_ms", "default_ms", "clblast_ms", "ort_ms")
    lines = [f"{'case':<20}" + "".join(f"{head:>12}" for head in heads)]
    for case in cases:
        shown = ("" if case[head] is None else f"{case[head]:.3f}" for head in heads)
        lines.append(f"{case['name']:<20}" + "".join(f"{text:>12}" for text in shown))
    lines += [f"{key}: {value:.2f}" for key, value in summary(cases).items() if value]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
