"""Which Relax ops the OpenCL path takes, and the reason whenever it does not."""

from __future__ import annotations

from tvm import relax
from tvm.ir import Op

from relay_passes.op_work import op_name, static_shape, tensor_args
from target_specs.spec import GpuSpec

_DTYPES = frozenset(
    "float32 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
)  # and float16 where the device computes in it

# Kernels that TVM builds as one serial loop nest or calls from a host library.
_SERIAL = frozenset(
    f"relax.{name}"
    for name in """
    sort argsort topk unique nonzero cumsum cumprod searchsorted bucketize multinomial_from_uniform
    scatter_elements scatter_nd index_put slice_scatter
    vision.non_max_suppression vision.all_class_non_max_suppression vision.get_valid_counts
    """.split()
)
_FOREIGN = frozenset(
    f"relax.{name}"
    for name in "call_dps_packed call_pure_packed call_py_func call_inplace_packed print".split()
)


def decline_reason(call: relax.Call, gpu: GpuSpec) -> str | None:
    """Why `call` must not go to the GPU; None when it may."""
    name = op_name(call)
    if not isinstance(call.op, Op) or name in _FOREIGN:
        return f"{name} is a function outside the compiler"
    if name in _SERIAL:
        return f"{name} has no parallel kernel: it is a serial loop or a host library's"
    return _type_reason(call, gpu) or _kernel_reason(call, name)


def _type_reason(call: relax.Call, gpu: GpuSpec) -> str | None:
    results = [call.ty]
    while results and isinstance(results[0], relax.TupleType):
        results = [*results[0].fields, *results[1:]]
    for ty in [*(arg.ty for arg in tensor_args(call)), *results]:
        if not isinstance(ty, relax.TensorType):
            return "its result is not a tensor"
        if static_shape(ty) is None:
            return "dynamic shape"
        dtype = str(ty.dtype)
        if dtype == "float16" and not gpu.half:
            return f"float16: {gpu.name} does not compute in it"
        if dtype not in _DTYPES and dtype != "float16":
            return f"dtype {dtype}"
    return None


def _kernel_reason(call: relax.Call, name: str) -> str | None:
    if name == "relax.call_tir" or call.op.get_attr("FLegalize") is not None:
        return None
    return f"TVM has no kernel for {name}"
