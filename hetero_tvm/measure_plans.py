"""The plan that is fastest where it runs: on this machine, every mode is built and timed.

A cost model can be wrong; a stopwatch on the machine itself is not. For the target `host` with
`--measure` the modes that the build may follow (GPU only, NPU only, layer level, split; those whose
plans differ) are compiled and run in turns on random inputs, and the fastest plan is followed.

Run in turns, because machines are noisy: what slows one round down hits all plans alike. Of each
plan the median counts; a plan must be better than a simpler one by more than a hundredth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import tvm
from tvm import relax

from hetero_tvm import frontend, runtime
from relay_passes.plan import Plan

ROUNDS = 11
_LEAST_S = 2.0  # short runs are repeated until all plans together took this long
_BETTER = 0.99  # of the simpler plan's time


def distinct(plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """The plans that place operators differently, each under its simplest mode."""
    return {mode: plans[mode] for mode in dict.fromkeys(simplest(plans).values())}


def simplest(plans: Mapping[str, Plan]) -> dict[str, str]:
    """Mode -> the first mode whose plan places operators in the same way."""
    placed = {mode: plan.places for mode, plan in plans.items()}
    return {mode: next(m for m in placed if placed[m] == placed[mode]) for mode in placed}


def time_plans(
    executables: Mapping[str, relax.VMExecutable], ranges: tuple[frontend.InputRange, ...]
) -> dict[str, float]:
    """Median time of a run of each, in µs, all run in turns."""
    runs = runners(executables, ranges)
    times: dict[str, list[float]] = {mode: [] for mode in runs}
    start = time.perf_counter()
    while len(times[next(iter(times))]) < ROUNDS or time.perf_counter() - start < _LEAST_S:
        for mode, run in runs.items():
            times[mode].append(run())
    return {mode: statistics.median(values) for mode, values in times.items()}


def runners(
    executables: Mapping[str, relax.VMExecutable], ranges: tuple[frontend.InputRange, ...]
) -> dict[str, Callable[[], float]]:
    """For each a function that runs it, warm, on the same random inputs; the time in µs."""
    device = runtime.open_opencl()
    drawn = frontend.draw_inputs(ranges, seed=0)
    inputs = [tvm.runtime.tensor(array, device) for array in drawn.values()]
    runs = {mode: _runner(executable, inputs) for mode, executable in executables.items()}
    for run in runs.values():
        run()
        run()
    return runs


def fastest(measured_us: Mapping[str, float]) -> str:
    """The mode to follow: of those listed, simplest first, the one that is clearly the fastest."""
    best = next(iter(measured_us))
    for mode, us in measured_us.items():
        if us < _BETTER * measured_us[best]:
            best = mode
    return best


def _runner(
    executable: relax.VMExecutable, inputs: list[tvm.runtime.Tensor]
) -> Callable[[], float]:
    main = relax.VirtualMachine(executable, runtime.open_opencl())["main"]

    def run() -> float:
        begin = time.perf_counter()
        main(*inputs)
        runtime.sync()
        return (time.perf_counter() - begin) * 1e6

    return run
