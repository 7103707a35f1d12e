"""Move convolutions and what stands between them to channels-last layout.

    conv2d[NCHW](x, w)          ->  permute(conv2d[NHWC](permute(x), w))
    conv1d[NCW](x, w)           ->  the same with a height of one
    permute[to NCHW](x)         ->  x, for those that take it channels last
    f(permute(a), permute(b))   ->  permute(f(a, b))       f element-wise, pooling, resize, concat,
                                                           a mean over height and width

Channels last, every vector of a convolution, a window or a bias lies contiguously in memory
whatever the stride and the width of the image. Permutations that meet cancel; one is left only
where a value enters from, or leaves to, an operator that is not in the table.

Requires: static shapes; batch norms decomposed.
Ensures:  every conv1d and conv2d with a known rank is an NHWC conv2d; types of `main` unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.ir.expr import GenericConst
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import PyExprMutator, mutator

from relay_passes.constants import values_of

_TO_LAST = (0, 2, 3, 1)  # NCHW -> NHWC
_TO_FIRST = (0, 3, 1, 2)  # NHWC -> NCHW
# Axis of an NCHW tensor -> axis of its NHWC twin.
_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}

_UNARY = (
    "abs acos asin astype atan ceil clip cos cosh erf exp floor isfinite isinf isnan log negative "
    "nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.silu nn.softplus round rsqrt sigmoid sign sin "
    "sinh sqrt square tan tanh trunc"
).split()
_BROADCAST = (
    "add divide equal floor_divide floor_mod greater greater_equal less less_equal logical_and "
    "logical_or maximum minimum mod multiply not_equal power subtract where"
).split()


@tvm.transform.module_pass(opt_level=0, name="ChannelsLast")
class ChannelsLast:
    """Give every 4-D value between convolutions a channels-last twin and drop the original."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite `main`; other functions (NPU regions) keep their layout."""
        rewritten = _Rewriter(mod).visit_expr(mod["main"])
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        result["main"] = relax.analysis.remove_all_unused(rewritten)
        return result


@mutator
class _Rewriter(PyExprMutator):
    """Keeps, for some variables of the old function, their channels-last value in the new one."""

    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self.twins: dict[relax.Var, relax.Var] = {}  # old NCHW var -> new NHWC var
        self.moved: set[relax.Var] = set()  # old vars of which only the twin exists so far
        self.unmade: set[relax.Var] = set()  # of `moved`, whose twin has another's name
        self.restored: dict[relax.Var, relax.Var] = {}  # old moved var -> new NCHW var

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Rewrite one binding; the twin takes over its name."""
        var, value = binding.var, binding.value
        handler = _HANDLERS.get(value.op) if isinstance(value, relax.Call) else None
        result = handler(self, value) if handler else None
        if result is None:
            super().visit_var_binding_(binding)
        elif isinstance(result, _Twin) and isinstance(var, relax.DataflowVar):
            self.twins[var] = result.value
            self.moved.add(var)
            self.unmade.add(var)
        elif isinstance(result, _Twin):
            super().visit_var_binding_(binding)
        elif isinstance(result, _Plain):
            super().visit_var_binding_(relax.VarBinding(var, result.expr))
        elif isinstance(var, relax.DataflowVar):
            self.twins[var] = self.builder_.emit(result, var.name)
            self.moved.add(var)
        else:  # a result of the block keeps its layout
            twin = self.builder_.emit(result, f"{var.name}_nhwc")
            super().visit_var_binding_(relax.VarBinding(var, _permute(twin, _TO_FIRST)))

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        """The NCHW value, made from its twin where only that exists."""
        if var not in self.moved:
            return super().visit_dataflow_var_(var)
        if var not in self.restored:
            back = _permute(self.twins[var], _TO_FIRST)
            name = var.name if var in self.unmade else f"{var.name}_nchw"
            self.restored[var] = self.builder_.emit(back, name)
        return self.restored[var]

    def nhwc(self, expr: relax.Expr) -> relax.Expr:
        """The channels-last value of a 4-D operand, permuted here if need be."""
        if isinstance(expr, GenericConst):
            return relax.const(np.ascontiguousarray(values_of(expr).transpose(_TO_LAST)))
        if expr not in self.twins:
            permuted = _permute(self.visit_expr(expr), _TO_LAST)
            self.twins[expr] = self.builder_.emit(permuted, f"{expr.name}_nhwc")
        return self.twins[expr]

    def has_twin(self, expr: relax.Expr) -> bool:
        """Whether the operand exists channels last already."""
        return isinstance(expr, relax.Var) and expr in self.twins

    def operand(self, expr: relax.Expr) -> relax.Expr | None:
        """An operand of a 4-D broadcast, channels last; None where that takes a reshape."""
        shape = _shape(expr)
        if shape is None:
            return None
        if len(shape) == 4:
            return self.nhwc(expr)
        if isinstance(expr, GenericConst):
            value = values_of(expr)
            return self.nhwc(relax.const(value.reshape((1,) * (4 - value.ndim) + value.shape)))
        return self.visit_expr(expr) if len(shape) == 0 else None


class _Plain:
    """A handler's answer whose value is in the layout that the old binding had."""

    def __init__(self, expr: relax.Expr) -> None:
        self.expr = expr


class _Twin:
    """A handler's answer that is there already, channels last."""

    def __init__(self, value: relax.Var) -> None:
        self.value = value


_Handler = Callable[[_Rewriter, relax.Call], "relax.Expr | _Plain | _Twin | None"]


def _convolution(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    data, weight = call.args
    if call.attrs.data_layout != "NCHW" or not isinstance(weight, GenericConst):
        return None
    if _shape(data) is None:
        return None
    return _conv_call(call, rewriter.nhwc(data), weight, two_d=True)


def _convolution_1d(rewriter: _Rewriter, call: relax.Call) -> _Plain | None:
    data, weight = call.args
    shape, out_shape = _shape(data), _shape(call)
    if call.attrs.data_layout != "NCW" or not isinstance(weight, GenericConst) or shape is None:
        return None
    images, channels, width = shape
    flat = relax.op.reshape(rewriter.visit_expr(data), (images, channels, 1, width))
    last = rewriter.builder_.emit(_permute(rewriter.builder_.emit(flat), _TO_LAST))
    weight_2d = relax.const(np.expand_dims(values_of(weight), 2))
    result = rewriter.builder_.emit(_conv_call(call, last, weight_2d, two_d=False))
    first = rewriter.builder_.emit(_permute(result, _TO_FIRST))
    return _Plain(relax.op.reshape(first, out_shape))


def _conv_call(
    call: relax.Call, data: relax.Expr, weight: relax.Expr, *, two_d: bool
) -> relax.Expr:
    """`call` on channels-last `data`; a 1-D convolution becomes one of height one."""
    attrs = call.attrs
    strides, dilation, padding = (
        [int(n) for n in values] for values in (attrs.strides, attrs.dilation, attrs.padding)
    )
    if not two_d:
        left, right = padding
        strides, dilation, padding = [1, *strides], [1, *dilation], [0, left, 0, right]
    options = {
        "strides": strides,
        "dilation": dilation,
        "padding": padding,
        "groups": int(attrs.groups),
        "data_layout": "NHWC",
        "out_layout": "NHWC",
    }
    if call.op in (_op("relax.nn.conv2d"), _op("relax.nn.conv1d")):
        return relax.op.nn.conv2d(data, weight, kernel_layout="OIHW", **options)
    extra = [int(n) for n in attrs.output_padding]
    options["output_padding"] = extra if two_d else [0, *extra]
    return relax.op.nn.conv2d_transpose(data, weight, kernel_layout="IOHW", **options)


def _elementwise(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    data, *rest = call.args
    if not rewriter.has_twin(data):
        return None
    return relax.Call(call.op, [rewriter.twins[data], *rest], call.attrs)


def _broadcast(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    shape = _shape(call)
    if shape is None or len(shape) != 4 or not any(map(rewriter.has_twin, call.args)):
        return None
    for arg in call.args:
        arg_shape = _shape(arg)
        if arg_shape is None:
            return None
        if len(arg_shape) not in (0, 4) and not isinstance(arg, GenericConst):
            return None
    return relax.Call(call.op, [rewriter.operand(arg) for arg in call.args], call.attrs)


def _reduce(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | _Plain | None:
    (data,) = call.args
    if not rewriter.has_twin(data) or call.attrs.axis is None:
        return None
    axes = sorted(_AXIS[int(axis) % 4] for axis in call.attrs.axis)
    keep = bool(call.attrs.keepdims)
    if not keep and axes != [1, 2]:
        return None
    reduce = _REDUCTIONS[call.op]
    reduced = reduce(rewriter.twins[data], axis=axes, keepdims=keep)
    return reduced if keep else _Plain(reduced)


def _pool(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    (data,) = call.args
    attrs = call.attrs
    if attrs.layout != "NCHW" or _shape(data) is None:
        return None
    pool = _POOLS[call.op]
    return pool(
        rewriter.nhwc(data),
        pool_size=[int(n) for n in attrs.pool_size],
        strides=[int(n) for n in attrs.strides],
        padding=[int(n) for n in attrs.padding],
        dilation=[int(n) for n in attrs.dilation],
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
        layout="NHWC",
        out_layout="NHWC",
    )


def _resize(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    data, size = call.args
    attrs = call.attrs
    if attrs.layout != "NCHW" or not rewriter.has_twin(data):
        return None
    return relax.op.image.resize2d(
        rewriter.twins[data],
        size,
        roi=list(attrs.roi),
        layout="NHWC",
        method=attrs.method,
        coordinate_transformation_mode=attrs.coordinate_transformation_mode,
        rounding_method=attrs.rounding_method,
        cubic_alpha=attrs.cubic_alpha,
        cubic_exclude=attrs.cubic_exclude,
        extrapolation_value=attrs.extrapolation_value,
    )


def _concat(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    (parts,) = call.args
    if not isinstance(parts, relax.Tuple) or call.attrs.axis is None:
        return None
    shapes = [_shape(part) for part in parts.fields]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return None
    if not any(map(rewriter.has_twin, parts.fields)):
        return None
    axis = _AXIS[int(call.attrs.axis) % 4]
    return relax.op.concat([rewriter.nhwc(part) for part in parts.fields], axis=axis)


def _softmax(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    (data,) = call.args
    if not rewriter.has_twin(data) or _AXIS[int(call.attrs.axis) % 4] != 3:
        return None  # the reduced axis would not be contiguous
    return relax.op.nn.softmax(rewriter.twins[data], axis=3)


def _pad(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    data, *_ = call.args
    if not rewriter.has_twin(data):
        return None
    widths = [int(n) for n in call.attrs.pad_width]  # before and after, per axis
    moved = [n for axis in (0, 2, 3, 1) for n in widths[2 * axis : 2 * axis + 2]]
    return relax.op.nn.pad(
        rewriter.twins[data], moved, call.attrs.pad_mode, float(call.attrs.pad_value)
    )


def _strided_slice(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    data, axes, begin, end, *steps = call.args
    if not rewriter.has_twin(data):
        return None
    moved = relax.Tuple([relax.prim_value(_AXIS[int(axis.value) % 4]) for axis in axes.fields])
    return relax.Call(call.op, [rewriter.twins[data], moved, begin, end, *steps], call.attrs)


def _permute_dims(rewriter: _Rewriter, call: relax.Call) -> _Plain | _Twin | None:
    (data,) = call.args
    if call.attrs.axes is None:
        return None
    if not rewriter.has_twin(data):
        order = tuple(int(axis) for axis in call.attrs.axes)
        value = rewriter.visit_expr(data)
        return _Twin(value) if order == _TO_FIRST and isinstance(value, relax.Var) else None
    axes = [_AXIS[int(axis) % 4] for axis in call.attrs.axes]
    return _Plain(_permute(rewriter.twins[data], axes))


def _reshape(rewriter: _Rewriter, call: relax.Call) -> _Plain | None:
    data = call.args[0]
    shape, out_shape = _shape(data), _shape(call)
    known = shape is not None and out_shape is not None and rewriter.has_twin(data)
    if not known or shape is None or shape[2:] != (1, 1):
        return None  # the elements would be in another order
    return _Plain(relax.op.reshape(rewriter.twins[data], out_shape))


def _shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape as integers; None where it is not a tensor of known shape."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(isinstance(n, (int, tirx.IntImm)) for n in shape):
        return None
    return tuple(int(n) for n in shape)


def _permute(expr: relax.Expr, axes: Sequence[int]) -> relax.Expr:
    return expr if list(axes) == [0, 1, 2, 3] else relax.op.permute_dims(expr, list(axes))


def _op(name: str) -> Op:
    return Op.get(name)


_POOLS = {
    _op("relax.nn.avg_pool2d"): relax.op.nn.avg_pool2d,
    _op("relax.nn.max_pool2d"): relax.op.nn.max_pool2d,
}
_REDUCTIONS = {
    _op("relax.max"): relax.op.max,
    _op("relax.mean"): relax.op.mean,
    _op("relax.min"): relax.op.min,
    _op("relax.sum"): relax.op.sum,
}
_HANDLERS: dict[Op, _Handler] = {
    **{_op(f"relax.{name}"): _elementwise for name in _UNARY},
    **{_op(f"relax.{name}"): _broadcast for name in _BROADCAST},
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_POOLS, _pool),
    _op("relax.nn.conv2d"): _convolution,
    _op("relax.nn.conv2d_transpose"): _convolution,
    _op("relax.nn.conv1d"): _convolution_1d,
    _op("relax.nn.conv1d_transpose"): _convolution_1d,
    _op("relax.image.resize2d"): _resize,
    _op("relax.concat"): _concat,
    _op("relax.nn.softmax"): _softmax,
    _op("relax.nn.pad"): _pad,
    _op("relax.permute_dims"): _permute_dims,
    _op("relax.strided_slice"): _strided_slice,
    _op("relax.reshape"): _reshape,
    _op("relax.squeeze"): _reshape,
}
