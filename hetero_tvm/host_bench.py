"""Time operators on this machine's two devices, through the compiler's own path.

A small Relax module, placed by hand, is lowered and run as any model is. A chain of n equal
operators minus a chain of one gives the time of an operator without the run's own cost. Each number
is the median of the quietest of four rounds, so that another program's burst does not count.

Requires: a target whose NPU is the stand-in (provider "cpu"), an OpenCL device.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
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
from target_specs.spec import SocSpec

Step = Callable[[relax.Expr], relax.Expr]  # one more operator behind the last
_ROUNDS = 4
# How often two devices are tried together, unless they hardly slow each other down.
_TRIES, _UNDISTURBED = 6, 0.95
_random = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A chain of operators on one input."""

    shape: tuple[int, ...]
    step: Step


TINY = Case((1, 8), lambda x: relax.op.nn.softmax(x))  # never fused with its neighbours


def weight(*shape: int) -> relax.Expr:
    """A constant of about unit gain."""
    scale = math.prod(shape[1:]) ** -0.5
    return relax.const(_random.standard_normal(shape, dtype=np.float32) * np.float32(scale))


def matmul(rows: int, size: int) -> Case:
    """Products with square weights."""
    return Case((rows, size), lambda x: relax.op.matmul(x, weight(size, size)))


BUSY = matmul(64, 384)  # a product as in a small transformer
BUSY_HALF = Case(
    (64, 384), lambda x: relax.op.concat([half := relax.op.matmul(x, weight(384, 192)), half], 1)
)


def chain(case: Case, length: int) -> tvm.IRModule:
    """`main` with `length` steps, each behind the last."""
    return chains(case, length)


def chains(case: Case, *lengths: int) -> tvm.IRModule:
    """`main` with one chain for each of `lengths`, all from the same input."""
    x = relax.Var("x", relax.TensorType(case.shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            outputs = []
            for length in lengths:
                value: relax.Expr = x
                for _ in range(length):
                    value = builder.emit(builder.normalize(case.step(value)))
                outputs.append(value)
            out = builder.emit_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        builder.emit_func_output(out)
    return relax.transform.Normalize()(builder.get())


def compiled(
    mod: tvm.IRModule, spec: SocSpec, device_of: Callable[[int], str]
) -> Callable[[], float]:
    """Compile with the i-th operator on `device_of(i)`; the result runs once, returns seconds.

    Operators on the NPU that follow each other in the program are one region.
    """
    return compiled_cut(mod, spec, _regions(mod, device_of))


def compiled_cut(
    mod: tvm.IRModule, spec: SocSpec, region: Mapping[str, int]
) -> Callable[[], float]:
    """As `compiled`, with the regions of the NPU's operators."""
    shape = [int(size) for size in mod["main"].params[0].ty.shape]
    group: Any = GroupRegions(region)
    mod = group(mod)
    mod, regions = lower_npu(mod, spec.npu)
    npu_module = None
    if regions:
        ready = npu_compiler.compile_regions(regions, spec.npu, cache_dir=None)
        options = npu_compiler.session_options(spec.npu)
        npu_module = runtime.npu_module(ready, spec.npu.provider, options)
    target = tvm_target(spec.gpu)
    mod = lower_gpu(
        mod,
        target=target,
        legalizations=default_legalizations(spec.gpu),
        rules=default_rules(spec.gpu),
    )
    device = runtime.open_opencl()
    executable = vm_lowering.compile_executable(
        mod, target, npu_module, [region.symbol for region in regions]
    )
    machine = relax.VirtualMachine(executable, device)
    data = tvm.runtime.tensor(_random.standard_normal(shape, dtype=np.float32), device)

    def run() -> float:
        start = time.perf_counter()
        machine["main"](data)
        runtime.sync()
        return time.perf_counter() - start

    return run


def _regions(mod: tvm.IRModule, device_of: Callable[[int], str]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    number, before = 0, ""
    for i, node in enumerate(read_program(mod)):
        device = device_of(i)
        number += device == "npu" and before != "npu"
        if device == "npu":
            found[node.name] = number
        before = device
    return found


def median_us(run: Callable[[], float], budget_s: float) -> float:
    """Median of the quietest of four rounds, in µs."""
    for _ in range(3):
        run()
    medians = []
    for _ in range(_ROUNDS):
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < budget_s / _ROUNDS:
            times.append(run())
        medians.append(statistics.median(times))
    return min(medians) * 1e6


def chain_us(case: Case, spec: SocSpec, device: str, budget_s: float, long: int = 5) -> float:
    """Time of one step of the chain, without the cost of a run."""
    times = {
        length: median_us(compiled(chain(case, length), spec, lambda _: device), budget_s)
        for length in (long, 1)
    }
    return max((times[long] - times[1]) / (long - 1), 0.01)


def slowdown(case: Case, spec: SocSpec, step_us: Mapping[str, float], budget_s: float) -> float:
    """How much of its rate a device keeps while the other one works, 0.05 to 1.

    The most of some tries: other programs of this machine slow down two devices more than one.

    Args:
        case: what both do.
        spec: the target.
        step_us: "gpu" and "npu" -> time of one step alone, for chains of about equal time.
        budget_s: for the measurement.
    """
    ratio = step_us["gpu"] / step_us["npu"]
    lengths = {"gpu": max(1, round(8 / max(1.0, ratio))), "npu": max(1, round(8 * min(1.0, ratio)))}
    lengths = {device: min(16, length) for device, length in lengths.items()}
    alone = [
        compiled(chain(case, length), spec, {"gpu": _on_gpu, "npu": _on_npu}[device])
        for device, length in lengths.items()
    ]
    first = lengths["npu"]  # the NPU is given its work first: it needs no more of the host
    mod = chains(case, first, lengths["gpu"])
    together = compiled(mod, spec, lambda i: "npu" if i < first else "gpu")
    best = 0.05
    for _ in range(_TRIES):
        shorter, longer = sorted(median_us(run, budget_s) for run in alone)
        # Both work for shorter / kept; then the longer one is alone.
        kept = shorter / max(median_us(together, budget_s) - (longer - shorter), shorter)
        best = max(best, kept)
        if best > _UNDISTURBED:
            break
    return best


def _on_gpu(_index: int) -> str:
    return "gpu"


def _on_npu(_index: int) -> str:
    return "npu"


def overheads(spec: SocSpec, budget_s: float) -> dict[str, dict[str, float]]:
    """Launches and waits: a tiny operator alone, in a chain, and products device after device.

    A run on the NPU is timed from its start until its end is seen: that is its submission, and
    seeing the end costs nothing more. Waits are those of devices at work side by side: what a step
    takes, of a chain of products that are cut and put together again, beyond half a product.
    """
    launch = chain_us(TINY, spec, "gpu", budget_s, long=33)
    op_us = chain_us(Case((1, 8), lambda x: relax.op.add(x, x)), spec, "npu", budget_s, long=33)
    one = chain(TINY, 1)
    gpu_run = median_us(compiled(one, spec, lambda _: "gpu"), budget_s)
    npu_run = median_us(compiled(one, spec, lambda _: "npu"), budget_s)
    wait = max(gpu_run - launch, 0.1)  # one kernel, then wait for it
    exchange = _exchange_us(spec, budget_s)
    half = max(chain_us(BUSY_HALF, spec, device, budget_s) for device in ("gpu", "npu"))
    way = max(exchange - half - npu_run, wait)
    return {
        "gpu": {"launch_us": launch, "handover_us": way, "flag_us": way},
        "npu": {
            "op_us": op_us,
            "launch_us": npu_run,
            "handover_us": way,
            "submit_us": npu_run,
            "flag_us": 0.01,
        },
    }


def _exchange_us(spec: SocSpec, budget_s: float) -> float:
    """A step of a chain of products by columns, of which each needs all of the one before."""
    per_chain = []
    for length in (1, 9):
        mod = chain(BUSY, length)
        nodes = read_program(mod)
        columns = BUSY.shape[1]
        split = Split(kind="weight", axis=1, at=columns // 2, extent=columns)
        ops = tuple(
            OpPlan(
                name=node.name,
                op=op_name(node.call),
                device="gpu+npu",
                reason="",
                cost_us={},
                declined={},
                macs=0,
                split=split,
                region=i,
            )
            for i, node in enumerate(nodes)
        )
        cut = split_tensor(mod, Plan(ops=ops, predicted_us=0.0))
        per_chain.append(median_us(compiled_cut(cut.mod, spec, cut.region), budget_s))
    return max((per_chain[1] - per_chain[0]) / 8, 0.01)


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
