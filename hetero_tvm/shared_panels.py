"""Weights as GPU kernels read them, made once for all steps of a language model.

    step 1: w[:, 64:]        the panels of w, in a file
    step 16: w[:, 192:]   ▸  ... without the first 64 columns', without the first 192
    step 128: w

Steps cut a weight at different places; panels are blocks of memory, so those of a part are some of
the whole's, and nothing is packed, or stored in the artefact, a second time.
"""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constant_file import ConstantFile, held_constant, part_of
from relay_passes.constants import values_of
from schedules.layout import pack_panels, panels_of

_BLOCK_BYTES = 64  # a tensor begins at a multiple of these


class SharedPanels:
    """`schedules.layout.Panels` that are kept."""

    def __init__(self, file: ConstantFile) -> None:
        """`file`: where they are kept; it outlives the constants' own."""
        self._file = file
        # Address of a weight and columns of a panel -> the weight, so that the address stays its
        # own, and its panels.
        self._made: dict[tuple[int, int], tuple[GenericConst, np.ndarray]] = {}

    def __call__(self, weight: GenericConst, panel: int) -> relax.Expr:
        """The panels of `weight`, of all of it or of a part by columns of a longer one."""
        part = part_of(weight)
        whole = weight if part is None else part.whole
        values = values_of(whole)
        begin, end = (0, values.shape[-1]) if part is None else (part.begin, part.end)
        by_columns = part is None or part.axis == 1
        is_block = begin % panel == 0 and end in (values.shape[-1], _up(end, panel))
        is_aligned = len(values) * panel * values.itemsize % _BLOCK_BYTES == 0
        if values.ndim != 2 or not (by_columns and is_block and is_aligned):
            return panels_of(weight, panel)
        panels = self._panels(whole, values, panel)
        return held_constant(panels[begin // panel : _up(end, panel) // panel])

    def _panels(self, whole: GenericConst, values: np.ndarray, panel: int) -> np.ndarray:
        key = (int(values.__array_interface__["data"][0]), panel)
        if key not in self._made:
            self._made[key] = (whole, self._file.once(pack_panels(values, panel)))
        return self._made[key][1]


def _up(columns: int, panel: int) -> int:
    """The next multiple of a panel."""
    return -(-columns // panel) * panel
