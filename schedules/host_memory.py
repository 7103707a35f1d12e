"""The TIR pipeline of a build: plain indices, TVM's own, then what memory and portable half need.

TVM's code for the CPU refuses a tensor that says it lives on another device. Here CPU kernels are
handed tensors of the OpenCL device, whose address is one the CPU can read and write, so that one
check is taken out of CPU kernels; every other check of an argument stays.
"""

from __future__ import annotations

import re

import tvm
import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx
from tvm.ir.prim.expr import EQ
from tvm.ir.transform import PassContext
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx import compilation_pipeline

from schedules.aligned_vectors import AlignVectors
from schedules.code_pairs import with_code_pairs
from schedules.exact_constants import ExactConstants
from schedules.group_reduction import GroupReductions, with_functions
from schedules.image_reads import ImageReads, with_image_types
from schedules.infinities import InfiniteStarts
from schedules.store_half import StoreHalf

_SOURCE_HOOK = "tvm_callback_opencl_postproc"  # TVM's code generator calls it with each source
_NO_HALF_ERROR = re.compile(r'#else\n#error "Half precision[^\n]*\n(?=#endif)')
_CPU_DEVICE_TYPE = 1  # DLPack's kDLCPU
_STRUCT_DEVICE_TYPE = 10  # field number of DLTensor.device.device_type in `tvm_struct_get`


def host_memory_pipeline(*, native_half: bool = False) -> str:
    """The name to give to `tvm.compile(..., tir_pipeline=...)`; registers the pipeline.

    `native_half`: kernels may use OpenCL's `half` arithmetic and loads (the device must have
    `cl_khr_fp16`); otherwise half is only a storage format (see `schedules.store_half`).
    """
    name = "hetero_tvm_native_half" if native_half else "hetero_tvm"

    def factory() -> tuple:
        default, host, device = default_s_tir_pipeline()
        passes = [GroupReductions(), *_plain_indices(), default]
        passes += [AcceptUnifiedMemory(), InfiniteStarts(), ImageReads()]
        if not native_half:
            passes.append(StoreHalf())
        passes += [ExactConstants(), AlignVectors()]
        return tvm.transform.Sequential(passes, name=name), host, device

    compilation_pipeline.register_tir_pipeline(name, factory)
    tvm.register_global_func(_SOURCE_HOOK, _completed, override=True)
    return name


def _plain_indices() -> list[tvm.transform.Pass]:
    """Blocks become loops, as `default_s_tir_pipeline` begins too, and then indices simple.

    It vectorizes before it makes them simple, and takes vectors apart whose condition does not look
    like one for all lanes: rotations, whose halves are put together, ran at an eighth of the speed.
    Where it runs these passes again they find nothing left to do.
    """
    lowering = s_tir.transform
    return [
        lowering.CanonicalizeLoop(),
        lowering.LowerCrossThreadReduction(),
        lowering.LowerInitBlock(),
        lowering.PlanAndUpdateBufferAllocationLocation(),
        lowering.ConvertBlocksToOpaque(),
        lowering.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
    ]


def _completed(source: str, _target: tvm.target.Target) -> str:
    """`source` as the device's compiler can take it."""
    return with_functions(with_code_pairs(with_image_types(_allow_stored_half(source))))


def _allow_stored_half(source: str) -> str:
    """Let a kernel that only stores half build where half arithmetic is missing.

    TVM guards every source that mentions `half` with an `#error`; the use of the extension stays,
    and a kernel that computes in half is refused by the driver itself.
    """
    return _NO_HALF_ERROR.sub("", source)


@tvm.transform.module_pass(opt_level=0, name="AcceptUnifiedMemory")
class AcceptUnifiedMemory:
    """Replace `tensor.device_type == cpu` by true in functions that run on the CPU."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """GPU launchers compare with their own device type and are left alone."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is not None and target.kind.name == "llvm":
                result[name] = tvm_ffi.structural_map(func, (EQ, _accept))
        return result


def _accept(check: EQ) -> tirx.Expr:
    return tirx.const(True, "bool") if _is_cpu_check(check) else check


def _is_cpu_check(check: EQ) -> bool:
    get = check.a
    if not isinstance(get, ir.Call) or get.op != ir.Op.get("tirx.tvm_struct_get"):
        return False
    field, expected = get.args[2], check.b
    return (
        isinstance(expected, tirx.IntImm)
        and int(expected) == _CPU_DEVICE_TYPE
        and int(field) == _STRUCT_DEVICE_TYPE
    )
