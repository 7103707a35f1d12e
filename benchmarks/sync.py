"""What handing over from one device to the other costs, with polling and with clFinish.

    python benchmarks/sync.py [--work-us 20] [--rounds 300] [--json]

Latency is the time between two moments: the last store of the producer's work, and the first
instruction of the consumer's.

    GPU to NPU   the kernel's last store, seen by this thread, which polls it in shared memory
                 ... until the NPU job's own stamp of the steady clock at its beginning
    NPU to GPU   the NPU job's stamp at its end
                 ... until the kernel's first store, seen by this thread

Whatever stands between is in it: waiting, waking up, launching a kernel. `driver_us` is the part
of NPU to GPU that begins when the launching call has returned: the driver's own start of a kernel.
Where the GPU is a driver on this processor, clFinish runs the kernel in the waiting thread itself,
so that the consumer may begin before another thread sees the end: a latency below zero.

Both ways of waiting run in turn, in one process. With OpenCL on this processor the fast way blocks
in clWaitForEvents, unless HETERO_POLL_CPU=1 lets it poll as for a real GPU. The NPU is the
runtime's null provider, a sleep;
the GPU is the OpenCL device of this machine, with a kernel of about `--work-us` too. Needs
fine-grain SVM, since a host that polls what a kernel writes is the point.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "runtime"))
from runtime_harness import INT32, POINTER, Region, Spec, X, opencl_module  # noqa: E402

from hetero_tvm import runtime  # noqa: E402

WARM_UP = 20
LIMIT_S = 10
KERNEL = """
__kernel void work(__global volatile int* flags, int rounds) {
  flags[0] = 1;
  float slow = 0.0f;
  for (int k = 0; k < rounds; ++k) slow = slow * 0.5f + flags[2];
  flags[1] = slow == 12345.678f ? 2 : 1;
}
"""


class Pair:
    """A GPU kernel and an NPU job, each about `work_us` long, with their moments in memory."""

    def __init__(self, work_us: float) -> None:
        device = runtime.open_opencl()
        (about,) = [entry for entry in runtime.opencl_devices() if entry["selected"]]
        if about["memory"] != "svm":
            raise SystemExit(f"{about['name']} has no fine-grain SVM, which this needs")
        self.name = about["name"]
        import tvm

        zeros = np.zeros(16, "int32")
        self.tensors = [tvm.runtime.tensor(zeros, device) for _ in range(3)]
        addresses = [runtime.host_view(tensor).ctypes.data for tensor in self.tensors]
        flags, _, stamps = addresses
        self.flags = (ctypes.c_int32 * 16).from_address(flags)
        self.stamps = (ctypes.c_int64 * 2).from_address(stamps)
        self.kernel = opencl_module({"work": ((POINTER, INT32), X)}, {"work": KERNEL})["work"]
        spec = (Spec("x", "int32", (16,)),)
        options = {"latency_us": str(int(work_us)), "stamp": "1"}
        region = Region("job", b"", spec, spec)
        self.job = runtime.npu_module([region], "null", options)["job"]
        self.rounds = 1000
        self.rounds = max(1, int(1000 * work_us / self._time_of_kernel_us()))

    def _time_of_kernel_us(self) -> float:
        times = []
        for _ in range(50):
            started = time.perf_counter_ns()
            self.launch()
            runtime.gpu_wait()
            times.append((time.perf_counter_ns() - started) / 1e3)
        return min(times)

    def launch(self) -> None:
        """Put the kernel into the GPU's queue."""
        self.kernel(self.tensors[0], self.rounds, 1, 1)

    def run_job(self) -> None:
        """Give the job to the NPU's worker."""
        self.job(self.tensors[1], self.tensors[2])

    def seen(self, flag: int) -> int:
        """When a flag of the kernel's was seen to be set, in ns of the steady clock."""
        limit = time.perf_counter_ns() + LIMIT_S * 10**9
        while self.flags[flag] == 0:
            os.sched_yield()
            if time.perf_counter_ns() > limit:
                raise SystemExit("the kernel's stores never became visible to the host")
        return time.perf_counter_ns()


def gpu_to_npu_us(pair: Pair) -> float:
    pair.flags[0] = pair.flags[1] = 0
    pair.launch()
    runtime.wait("npu", "gpu")
    pair.run_job()
    ended = pair.seen(1)
    runtime.wait("cpu", "npu")
    return (pair.stamps[0] - ended) / 1e3


def npu_to_gpu_us(pair: Pair) -> tuple[float, float]:
    """Latency, and the driver's part of it."""
    pair.flags[0] = pair.flags[1] = 0
    pair.run_job()
    runtime.wait("gpu", "npu")
    ended = pair.stamps[1]
    pair.launch()
    runtime.wait("npu", "gpu")  # tells the driver to go on, as the next hand-over would
    launched = time.perf_counter_ns()
    began = pair.seen(0)
    runtime.sync()
    return (began - ended) / 1e3, (began - launched) / 1e3


def measure(work_us: float, rounds: int) -> dict:
    """Every way and direction in turn: {direction: {way: {median_us, p99_us}}}."""
    runtime.configure_sync(implicit_waits=False)
    pair = Pair(work_us)
    to_npu: dict[str, list[float]] = {"fast": [], "slow": []}
    to_gpu: dict[str, list[tuple[float, float]]] = {"fast": [], "slow": []}
    for round_number in range(rounds + WARM_UP):
        for way in ("fast", "slow"):
            runtime.configure_sync(fast=way == "fast")
            latencies = gpu_to_npu_us(pair), npu_to_gpu_us(pair)
            if round_number >= WARM_UP:
                to_npu[way].append(latencies[0])
                to_gpu[way].append(latencies[1])
    return {
        "device": pair.name,
        "work_us": work_us,
        "rounds": rounds,
        "gpu_to_npu": {way: summary(values) for way, values in to_npu.items()},
        "npu_to_gpu": {
            way: {
                **summary([whole for whole, _ in values]),
                "driver_us": round(statistics.median(driver for _, driver in values), 1),
            }
            for way, values in to_gpu.items()
        },
    }


def summary(values: list[float]) -> dict[str, float]:
    return {
        "median_us": round(statistics.median(values), 1),
        "p99_us": round(float(np.percentile(values, 99)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-us", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.work_us, args.rounds)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['device']}, work of {args.work_us:.0f} us, {args.rounds} rounds each")
    print(f"{'':12}{'fast: median':>14}{'p99':>9}{'clFinish: median':>19}{'p99':>9}   in us")
    for direction in ("gpu_to_npu", "npu_to_gpu"):
        fast, slow = result[direction]["fast"], result[direction]["slow"]
        print(
            f"{direction.replace('_', ' '):12}{fast['median_us']:14}{fast['p99_us']:9}"
            f"{slow['median_us']:19}{slow['p99_us']:9}"
        )
    driver = result["npu_to_gpu"]["fast"]["driver_us"]
    print(f"of npu to gpu the driver's own start of a kernel takes {driver} us (fast, median)")


if __name__ == "__main__":
    main()
