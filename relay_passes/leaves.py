"""What an expression reads: its variables and constants, those inside calls and tuples included."""

from __future__ import annotations

from collections.abc import Iterator

from tvm import relax
from tvm.ir import GenericConst


def leaves(expr: relax.Expr) -> Iterator[relax.Var | GenericConst]:
    """Variables and constants that `expr` reads, in order and as often as it reads them."""
    if isinstance(expr, relax.Call):
        for arg in expr.args:
            yield from leaves(arg)
    elif isinstance(expr, relax.Tuple):
        for field in expr.fields:
            yield from leaves(field)
    elif isinstance(expr, relax.TupleGetItem):
        yield from leaves(expr.tuple_value)
    elif isinstance(expr, relax.Var | GenericConst):
        yield expr


def variables(expr: relax.Expr) -> Iterator[relax.Var]:
    """The same without constants."""
    return (leaf for leaf in leaves(expr) if isinstance(leaf, relax.Var))
