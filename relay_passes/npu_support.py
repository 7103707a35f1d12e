"""Which Relax operators the NPU takes, and the reason whenever it does not.

One rule per operator, by types, shapes and attributes. What HTP takes was found by compiling each
operator on Qualcomm's x86 simulator and comparing its numbers: some forms are refused, others are
accepted and computed wrongly, and those are declined just the same. `npu_onnx.EMITTERS` holds one
emitter for each rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, Op

from relay_passes.attention import ATTENTION, UPDATE_KV
from relay_passes.constants import values_of
from relay_passes.npu_onnx.graph import int_list, shape_of
from relay_passes.npu_onnx.shaping import slice_bounds
from relay_passes.op_work import tensor_args
from target_specs.spec import NpuSpec

Rule = Callable[[relax.Call, NpuSpec], str | None]
"""None = accepted, else one sentence: why not."""

_RULES: dict[str, tuple[frozenset[str], Rule]] = {}

_FLOATS = frozenset({"float16", "float32"})
_NUMBERS = _FLOATS | {"int32"}
_ANYTHING = _NUMBERS | {"bool"}

_FLOAT16_MAX = 65504.0
_FLOAT16_TINY = 2.0**-24
_MASK = 1e30  # so far beyond anything computed that only masks hold it
# What one process may map on the Hexagon, as Qualcomm's HTP compiler 2.51 logs it
# (memory_alloc_limit 3584 MB).
WINDOW_BYTES = 3584 << 20
_LARGEST_DIVISOR = 2.0**14  # beyond it 1/x is subnormal in float16, and HTP divides by 1/x

_RESIZE_NEAREST = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}
_RESIZE_LINEAR = {"half_pixel", "align_corners", "asymmetric"}
_EXACT_CASTS = {
    ("float16", "float32"),
    ("float32", "float16"),
    ("int32", "float32"),
    ("int32", "float16"),
    ("bool", "float32"),
    ("bool", "float16"),
    ("bool", "int32"),
}


def supported_ops() -> frozenset[str]:
    """Names of the operators that have a rule."""
    return frozenset(_RULES)


def is_half_inside(npu: NpuSpec) -> bool:
    """Does this NPU keep values in float16 whatever their declared type? HTP does."""
    return npu.provider == "qnn"


def window_bytes(npu: NpuSpec) -> int | None:
    """What one of the NPU's processes can address; None: as much as there is."""
    if npu.window_mb is not None:
        return npu.window_mb << 20
    return WINDOW_BYTES if npu.provider == "qnn" else None


def held_bytes(constant: GenericConst, npu: NpuSpec) -> int:
    """What a constant takes on the NPU."""
    nbytes = int(values_of(constant).nbytes)
    half = is_half_inside(npu) and str(constant.ty.dtype) == "float32"
    return nbytes // 2 if half else nbytes


# Where a graph is not the way.
_NEVER = {UPDATE_KV: "it writes its operand in place, which an NPU's graph cannot"}


def decline_reason(call: relax.Call, npu: NpuSpec) -> str | None:
    """Why `call` must not go to the NPU; None when it may."""
    name = call.op.name if isinstance(call.op, Op) else "a call of a TIR function"
    if name in _NEVER:
        return _NEVER[name]
    if name not in _RULES:
        return f"no NPU rule for {name}"
    dtypes, rule = _RULES[name]
    tensors = [ty for expr in (*call.args, call) for ty in _tensor_types(expr.ty)]
    return (
        _decline_types(tensors, npu)
        or _decline_dtypes(call, dtypes, npu)
        or (_decline_constants(call) if is_half_inside(npu) else None)
        or rule(call, npu)
        or _decline_size(call, npu)
    )


def _decline_size(call: relax.Call, npu: NpuSpec) -> str | None:
    """One operator cannot be cut into several regions."""
    limit = window_bytes(npu)
    if limit is None:
        return None
    constants = {arg for arg in tensor_args(call) if isinstance(arg, GenericConst)}
    held = sum(held_bytes(arg, npu) for arg in constants)
    if held > limit:
        return (
            f"its constants, {held / 1e6:.0f} MB, do not fit into the {limit / 1e6:.0f} MB that "
            "one of the NPU's processes can address"
        )
    return None


def _tensor_types(ty: relax.Type) -> Iterable[relax.TensorType]:
    if isinstance(ty, relax.TensorType):
        yield ty
    elif isinstance(ty, relax.TupleType):
        for field in ty.fields:
            yield from _tensor_types(field)


def _decline_types(tensors: list[relax.TensorType], npu: NpuSpec) -> str | None:
    for ty in tensors:
        dims = ty.shape.values if isinstance(ty.shape, relax.ShapeExpr) else None
        if dims is None or not all(hasattr(dim, "value") for dim in dims):
            return "a shape is not known at compile time, and NPU graphs are static"
        if len(dims) > npu.max_rank:
            return f"rank {len(dims)} is above {npu.max_rank}"
        if any(int(dim) == 0 for dim in dims):
            return "a tensor is empty"
    return None


def _decline_dtypes(call: relax.Call, dtypes: frozenset[str], npu: NpuSpec) -> str | None:
    for expr in call.args:
        # Constant indices are rewritten as int32, whatever they are here.
        if isinstance(expr, GenericConst) and _is_index(call, expr):
            continue
        for ty in _tensor_types(expr.ty):
            dtype = str(ty.dtype)
            if dtype not in npu.dtypes:
                why = " (an int64 look-up costs 50 times an int32 one)" if dtype == "int64" else ""
                return f"{dtype} tensors stay off the NPU{why}"
            if dtype not in dtypes and not _is_index(call, expr):
                return f"{dtype} is not taken here, only {', '.join(sorted(dtypes))}"
    return None


def _is_index(call: relax.Call, expr: relax.Expr) -> bool:
    return call.op.name == "relax.take" and expr.same_as(call.args[1])


def _decline_constants(call: relax.Call) -> str | None:
    """Float16 has no numbers above 65504, and none but 0 below 6e-8."""
    for expr in call.args:
        if not isinstance(expr, GenericConst) or str(expr.ty.dtype) not in _FLOATS:
            continue
        value = values_of(expr)
        if np.isnan(value).any():
            return "a constant is not a number"
        largest = float(np.abs(value).max())
        if _FLOAT16_MAX < largest < _MASK:
            return f"a constant of {largest:.3g} is beyond float16, in which the NPU computes"
        if value.size == 1 and 0 < largest < _FLOAT16_TINY:
            return f"a constant of {largest:.3g} would be 0 in float16, in which the NPU computes"
    return None


def rule(*ops: str, dtypes: frozenset[str] = _FLOATS) -> Callable[[Rule], Rule]:
    """Enter the decorated rule for `ops`; their tensor arguments must be of `dtypes`."""

    def register(check: Rule) -> Rule:
        for op in ops:
            assert op not in _RULES, f"second NPU rule for {op}"
            _RULES[op] = (dtypes, check)
        return check

    return register


def _accept(_call: relax.Call, _npu: NpuSpec) -> str | None:
    return None


for _dtypes, _ops in (
    (
        _FLOATS,
        "matmul exp log sqrt rsqrt tanh sigmoid erf negative floor ceil nn.relu nn.leakyrelu "
        "nn.gelu nn.gelu_tanh nn.silu nn.softmax nn.log_softmax mean variance",
    ),
    (_NUMBERS, "add subtract multiply maximum minimum abs square sum max min"),
    (_ANYTHING, "reshape flatten expand_dims squeeze permute_dims broadcast_to concat stack split"),
    (frozenset({"bool"}), "logical_and logical_or logical_not"),
):
    rule(*(f"relax.{_op}" for _op in _ops.split()), dtypes=_dtypes)(_accept)


@rule("relax.divide")
def _divide(call: relax.Call, npu: NpuSpec) -> str | None:
    divisor = call.args[1]
    if not is_half_inside(npu) or not isinstance(divisor, GenericConst):
        return None
    largest = float(np.abs(values_of(divisor)).max())
    if largest > _LARGEST_DIVISOR:
        return f"1/{largest:.3g} is too small for float16, in which the NPU divides"
    return None


@rule("relax.power")
def _power(call: relax.Call, _npu: NpuSpec) -> str | None:
    exponent = call.args[1]
    if not isinstance(exponent, GenericConst) or values_of(exponent).size != 1:
        return "the exponent is not one constant"
    return None


@rule("relax.clip", dtypes=_NUMBERS)
def _clip(call: relax.Call, npu: NpuSpec) -> str | None:
    limits = [abs(float(limit.value)) for limit in call.args[1:]]
    if is_half_inside(npu) and any(0 < limit < _FLOAT16_TINY for limit in limits):
        return f"the limit {min(limits):.3g} would be 0 in float16, in which the NPU computes"
    return None


@rule("relax.astype", dtypes=_ANYTHING)
def _astype(call: relax.Call, _npu: NpuSpec) -> str | None:
    pair = (str(call.args[0].ty.dtype), str(call.ty.dtype))
    if pair not in _EXACT_CASTS:
        return f"the NPU does not convert {pair[0]} to {pair[1]} exactly"
    return None


@rule("relax.where", dtypes=_ANYTHING)
def _where(call: relax.Call, _npu: NpuSpec) -> str | None:
    dtype = str(call.ty.dtype)
    return None if dtype in _NUMBERS else f"{dtype} values cannot be selected"


@rule(
    *(f"relax.{op}" for op in ("equal", "not_equal", "less", "less_equal")),
    *(f"relax.{op}" for op in ("greater", "greater_equal")),
    dtypes=_NUMBERS,
)
def _compare(call: relax.Call, npu: NpuSpec) -> str | None:
    if is_half_inside(npu) and str(call.args[0].ty.dtype) == "float32":
        return "float16, in which the NPU computes, can turn a comparison of float32 values over"
    return None


@rule("relax.argmax")
def _argmax(call: relax.Call, npu: NpuSpec) -> str | None:
    if call.attrs.axis is None:
        return "argmax over the flattened tensor has no ONNX form"
    if is_half_inside(npu) and str(call.args[0].ty.dtype) == "float32":
        return "float16, in which the NPU computes, can make another element the largest"
    return None


@rule("relax.take", dtypes=_NUMBERS)
def _take(call: relax.Call, npu: NpuSpec) -> str | None:
    data, index = call.args
    axis = call.attrs.axis
    if axis is None and data.ty.ndim != 1:
        return "a look-up in the flattened tensor has no ONNX form"
    if isinstance(index, GenericConst):
        length = shape_of(data)[0 if axis is None else int(axis)]
        values = values_of(index)
        inside = bool((values >= 0).all() and (values < length).all())
        return None if inside else "a constant index is outside the tensor"
    if str(call.attrs.mode) != "fast":
        return f"a run-time look-up in mode {call.attrs.mode} has no ONNX form"
    if is_half_inside(npu) and axis is not None and int(axis) != 0:
        return "HTP computes run-time look-ups on inner axes wrongly"
    return None


@rule("relax.strided_slice", dtypes=_ANYTHING)
def _strided_slice(call: relax.Call, _npu: NpuSpec) -> str | None:
    for argument in call.args[1:]:
        fields = getattr(argument, "fields", None)
        if fields is None or not all(hasattr(field, "value") for field in fields):
            return "the bounds are not constant"
    if len(call.args) > 4 and min(int_list(call.args[4]), default=1) < 1:
        return "a negative stride"
    assert slice_bounds(call)
    return None


@rule("relax.nn.pad")
def _pad(call: relax.Call, _npu: NpuSpec) -> str | None:
    if str(call.attrs.pad_mode) != "constant":
        return f"padding mode {call.attrs.pad_mode} is not taken"
    if min(int_list(call.attrs.pad_width)) < 0:
        return "negative padding"
    return None


@rule("relax.nn.layer_norm", "relax.nn.rms_norm")
def _last_axis_norm(call: relax.Call, _npu: NpuSpec) -> str | None:
    rank = call.args[0].ty.ndim
    if [axis % rank for axis in int_list(call.attrs.axes)] != [rank - 1]:
        return "HTP normalises over the last axis only"
    return None if rank <= 4 else f"rank {rank} is above 4, HTP's limit for norms"


@rule("relax.nn.batch_norm")
def _batch_norm(call: relax.Call, _npu: NpuSpec) -> str | None:
    if bool(call.attrs.training):
        return "batch normalisation in training mode"
    if int(call.attrs.axis) != 1:
        return f"channels on axis {call.attrs.axis}, not 1"
    if not all(isinstance(parameter, GenericConst) for parameter in call.args[1:]):
        return "the statistics are not constant"
    rank = call.args[0].ty.ndim
    return None if 2 <= rank <= 4 else f"rank {rank} is above 4, HTP's limit for batch norms"


def _decline_layouts(call: relax.Call, **wanted: str) -> str | None:
    for key, layout in wanted.items():
        if str(getattr(call.attrs, key)) != layout:
            return f"{key} {getattr(call.attrs, key)}, not {layout}"
    return None


def _decline_out_dtype(call: relax.Call) -> str | None:
    if str(call.ty.dtype) != str(call.args[0].ty.dtype):
        return f"an output type ({call.ty.dtype}) other than the input's"
    return None


@rule("relax.nn.conv1d")
def _conv1d(call: relax.Call, _npu: NpuSpec) -> str | None:
    layouts = {"data_layout": "NCW", "kernel_layout": "OIW", "out_layout": "NCW"}
    return _decline_layouts(call, **layouts) or _decline_out_dtype(call)


@rule("relax.nn.conv2d")
def _conv2d(call: relax.Call, _npu: NpuSpec) -> str | None:
    layouts = {"data_layout": "NCHW", "kernel_layout": "OIHW", "out_layout": "NCHW"}
    return _decline_layouts(call, **layouts) or _decline_out_dtype(call)


@rule("relax.nn.conv2d_transpose")
def _conv2d_transpose(call: relax.Call, _npu: NpuSpec) -> str | None:
    layouts = {"data_layout": "NCHW", "kernel_layout": "IOHW", "out_layout": "NCHW"}
    if int_list(call.attrs.dilation) != [1, 1]:
        return "HTP refuses a dilated transposed convolution"
    ends = int_list(call.attrs.padding)[2:]  # of [top, left, bottom, right]
    extra = int_list(call.attrs.output_padding)
    if any(more > end for more, end in zip(extra, ends, strict=True)):
        return "HTP leaves what lies behind the last window unwritten (output_padding)"
    return _decline_layouts(call, **layouts) or _decline_out_dtype(call)


@rule("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
def _pool2d(call: relax.Call, _npu: NpuSpec) -> str | None:
    attrs = call.attrs
    if int_list(attrs.dilation) != [1, 1]:
        return "HTP refuses a dilated pool"
    pads = int_list(attrs.padding)  # [top, left, bottom, right]
    window, strides = int_list(attrs.pool_size), int_list(attrs.strides)
    for axis in (0, 1):
        room = shape_of(call.args[0])[2 + axis] + pads[axis] + pads[2 + axis] - window[axis]
        if room // strides[axis] + 1 != shape_of(call)[2 + axis]:
            return "HTP computes windows beyond the edge (ceil_mode) wrongly"
    # Right for some shapes; for others whole results are garbage, other ones each time, or the
    # simulator crashes ([1, 8, 28, 28], window 3, stride 2, padding 1, the padding not counted).
    if str(call.op.name) == "relax.nn.avg_pool2d" and any(pads):
        return "HTP computes padded average pools wrongly"
    return _decline_layouts(call, layout="NCHW", out_layout="NCHW")


@rule("relax.nn.adaptive_avg_pool2d")
def _adaptive_avg_pool2d(call: relax.Call, _npu: NpuSpec) -> str | None:
    pairs = zip(shape_of(call.args[0])[2:], shape_of(call)[2:], strict=True)
    if any(size % cells for size, cells in pairs):
        return "the windows differ in size"
    return _decline_layouts(call, layout="NCHW", out_layout="NCHW")


@rule("relax.image.resize2d")
def _resize2d(call: relax.Call, _npu: NpuSpec) -> str | None:
    attrs = call.attrs
    coordinates = str(attrs.coordinate_transformation_mode)
    if attrs.method == "nearest_neighbor":
        if (coordinates, str(attrs.rounding_method)) not in _RESIZE_NEAREST:
            return f"HTP computes nearest {coordinates}/{attrs.rounding_method} wrongly"
    elif attrs.method != "linear" or coordinates not in _RESIZE_LINEAR:
        return f"{attrs.method} {coordinates} resizing is not taken"
    return _decline_layouts(call, layout="NCHW") or _decline_out_dtype(call)


@rule(ATTENTION, dtypes=_NUMBERS)
def _cached_attention(call: relax.Call, _npu: NpuSpec) -> str | None:
    if shape_of(call.args[0])[2] == 1:
        return (
            "an NPU's graph is static: for one token it would read the whole cache, however little "
            "is in it"
        )
    return None


@rule("relax.nn.attention", "relax.nn.attention_bias")
def _attention(call: relax.Call, _npu: NpuSpec) -> str | None:
    if call.attrs.window_size is not None:
        return "attention with a sliding window"
    if call.attrs.causal_mask not in (None, "TopLeft", "BottomRight"):
        return f"the causal mask {call.attrs.causal_mask} is not known"
    if len({shape_of(operand)[2] for operand in call.args[:3]}) != 1:
        return "heads shared between queries"
    return None
