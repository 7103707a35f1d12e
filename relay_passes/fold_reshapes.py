"""Join reshapes and transposes that follow each other, and drop those that do nothing.

    reshape(reshape(x, a), b)          ->  reshape(x, b)           x itself if it has shape b
    permute_dims(permute_dims(x))      ->  permute_dims(x)         x itself if they cancel
    permute_dims(x), only ones move    ->  reshape(x)
    relu(reshape(x))                   ->  reshape(relu(x))        any elementwise operator of one
                                                                   tensor; lets reshapes meet

Importers wrap every one-dimensional convolution in a pair of reshapes, and exporters write a
reshape per squeeze; each that stays is a kernel launch or a border between regions.

Requires: static shapes; one dataflow block.
Ensures:  no reshape reads a reshape, no transpose reads a transpose; values are bit-identical.
"""

from __future__ import annotations

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relay_passes.rewrite_bindings import Bindings, is_call, rewrite_main

_UNARY_OPS = frozenset(
    f"relax.{name}"
    for name in """
    abs ceil clip cos cosh erf exp floor log negative round rsqrt sigmoid sign sin sinh sqrt square
    tan tanh trunc nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.silu
    """.split()
)
_BINARY_OPS = frozenset(f"relax.{name}" for name in "add subtract multiply divide".split())
_MAX_ROUNDS = 8


class FoldReshapes:
    """Apply the rewrites of the module's docstring until nothing changes."""

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its reshapes folded."""
        for _ in range(_MAX_ROUNDS):
            count = _Counter()
            mod = rewrite_main(mod, count.rule)
            if not count.changes:
                break
        return mod


class _Counter:
    """The rules, and how often one of them applied."""

    def __init__(self) -> None:
        self.changes = 0

    def rule(self, var: relax.Var, value: relax.Expr, known: Bindings) -> relax.Expr | None:
        if not isinstance(value, relax.Call):
            return None
        result = None
        if is_call(value, "relax.reshape"):
            result = _join_reshapes(value, known)
        elif is_call(value, "relax.permute_dims"):
            result = _join_transposes(value, known)
        elif _is_elementwise(value):
            result = _sink_reshape(value, known)
        self.changes += result is not None
        return result


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(dim) for dim in expr.ty.shape.values)


def _join_reshapes(value: relax.Call, known: Bindings) -> relax.Expr | None:
    source = value.args[0]
    inner = known.call(source, "relax.reshape")
    if _shape(source) == _shape(value):
        return source
    if inner is None:
        return None
    base = inner.args[0]
    return base if _shape(base) == _shape(value) else relax.op.reshape(base, _shape(value))


def _axes(value: relax.Call) -> list[int]:
    rank = len(_shape(value))
    if value.attrs.axes is None:
        return list(range(rank))[::-1]
    return [int(axis) % rank for axis in value.attrs.axes]


def _join_transposes(value: relax.Call, known: Bindings) -> relax.Expr | None:
    source, axes = value.args[0], _axes(value)
    inner = known.call(source, "relax.permute_dims")
    if axes == list(range(len(axes))):
        return source
    if inner is not None:
        before = _axes(inner)
        joined = [before[axis] for axis in axes]
        if joined == list(range(len(joined))):
            return inner.args[0]
        return relax.op.permute_dims(inner.args[0], joined)
    shape = _shape(source)
    moved = [axis for axis in axes if shape[axis] != 1]
    if moved == sorted(moved):
        return relax.op.reshape(source, _shape(value))
    return None


def _is_elementwise(value: relax.Call) -> bool:
    """One tensor, and at most scalar constants beside it."""
    name = getattr(value.op, "name", "")
    if name in _UNARY_OPS:
        return True
    if name not in _BINARY_OPS or not isinstance(value.args[0], relax.Var):
        return False
    return isinstance(value.args[1], GenericConst) and _shape(value.args[1]) == ()


def _sink_reshape(value: relax.Call, known: Bindings) -> relax.Expr | None:
    source = value.args[0]
    inner = known.call(source, "relax.reshape")
    if inner is None or not known.is_read_once(source):
        return None
    moved = relax.Call(value.op, [inner.args[0], *value.args[1:]], value.attrs, value.ty_args)
    return relax.op.reshape(moved, _shape(value))
