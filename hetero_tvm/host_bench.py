"""Time operators on this machine's two devices, through the compiler's own path.

A small Relax module, placed by hand, is lowered and run as any model is. A chain of n equal
operators minus a chain of one gives the time of an operator without the run's own cost. Programs
whose times are compared run in turns, and each time is the one that a twentieth of the runs beat: a
machine whose speed changes, or that other programs use too, then changes none of them beside the
others. A plan made for a machine that was busy once would be kept when it is not.

Requires: a target whose NPU is the stand-in (provider "cpu"), an OpenCL device.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from hetero_tvm import npu_compiler, runtime, vm_lowering
from hetero_tvm.costs import block_codes
from relay_passes.group_regions import GroupRegions
from relay_passes.lower_gpu import lower_gpu
from relay_passes.lower_npu import lower_npu
from relay_passes.op_work import op_name
from relay_passes.plan import OpPlan, Plan, Split
from relay_passes.program import read_program
from relay_passes.split_tensor import split_tensor
from schedules.defaults import default_legalizations, default_rules
from schedules.tvm_target import tvm_target
from schedules.w4a16_table import W4Blocks, W4Table
from target_specs.spec import SocSpec

Step = Callable[[relax.Expr], relax.Expr]  # one more operator behind the last
_BEATEN = 0.05  # of a program's runs are faster than the time that counts
_FEWEST = 5  # runs of each program
_EXCHANGES = 8  # of results between two devices, in a chain that times one
_STEPS = 8  # of the shorter chain where devices are to work at once
_MOST_LOST = 0.98  # two devices that are one lose all: each keeps a half, as this makes it
_LONGER = 4  # budgets of a program for which both devices must be undisturbed
_random = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A chain of operators on one input."""

    shape: tuple[int, ...]
    step: Step
    weights: tuple[W4Blocks, ...] = ()  # that constants of `step` came from


TINY = Case((1, 8), lambda x: relax.op.nn.softmax(x))  # never fused with its neighbours


def weight(*shape: int) -> relax.Expr:
    """A constant of about unit gain."""
    scale = math.prod(shape[1:]) ** -0.5
    return relax.const(_random.standard_normal(shape, dtype=np.float32) * np.float32(scale))


def matmul(rows: int, size: int) -> Case:
    """Products with square weights."""
    return Case((rows, size), lambda x: relax.op.matmul(x, weight(size, size)))


def coded_matmul(rows: int, size: int) -> Case:
    """Products with square weights of four bits, computed from their codes; all are the same."""
    group = 32
    blocks = W4Blocks(
        packed=_random.integers(0, 256, (size, size // group, group // 2)).astype(np.uint8),
        scales=_random.random((size, size // group), np.float32) * np.float32(size**-0.5 / 8),
        zeros=None,
        depth=size,
    )
    floats = relax.const(blocks.weight().dequantised().astype(np.float32))
    return Case((rows, size), lambda x: relax.op.matmul(x, floats), (blocks,))


# Products so small that two devices at work hardly slow each other down: that is `slowdown`'s.
SMALL = matmul(16, 64)
SMALL_HALF = Case(
    (16, 64), lambda x: relax.op.concat([half := relax.op.matmul(x, weight(64, 32)), half], 1)
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
    mod: tvm.IRModule,
    spec: SocSpec,
    device_of: Callable[[int], str],
    weights: Sequence[W4Blocks] = (),
) -> Callable[[], float]:
    """Compile with the i-th operator on `device_of(i)`; the result runs once, returns seconds.

    Operators on the NPU that follow each other in the program are one region. `weights`: that
    constants came from.
    """
    return compiled_cut(mod, spec, _regions(mod, device_of), weights)


def compiled_cut(
    mod: tvm.IRModule,
    spec: SocSpec,
    region: Mapping[str, int],
    weights: Sequence[W4Blocks] = (),
) -> Callable[[], float]:
    """As `compiled`, with the regions of the NPU's operators."""
    table = W4Table(weights)
    shape = [int(size) for size in mod["main"].params[0].ty.shape]
    group: Any = GroupRegions(region)
    mod = group(mod)
    mod, regions = lower_npu(mod, spec.npu, find_codes=block_codes(spec.npu, table))
    npu_module = None
    if regions:
        ready = npu_compiler.compile_regions(regions, spec.npu, cache_dir=None)
        options = npu_compiler.session_options(spec.npu)
        npu_module = runtime.npu_module(ready, spec.npu.provider, options)
    target = tvm_target(spec.gpu)
    mod = lower_gpu(
        mod,
        target=target,
        legalizations=default_legalizations(spec.gpu, table),
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


def in_turns_us(runs: Sequence[Callable[[], float]], budget_s: float) -> list[float]:
    """The time of each program in µs, which a twentieth of its runs beat; all run in turns.

    Args:
        runs: each runs a program once and returns seconds.
        budget_s: for each of them.
    """
    for run in runs:
        for _ in range(3):
            run()
    times: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    while len(times[0]) < _FEWEST or time.perf_counter() - start < budget_s * len(runs):
        for run, found in zip(runs, times, strict=True):
            found.append(run())
    return [sorted(found)[int(_BEATEN * len(found))] * 1e6 for found in times]


def chains_us(
    case: Case, spec: SocSpec, devices: Iterable[str], budget_s: float, long: int = 5
) -> dict[str, float]:
    """Device -> time of one step of the chain, without the cost of a run; all in turns."""
    programs = [(device, length) for device in devices for length in (long, 1)]
    runs = [
        compiled(chain(case, length), spec, {"gpu": _on_gpu, "npu": _on_npu}[device], case.weights)
        for device, length in programs
    ]
    us = dict(zip(programs, in_turns_us(runs, budget_s), strict=True))
    return {d: max((us[d, long] - us[d, 1]) / (long - 1), 0.01) for d, n in programs if n == long}


def slowdown(
    case: Case, spec: SocSpec, step_us: Mapping[str, float], budget_s: float, steps: int = _STEPS
) -> dict[str, float]:
    """Device -> how much of its rate it keeps while the other one works, 0.05 to 1.

    Each device computes twice as long as the other one, in turn. The shorter work lasts
    shorter / kept; what the longer one lost meanwhile is by how much both together take longer than
    it does alone. Two such losses say what each device keeps.

    Steps of a fraction of a millisecond: a busy machine gives two cores for some at least.

    Args:
        case: what both do.
        spec: the target.
        step_us: "gpu" and "npu" -> time of one step alone, for chains of about equal time.
        budget_s: for a program; this takes some.
        steps: of the faster one's shorter chain; all programs together hold twelve times their
            weights, several times over.
    """
    fastest = min(step_us.values())
    length = {device: max(1, round(steps * fastest / us)) for device, us in step_us.items()}
    on = {"gpu": _on_gpu, "npu": _on_npu}
    runs = {(d, n): compiled(chain(case, n * length[d]), spec, on[d]) for d in on for n in (1, 2)}
    for longer in on:
        gpu, npu = (length[device] * (2 if device == longer else 1) for device in ("gpu", "npu"))
        # The NPU is given its work first: it needs no more of the host.
        places = ["npu"] * npu + ["gpu"] * gpu
        runs[longer, 0] = compiled(chains(case, npu, gpu), spec, places.__getitem__)
    us = dict(zip(runs, in_turns_us(list(runs.values()), _LONGER * budget_s), strict=True))
    lost = {  # of the longer one's work, for all that the shorter one did alone
        longer: min(max(0.0, us[longer, 0] - us[longer, 2]) / us[shorter, 1], _MOST_LOST)
        for longer, shorter in (("gpu", "npu"), ("npu", "gpu"))
    }
    rest = 1 - lost["gpu"] * lost["npu"]
    return {device: max(0.05, (1 - loss) / rest) for device, loss in lost.items()}


def _on_gpu(_index: int) -> str:
    return "gpu"


def _on_npu(_index: int) -> str:
    return "npu"


def overheads(spec: SocSpec, budget_s: float) -> dict[str, dict[str, float]]:
    """Launches and waits: a tiny operator alone, in a chain, and products device after device.

    A run on the NPU is timed from its start until its end is seen: that is its submission, and
    seeing the end costs nothing more. Waits are those of devices at work side by side: what a step
    takes, of a chain of products that are cut and put together again, beyond half a product. The
    products are small: in a long one both devices slow each other down, which is no wait.
    """
    launch = chains_us(TINY, spec, ("gpu",), budget_s, long=33)["gpu"]
    add = Case((1, 8), lambda x: relax.op.add(x, x))
    op_us = chains_us(add, spec, ("npu",), budget_s, long=33)["npu"]
    one = chain(TINY, 1)
    runs = [
        compiled(one, spec, _on_gpu),
        compiled(one, spec, _on_npu),
        _exchange(spec, 1),
        _exchange(spec, 1 + _EXCHANGES),
    ]
    gpu_run, npu_run, begin, end = in_turns_us(runs, _LONGER * budget_s)
    wait = max(gpu_run - launch, 0.1)  # one kernel, then wait for it
    half = max(chains_us(SMALL_HALF, spec, ("gpu", "npu"), budget_s).values())
    way = max((end - begin) / _EXCHANGES - half - npu_run, wait)
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


def _exchange(spec: SocSpec, length: int) -> Callable[[], float]:
    """A chain of products by columns, of which each needs all of the one before."""
    mod = chain(SMALL, length)
    columns = SMALL.shape[1]
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
        for i, node in enumerate(read_program(mod))
    )
    cut = split_tensor(mod, Plan(ops=ops, predicted_us=0.0))
    return compiled_cut(cut.mod, spec, cut.region)


def memory_gbps(budget_s: float) -> tuple[float, float]:
    """Copying 64 MiB in one thread, and in each of two: bytes read and written, in GB/s."""
    pairs = [(np.ones(1 << 24, np.float32), np.empty(1 << 24, np.float32)) for _ in range(2)]

    def copying(threads: int) -> Callable[[], float]:
        def run() -> float:
            workers = [threading.Thread(target=np.copyto, args=(b, a)) for a, b in pairs[:threads]]
            start = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return time.perf_counter() - start

        return run

    one, two = in_turns_us([copying(1), copying(2)], budget_s)
    nbytes = 2 * pairs[0][0].nbytes
    return nbytes / one / 1e3, 2 * nbytes / two / 1e3
