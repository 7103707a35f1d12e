"""How much work one Relax operator is: kind, multiply-accumulates, bytes.

MACs are exact for everything that multiplies matrices: matmul, convolutions and their transposes,
attention. They are 0 for the rest, whose time is in the bytes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal

from tvm import relax
from tvm.ir import GenericConst, GlobalVar, Op
from tvm.tirx import IntImm

from relay_passes.attention import ATTENTION, UPDATE_KV

Kind = Literal["matmul", "batched_matmul", "conv", "vector", "view"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a cost model needs to know of one operator; sizes as the model's dtypes have them."""

    kind: Kind
    # The operator that this is, or is a part of, in its program; for figures of this very one.
    name: str = dataclasses.field(default="", compare=False)
    macs: int = 0
    bytes: int = 0  # everything read and written: weights, activations, result
    weight_bytes: int = 0  # of `bytes`: constants
    cache_bytes: int = 0  # of `bytes`: a cache, of which only a run knows how much is filled
    score_bytes: int = 0  # between its products, where no kernel keeps them: written, then read
    output_bytes: int = 0  # of `bytes`: the result
    element_bytes: int = 4  # of one element of the result
    rows: int = 1  # of a matmul's left operand, per batch; an accelerator pads them
    depth: int = 0  # elements that one result of a matmul sums over; 0 where it is not one
    columns: int = 0  # of a matmul's right operand
    fuses: bool = False  # one element out per element in: runs inside its producer's kernel
    reduces: bool = False  # several steps per byte: softmax, norm, pool, depthwise convolution


# Nothing moves: the result is the operand's memory under another shape.
VIEWS = frozenset(
    f"relax.{name}" for name in ("reshape", "flatten", "squeeze", "expand_dims", "stop_gradient")
)

# Element-wise or an injective map of indices: TVM fuses them into their producer's kernel.
_FUSED = frozenset(
    f"relax.{name}"
    for name in """
    abs acos acosh asin asinh atan atanh bitwise_not ceil clip cos cosh erf exp floor isfinite isinf
    isnan log logical_not negative round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc
    add bitwise_and bitwise_or bitwise_xor divide equal floor_divide floor_mod greater greater_equal
    less less_equal log_add_exp logical_and logical_or logical_xor maximum minimum mod multiply
    not_equal power subtract left_shift right_shift astype where ewise_fma broadcast_to full
    full_like ones ones_like zeros zeros_like arange tril triu flip repeat tile permute_dims
    strided_slice take concat stack split one_hot layout_transform meshgrid quantize dequantize
    nn.relu nn.relu6 nn.leakyrelu nn.prelu nn.gelu nn.gelu_tanh nn.selu nn.silu nn.softplus nn.pad
    nn.pixel_shuffle
    """.split()
)

_REDUCTIONS = frozenset(
    f"relax.{name}"
    for name in """
    argmax argmin max mean min prod std sum variance median cumsum cumprod
    nn.softmax nn.log_softmax nn.layer_norm nn.group_norm nn.instance_norm nn.rms_norm nn.batch_norm
    nn.max_pool1d nn.max_pool2d nn.max_pool3d nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d
    nn.adaptive_avg_pool1d nn.adaptive_avg_pool2d nn.adaptive_avg_pool3d
    nn.cross_entropy_with_logits nn.nll_loss image.resize2d image.grid_sample
    """.split()
)


def op_work(call: relax.Call) -> Work:
    """The work of one call. Unknown operators count as memory traffic.

    What is not a tensor of static shape counts as nothing; import leaves none.
    """
    name = op_name(call)
    results = _tensor_types(call.ty)
    output = sum(_nbytes(ty) for ty in results)
    if name in VIEWS:
        return Work(kind="view", output_bytes=output)
    count = _MULTIPLIERS.get(name)
    kind, macs, rows, reduces = count(call) if count else ("vector", 0, 1, name in _REDUCTIONS)
    depth, columns = _inner_sizes(call) if name == "relax.matmul" else (0, 0)
    operands = list(tensor_args(call))
    weights = sum(_nbytes(arg.ty) for arg in operands if isinstance(arg, GenericConst))
    activations = sum(_nbytes(arg.ty) for arg in operands if not isinstance(arg, GenericConst))
    if name == UPDATE_KV:  # touches the rows that it writes, not the cache
        activations = output = _nbytes(call.args[1].ty)
    if name == "relax.take":  # reads what it picks, not the table
        index = call.args[1]
        activations, weights = output + _nbytes(index.ty), 0
    cache = scores = 0
    if name == ATTENTION:
        cache = sum(_nbytes(arg.ty) for arg in operands[1:3])
        (batch, heads, length, _), capacity = _shape(call.args[0]), _shape(call.args[1])[2]
        element = dtype_bytes(str(call.ty.dtype))
        scores = 2 * batch * heads * length * capacity * element
    return Work(
        kind=kind,
        macs=macs,
        bytes=weights + activations + output,
        weight_bytes=weights,
        cache_bytes=cache,
        score_bytes=scores,
        output_bytes=output,
        element_bytes=max((dtype_bytes(str(ty.dtype)) for ty in results), default=4),
        rows=rows,
        depth=depth,
        columns=columns,
        fuses=name in _FUSED,
        reduces=reduces,
    )


def op_name(call: relax.Call) -> str:
    """`relax.matmul`; `relax.call_tir` for a kernel of its own; a called function's own name."""
    if isinstance(call.op, Op):
        return str(call.op.name)
    return str(call.op.name_hint if isinstance(call.op, GlobalVar) else call.op)


def tensor_args(call: relax.Call) -> Iterator[relax.Expr]:
    """Operands that are tensors, those inside tuples included."""
    pending = list(call.args)
    while pending:
        arg = pending.pop(0)
        if isinstance(arg, relax.Tuple):
            pending[:0] = list(arg.fields)
        elif isinstance(arg.ty, relax.TensorType):
            yield arg


def static_shape(ty: relax.Type) -> tuple[int, ...] | None:
    """The tensor's shape, None where any of it is unknown."""
    shape = getattr(ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    dims = list(shape.values)  # once: each look into it is a call of TVM
    if not all(isinstance(dim, IntImm) for dim in dims):
        return None
    return tuple(int(dim.value) for dim in dims)


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element; `bool` and everything below a byte count as one."""
    digits = "".join(c for c in dtype if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1


def _tensor_types(ty: relax.Type) -> list[relax.TensorType]:
    if isinstance(ty, relax.TupleType):
        return [leaf for field in ty.fields for leaf in _tensor_types(field)]
    return [ty] if isinstance(ty, relax.TensorType) else []


def _nbytes(ty: relax.TensorType) -> int:
    shape = static_shape(ty)
    return math.prod(shape) * dtype_bytes(str(ty.dtype)) if shape is not None else 0


Count = tuple[Kind, int, int, bool]  # kind, macs, rows, reduces


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    shape = static_shape(expr.ty)
    return shape if shape is not None else (0, 0, 0, 0)


def _matmul(call: relax.Call) -> Count:
    lhs, rhs = call.args  # [.., M, K] x [.., K, N]
    depth = _shape(lhs)[-1]
    constant = isinstance(lhs, GenericConst) or isinstance(rhs, GenericConst)
    kind: Kind = "matmul" if constant else "batched_matmul"
    left = _shape(lhs)
    # A weight on the right serves all leading dimensions at once: they are rows too.
    weight_right = isinstance(rhs, GenericConst) and len(_shape(rhs)) <= 2
    rows = math.prod(left[:-1]) if weight_right else (left[-2] if len(left) > 1 else 1)
    return kind, math.prod(_shape(call)) * depth, rows, False


def _inner_sizes(call: relax.Call) -> tuple[int, int]:
    """Depth and columns of a matmul; a vector on the right is one column."""
    lhs, rhs = call.args
    return _shape(lhs)[-1], _shape(rhs)[-1] if len(_shape(rhs)) > 1 else 1


def _conv(call: relax.Call) -> Count:
    weight = call.args[1]
    kernel = str(call.attrs.kernel_layout)
    outputs, inputs = kernel.index("O"), kernel.index("I")
    per_output = math.prod(_shape(weight)) // _shape(weight)[outputs]
    macs = math.prod(_shape(call)) * per_output
    depthwise = _shape(weight)[inputs] == 1 and int(call.attrs.groups) > 1
    pixels = math.prod(_shape(call)) // _shape(weight)[outputs]
    return "conv", macs, pixels, depthwise


def _conv_transpose(call: relax.Call) -> Count:
    data, weight = call.args[:2]
    kernel = str(call.attrs.kernel_layout)
    inputs, outputs = kernel.index("I"), kernel.index("O")
    per_input = math.prod(_shape(weight)) // _shape(weight)[inputs]
    macs = math.prod(_shape(data)) * per_input
    depthwise = _shape(weight)[outputs] == 1 and int(call.attrs.groups) > 1
    return "conv", macs, math.prod(_shape(data)) // _shape(weight)[inputs], depthwise


def _attention(call: relax.Call) -> Count:
    query, key, value = (_shape(arg) for arg in call.args[:3])  # [B, S, H, D]
    batch, length, heads, depth = query
    macs = batch * heads * length * key[1] * (depth + value[3])
    return "batched_matmul", macs, length, False


def _cached_attention(call: relax.Call) -> Count:
    """As if the cache were full: how much of it is (`Work.cache_bytes`), only a run knows."""
    query, key, value = (_shape(arg) for arg in call.args[:3])  # [B, H, S or C, D]
    batch, heads, length, depth = query
    macs = batch * heads * length * key[2] * (depth + value[3])
    return "batched_matmul", macs, length, False


_MULTIPLIERS: dict[str, Callable[[relax.Call], Count]] = {
    ATTENTION: _cached_attention,
    "relax.matmul": _matmul,
    "relax.nn.conv1d": _conv,
    "relax.nn.conv2d": _conv,
    "relax.nn.conv3d": _conv,
    "relax.nn.conv1d_transpose": _conv_transpose,
    "relax.nn.conv2d_transpose": _conv_transpose,
    "relax.nn.conv3d_transpose": _conv_transpose,
    "relax.nn.attention": _attention,
    "relax.nn.attention_bias": _attention,
}
