"""Small questions about constants in Relax."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constant_file import held_constant


def values_of(constant: GenericConst) -> np.ndarray:
    """Its values where they lie, so nobody may write to them; a copy of types that numpy lacks."""
    try:
        return np.from_dlpack(constant.value)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return constant.value.numpy()


def array_of(expr: relax.Expr) -> np.ndarray | None:
    """The value of a constant tensor, as `values_of`; `None` for anything else."""
    return values_of(expr) if isinstance(expr, GenericConst) else None


def number_of(expr: relax.Expr) -> float | None:
    """The value of a constant with one element, `None` for anything else."""
    array = array_of(expr)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def is_number(expr: relax.Expr, value: float, tolerance: float = 1e-6) -> bool:
    """Is `expr` a one-element constant equal to `value`, up to float32 rounding?"""
    number = number_of(expr)
    return number is not None and abs(number - value) <= tolerance * abs(value)


def tensor_constant(array: np.ndarray) -> relax.Expr:
    """A constant holding a copy of `array`."""
    return held_constant(array)
