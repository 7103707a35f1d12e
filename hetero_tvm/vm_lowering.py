"""From scheduled Relax to one shared library for TVM's virtual machine.

`lower_to_vm` and `compile_executable` are TVM's own passes and code generators; `export` links the
result. What is ours is the order, and that NPU regions travel as an imported module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar
from tvm.relax import transform
from tvm.support import cc

from hetero_tvm.cross_compiler import CrossCompiler, run_compiler
from hetero_tvm.errors import NoCompiler
from relay_passes.keep_gpu_share import KeepGpuShare
from relay_passes.lower_cpu import HOST_ATTR
from relay_passes.ordering import CheckOrder
from relay_passes.plan_memory import PlanMemory, npu_or_kernel
from relay_passes.share_tensors import ShareTensors
from relay_passes.start_npu_early import StartNpuEarly
from schedules.host_memory import host_memory_pipeline


def in_order(regions: Collection[str] = ()) -> list[tvm.ir.transform.Pass]:
    """The passes after which calls stand in the order in which they will run."""
    return [
        transform.RewriteDataflowReshape(),  # a reshape is a view from here on
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        StartNpuEarly(regions),
    ]


def with_memory(regions: Collection[str] = ()) -> list[tvm.ir.transform.Pass]:
    """The passes after `in_order` that give every tensor its memory."""
    return [
        transform.CallTIRRewrite(),
        # After ToNonDataflow, where order is program order and nothing is dropped as unused.
        PlanMemory(npu_or_kernel(regions, HOST_ATTR)),
    ]


def lower_to_vm(
    regions: Collection[str] = (), gpu_share: float = 1.0
) -> list[tvm.ir.transform.Pass]:
    """Relax passes from legalised, scheduled IR to virtual machine calls, in order.

    `regions`: symbols of the NPU's functions. `gpu_share`: of the GPU's time that is the program's.
    """
    return [
        *in_order(regions),
        *with_memory(regions),
        CheckOrder(npu_or_kernel(regions, HOST_ATTR)),
        KeepGpuShare(gpu_share),
        ShareTensors(),
        transform.LowerAllocTensor(),
        transform.KillAfterLastUse(),
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ]


def compile_executable(
    mod: IRModule,
    target: tvm.target.Target,
    npu_module: Any | None,
    regions: Collection[str] = (),
    gpu_share: float = 1.0,
) -> relax.VMExecutable:
    """Generate code. `npu_module` carries the NPU regions, called `regions`, None without any.

    `gpu_share`: of the GPU's time that is the program's, above 0 and at most 1.
    """
    if npu_module is not None:
        mod = mod.with_attr("external_mods", [npu_module])
    if not any(isinstance(func, tirx.PrimFunc) for func in mod.functions.values()):
        # Without any host code TVM packs everything into one C array, and compiling that takes a
        # hundred times as long and as much memory as the data.
        mod = IRModule({**mod.functions, GlobalVar("hetero_anchor"): _anchor()}, attrs=mod.attrs)
    return tvm.compile(
        mod,
        target=target,
        relax_pipeline=tvm.transform.Sequential(lower_to_vm(regions, gpu_share), name="LowerToVM"),
        tir_pipeline=host_memory_pipeline(),
    )


def _anchor() -> tirx.PrimFunc:
    """A host function that does nothing."""
    done = tirx.Evaluate(tirx.const(0, "int32"))
    return tirx.PrimFunc([], done).with_attrs(
        {"global_symbol": "hetero_anchor", "tirx.is_host_func": True, "tirx.is_scheduled": True}
    )


def opencl_modules(executable: relax.VMExecutable) -> list[tvm.runtime.Module]:
    """Those that hold its kernels."""
    imports = [device for module in executable.mod.imports for device in module.imports]
    return [device for device in imports if device.kind == "opencl"]


def opencl_source(executable: relax.VMExecutable) -> str:
    """The OpenCL C of all its kernels."""
    return "".join(device.inspect_source() for device in opencl_modules(executable))


def export(executable: relax.VMExecutable, path: Path, cross: CrossCompiler | None = None) -> None:
    """Link everything into the shared library `path`; `cross` links for another machine.

    Raises:
        EnvironmentProblem: no C++ compiler to link with.
    """
    if cross is not None:
        executable.export_library(
            str(path),
            fcompile=lambda out, files, **_: cross.run(
                [*cross.c, "-shared", "-fPIC", "-o", out, *files, *cross.link],
                what=f"linking for {cross.target.name}",
            ),
        )
        return
    compiler = cc.get_cc()
    if compiler is None or shutil.which(compiler) is None:
        raise NoCompiler(
            f"no C++ compiler to link {path.name} with (CXX={os.environ.get('CXX', '')!r}); "
            "install one (Debian: apt-get install g++) or point CXX at one"
        )
    executable.export_library(
        str(path), fcompile=lambda out, files, **_: _link(compiler, out, files)
    )


def _link(compiler: str, output: str, files: Sequence[str]) -> None:
    """Link `files` into a shared library."""
    command = [compiler, "-shared", "-fPIC", "-o", output, *files]
    run_compiler(command, what=f"linking with {compiler}")
