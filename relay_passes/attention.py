"""The two operators that every language model's attention becomes, whatever its ONNX form was.

    hetero.update_kv(cache, rows, past)            -> cache, rows written at `past`, in place
    hetero.attention(q, k_cache, v_cache, past)    -> mixed values, heads side by side

Shapes, with a cache of C positions:

    q        [B, Hq, S, D]     S new positions; Hq is a multiple of Hkv, heads of a group adjacent
    k_cache  [B, Hkv, C, D]    v_cache [B, Hkv, C, Dv]
    rows     [B, Hkv, S, D]    keys or values of the new positions
    past     [1] int32         positions before them; the same for the whole batch
    result   [B, S, Hq * Dv]

Row i of q stands at position p = past + first + i and sees the positions j with

    p - window < j <= p          (window 0: all of them up to its own)

    score(j) = softcap * tanh(scale * q.k_j / softcap)     (softcap 0: scale * q.k_j)
    result   = softmax over j of score, times v_j

Storage is float32 or float16, arithmetic float32. Positions from past + first + S on do not count,
so what an earlier, longer run left there does not matter. Rows that would fall behind the end of
the cache are dropped, and their own results are unspecified: that lets a filled-up chunk end there.

`update_kv` owns its first argument: it must not be read again but through the result. It is lowered
to `call_tir_inplace`, so the cache is never copied and never grows.

Both have a plain lowering here (`FLegalize`), right on every device and slow: scores go through
memory. `schedules` hands better ones to `lower_gpu`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tvm import relax, te, tirx, topi
from tvm.ir import DictAttrs, Op, register_op_attr

ATTENTION = "hetero.attention"
UPDATE_KV = "hetero.update_kv"
_LOWEST = -3.0e38  # a score that is not seen; finite, so that no exp meets inf - inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionAttrs:
    """What a call of `hetero.attention` holds beside its operands."""

    scale: float
    softcap: float = 0.0  # 0: none
    window: int = 0  # positions seen, the own one included; 0: all
    first: int = 0  # new positions before row 0: the rows are a part of a chunk's

    @classmethod
    def of(cls, call: relax.Call) -> AttentionAttrs:
        """Those of `call`."""
        return cls(
            scale=float(call.attrs["scale"]),
            softcap=float(call.attrs["softcap"]),
            window=int(call.attrs["window"]),
            first=int(call.attrs["first"]),
        )


def attention(
    q: relax.Expr,
    k_cache: relax.Expr,
    v_cache: relax.Expr,
    past: relax.Expr,
    attrs: AttentionAttrs,
) -> relax.Call:
    """A call of `hetero.attention`; shapes as in the module's docstring."""
    fields = DictAttrs(dataclasses.asdict(attrs))
    return relax.Call(Op.get(ATTENTION), [q, k_cache, v_cache, past], attrs=fields)


def update_kv(cache: relax.Expr, rows: relax.Expr, past: relax.Expr) -> relax.Call:
    """A call of `hetero.update_kv`: `cache` with `rows` at `past`, in the same memory."""
    return relax.Call(Op.get(UPDATE_KV), [cache, rows, past])


def _shape(expr: relax.Expr, what: str, rank: int) -> tuple[int, ...]:
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        raise ValueError(f"{what}: expected a tensor of known shape, found {ty}")
    shape = tuple(int(dim) for dim in ty.shape)
    if len(shape) != rank:
        raise ValueError(f"{what}: expected rank {rank}, found {list(shape)}")
    return shape


def _check_past(past: relax.Expr) -> None:
    if _shape(past, "past", 1) != (1,) or str(past.ty.dtype) != "int32":
        raise ValueError(f"past: expected one int32, found {past.ty}")


def _infer_attention(call: relax.Call, _builder: relax.BlockBuilder) -> relax.TensorType:
    q, keys, values, past = call.args
    batch, heads, length, depth = _shape(q, "q", 4)
    k_shape, v_shape = _shape(keys, "k_cache", 4), _shape(values, "v_cache", 4)
    _check_past(past)
    groups = k_shape[1]
    if k_shape != (batch, groups, k_shape[2], depth) or v_shape[:3] != k_shape[:3]:
        raise ValueError(
            f"{ATTENTION}: q {[batch, heads, length, depth]}, k_cache {list(k_shape)} and v_cache "
            f"{list(v_shape)} do not belong together"
        )
    if heads % groups:
        raise ValueError(f"{ATTENTION}: {heads} query heads on {groups} key heads")
    return relax.TensorType((batch, length, heads * v_shape[3]), str(q.ty.dtype))


def _infer_update(call: relax.Call, _builder: relax.BlockBuilder) -> relax.TensorType:
    cache, rows, past = call.args
    held, new = _shape(cache, "cache", 4), _shape(rows, "rows", 4)
    _check_past(past)
    if (held[0], held[1], held[3]) != (new[0], new[1], new[3]) or new[2] > held[2]:
        raise ValueError(f"{UPDATE_KV}: rows {list(new)} do not fit a cache {list(held)}")
    if cache.ty.dtype != rows.ty.dtype:
        raise ValueError(f"{UPDATE_KV}: rows of {rows.ty.dtype} in a cache of {cache.ty.dtype}")
    return cache.ty


# --- the plain lowerings -------------------------------------------------------------------------


def update_kv_kernel(held: tuple[int, ...], new: tuple[int, ...], dtype: str) -> tirx.PrimFunc:
    """`kernel(cache, rows, past)`, which writes rows that lie inside the cache."""
    from tvm.script import tirx as T

    batch, groups, length, depth = new
    capacity = held[2]

    @T.prim_func(private=True, s_tir=True)
    def update_kv(
        cache: T.Buffer((batch, groups, capacity, depth), dtype),  # type: ignore[valid-type]
        rows: T.Buffer((batch, groups, length, depth), dtype),  # type: ignore[valid-type]
        past: T.Buffer((1,), "int32"),  # type: ignore[valid-type]
    ) -> None:
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for b, h, s, d in T.grid(batch, groups, length, depth):
            with T.sblock("update_kv"):
                vb, vh, vs, vd = T.axis.remap("SSSS", [b, h, s, d])
                if past[0] + vs < capacity:
                    cache[vb, vh, past[0] + vs, vd] = rows[vb, vh, vs, vd]

    return update_kv


def legalize_update_kv(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`call_tir_inplace` of `update_kv_kernel`."""
    cache, rows, past = call.args
    func = update_kv_kernel(_shape(cache, "", 4), _shape(rows, "", 4), str(cache.ty.dtype))
    kernel = builder.add_func(func, "update_kv")
    return relax.op.call_tir_inplace(kernel, [cache, rows, past], [0], [cache.ty])


def legalize_attention(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Scores, softmax and mix as three steps over all positions of the cache."""
    attrs, dtype = AttentionAttrs.of(call), str(call.ty.dtype)

    def scores(q: te.Tensor, keys: te.Tensor, past: te.Tensor) -> te.Tensor:
        return _scores(q, keys, past, attrs)

    def mixed(weights: te.Tensor, values: te.Tensor) -> te.Tensor:
        return _mixed(weights, values, dtype)

    q, keys, values, past = call.args
    found = builder.emit(builder.call_te(scores, q, keys, past, primfunc_name_hint="scores"))
    found = builder.emit(builder.call_te(topi.nn.softmax, found, axis=-1))
    found = builder.emit(builder.call_te(mixed, found, values, primfunc_name_hint="mix"))
    shape = _shape(call, "result", 3)
    return builder.call_te(topi.reshape, found, shape, primfunc_name_hint="heads_side_by_side")


def _scores(q: te.Tensor, keys: te.Tensor, past: te.Tensor, attrs: AttentionAttrs) -> te.Tensor:
    """[B, Hq, S, C] in float32, what is not seen as `_LOWEST`."""
    batch, heads, length, depth = (int(dim) for dim in q.shape)
    groups, capacity = int(keys.shape[1]), int(keys.shape[2])
    d = te.reduce_axis((0, depth), "d")
    products = te.compute(
        (batch, heads, length, capacity),
        lambda b, h, i, j: te.sum(
            q[b, h, i, d].astype("float32")
            * keys[b, h // (heads // groups), j, d].astype("float32"),
            axis=d,
        ),
        "products",
    )

    def score(b: tirx.Var, h: tirx.Var, i: tirx.Var, j: tirx.Var) -> tirx.PrimExpr:
        value = products[b, h, i, j] * tirx.const(attrs.scale, "float32")
        if attrs.softcap:
            cap = tirx.const(attrs.softcap, "float32")
            value = cap * tirx.tanh(value / cap)
        place = past[0] + attrs.first + i
        seen = j <= place
        if attrs.window:
            seen = tirx.all(seen, j > place - attrs.window)
        return tirx.if_then_else(seen, value, tirx.const(_LOWEST, "float32"))

    return te.compute(products.shape, score, "scores")


def _mixed(weights: te.Tensor, values: te.Tensor, dtype: str) -> te.Tensor:
    """[B, S, Hq, Dv]: with heads as an axis, since TVM vectorises divisions of an index wrongly."""
    batch, heads, length, capacity = (int(dim) for dim in weights.shape)
    groups, depth = int(values.shape[1]), int(values.shape[3])
    j = te.reduce_axis((0, capacity), "j")
    total = te.compute(
        (batch, length, heads, depth),
        lambda b, i, h, d: te.sum(
            weights[b, h, i, j] * values[b, h // (heads // groups), j, d].astype("float32"),
            axis=j,
        ),
        "total",
    )
    if dtype == "float32":
        return total
    return te.compute(total.shape, lambda *at: total(*at).astype(dtype), "mixed")


def _register(
    name: str,
    operands: int,
    infer: Callable[[relax.Call, relax.BlockBuilder], relax.TensorType],
    legalize: Callable[[relax.BlockBuilder, relax.Call], relax.Expr],
) -> None:
    if name in Op.list_op_names() and Op.get(name).get_attr("FInferType") is not None:
        return  # imported twice, as tests may do
    register_op_attr(name, "FInferType", infer)
    register_op_attr(name, "FPurity", True)
    register_op_attr(name, "FLegalize", legalize)
    Op.get(name).set_num_inputs(operands)


_register(ATTENTION, 4, _infer_attention, legalize_attention)
_register(UPDATE_KV, 3, _infer_update, legalize_update_kv)
