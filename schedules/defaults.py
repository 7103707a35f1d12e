"""What a build uses without tuning: legalisations and rules, in order; the first answer wins."""

from __future__ import annotations

from tvm.s_tir.dlight.base import ScheduleRule

from schedules import activation
from schedules.attention import InOne, legalize_attention, never
from schedules.column_reduction import ColumnReduction
from schedules.convolution import legalize_conv2d, legalize_conv2d_transpose
from schedules.elementwise import Elementwise
from schedules.gemv import SplitDepth
from schedules.kv_cache import legalize_update_kv
from schedules.last_resort import LastResort
from schedules.layout import Legalize, Panels, legalize_permute_dims, panels_of
from schedules.local_tile import LocalTiled
from schedules.lockstep_columns import LockstepColumns
from schedules.lockstep_reduction import LockstepReduction
from schedules.lockstep_transpose import LockstepTranspose
from schedules.matmul import legalize_matmul
from schedules.register_tile import RegisterTiled
from schedules.row_reduction import (
    RowReduction,
    legalize_layer_norm,
    legalize_reduce,
    legalize_rms_norm,
    legalize_softmax,
)
from schedules.w4a16_table import W4Table, legalize_w4_matmul
from target_specs.spec import GpuSpec

_ROW_REDUCTIONS = ("max", "mean", "min", "sum")


def default_legalizations(
    gpu: GpuSpec,
    four_bit: W4Table | None = None,
    panels: Panels = panels_of,
    in_one: InOne = never,
) -> dict[str, Legalize]:
    """Operators whose tensor expression is ours; all others use TVM's.

    `four_bit`: weights that some of the model's constants came from. `panels`: makes those of
    products' weights. `in_one`: decode steps of attention that are one function, to be tuned.
    """
    ours = {
        **activation.LEGALIZATIONS,
        "relax.matmul": legalize_matmul(gpu, panels),
        "relax.permute_dims": legalize_permute_dims,
        "relax.nn.conv2d": legalize_conv2d(gpu),
        "relax.nn.conv2d_transpose": legalize_conv2d_transpose(gpu),
        "hetero.attention": legalize_attention(gpu, in_one),
        "hetero.update_kv": legalize_update_kv(gpu),
    }
    if four_bit:
        ours["relax.matmul"] = legalize_w4_matmul(gpu, four_bit, ours["relax.matmul"])
    if gpu.wave_size == 1:
        ours |= {
            "relax.nn.softmax": legalize_softmax(gpu),
            "relax.nn.layer_norm": legalize_layer_norm(gpu),
            "relax.nn.rms_norm": legalize_rms_norm(gpu),
            **{f"relax.{op}": legalize_reduce(gpu, f"relax.{op}") for op in _ROW_REDUCTIONS},
        }
    return ours


def default_rules(gpu: GpuSpec) -> list[ScheduleRule]:
    """The rules for the GPU, in order. The last always answers."""
    return [
        SplitDepth(),
        LocalTiled(),
        RegisterTiled(),
        RowReduction(),
        LockstepTranspose(gpu),
        Elementwise(gpu),
        LockstepColumns(gpu),
        ColumnReduction(gpu),
        LockstepReduction(gpu),
        LastResort(gpu),
    ]
