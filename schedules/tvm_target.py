"""The one place where a target spec becomes a TVM target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tvm

from schedules.aligned_vectors import LOCKSTEP_KEY
from schedules.image_reads import IMAGES_KEY
from target_specs.spec import GpuSpec


def tvm_target(gpu: GpuSpec, host: Mapping[str, Any] | None = None) -> tvm.target.Target:
    """OpenCL C for `gpu`, launched by LLVM code for `host`.

    `host` is a TVM target config such as `{"kind": "llvm", "mtriple": "aarch64-linux-android"}`;
    None means this machine's triple with its baseline instruction set.
    """
    return tvm.target.Target(
        _opencl(gpu), host=tvm.target.Target(dict(host) if host else {"kind": "llvm"})
    )


def target_text(gpu: GpuSpec) -> str:
    """`tvm_target(gpu)`, launched from this machine, as JSON that `tvm.target.Target` reads."""
    return json.dumps({**_opencl(gpu), "host": {"kind": "llvm"}})


def _opencl(gpu: GpuSpec) -> dict[str, Any]:
    return {
        "kind": "opencl",
        "keys": [
            *("opencl", "gpu"),
            *([LOCKSTEP_KEY] if gpu.wave_size > 1 else []),
            *([f"{IMAGES_KEY}{gpu.image_pixels}"] if gpu.image_pixels else []),
        ],
        "max_num_threads": gpu.max_work_group_size,
        "max_shared_memory_per_block": gpu.local_memory_bytes,
        # Not the wave size: TVM would leave out the barriers inside a wave, which OpenCL does
        # not allow, and which gives wrong sums where the same kernel runs on a CPU.
        "thread_warp_size": 1,
    }


def cpu_target(host: Mapping[str, Any] | None = None) -> tvm.target.Target:
    """LLVM alone, for evaluating a whole module on the CPU."""
    return tvm.target.Target(dict(host) if host else {"kind": "llvm"})
