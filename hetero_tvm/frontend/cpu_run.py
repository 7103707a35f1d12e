"""Compile a Relax module for this machine's CPU and run it: the import's own judge.

Kernels are fused and given the host schedule, because LLVM's code for loops as they come is far
too slow for real models; nothing here is meant for deployment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.s_tir import dlight
from tvm.target.codegen import llvm_get_system_cpu

from schedules.host import host_rules


def host_target() -> tvm.target.Target:
    """LLVM for the processor that we are running on."""
    return tvm.target.Target({"kind": "llvm", "mcpu": llvm_get_system_cpu()})


def run_on_cpu(
    mod: IRModule, names: Sequence[str], inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs of `main`; `names` gives the order in which it takes `inputs`."""
    machine = relax.VirtualMachine(compile_for_cpu(mod), tvm.cpu())
    results = machine["main"](*(tvm.runtime.tensor(inputs[name]) for name in names))
    return [result.numpy() for result in results]


def compile_for_cpu(mod: IRModule, relax_pipeline: Any = "default") -> relax.VMExecutable:
    """`mod` with fused kernels under the host schedule.

    `relax_pipeline`: what lowers it for the virtual machine.
    """
    target = host_target()
    with target:
        mod = tvm.transform.Sequential(
            [
                relax.transform.DecomposeOpsForInference(),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
                dlight.ApplyDefaultSchedule(*host_rules()),
            ]
        )(mod)
        return tvm.compile(mod, target=target, relax_pipeline=relax_pipeline)
