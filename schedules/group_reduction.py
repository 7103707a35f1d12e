"""Reductions across the work-items of a group, by sub-groups where the device has them.

    sum = allreduce(x) over threadIdx.x    ->    sum = hetero_group_add_float(x, scratch)

TVM adds up in local memory, by halves, with a barrier after each: eight for a group of 256. The
function here lets every sub-group add up by itself, which needs no barrier, and then adds up their
sums. Whether a device has sub-groups, and how wide they are, its own compiler says, so one kernel
fits all; without them a few items add up parts of the group, in local memory.

Requires: functions for OpenCL before TVM's lowering of reductions across work-items; the group's
          items lie along one axis, as all of them must meet in a barrier.
Ensures:  sums, maxima and minima of one 32-bit number over such a group call a function that
          `with_functions` defines.
"""

from __future__ import annotations

import re

import tvm
import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx
from tvm.ir.prim.expr import Add, Max, Min
from tvm.ir.transform import PassContext

_PREFIX = "hetero_group_"
_PARTS = 16  # of a group; the square root of the largest usual one
_TYPES = {"float32": "float", "int32": "int", "uint32": "uint"}
_COMBINE = {"add": "{0} + {1}", "max": "max({0}, {1})", "min": "min({0}, {1})"}
_COMBINERS = {Add: "add", Max: "max", Min: "min"}
_CALLED = re.compile(rf"\b{_PREFIX}({'|'.join(_COMBINE)})_({'|'.join(_TYPES.values())})\(")

_EXTENSION = """\
#if defined(cl_khr_subgroups)
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
#define HETERO_SUB_GROUPS
#elif defined(cl_intel_subgroups) || defined(__opencl_c_subgroups)
#define HETERO_SUB_GROUPS
#endif
"""
# The first barrier: an earlier reduction may still be read.
_FUNCTION = """\
{type} {prefix}{op}_{type}({type} x, __local {type}* scratch) {{
  barrier(CLK_LOCAL_MEM_FENCE);
#ifdef HETERO_SUB_GROUPS
  x = sub_group_reduce_{op}(x);
  if (get_sub_group_local_id() == 0) scratch[get_sub_group_id()] = x;
  barrier(CLK_LOCAL_MEM_FENCE);
  x = scratch[0];
  for (uint i = 1; i < get_num_sub_groups(); ++i) x = {with_next};
#else
  const uint item = get_local_id(0), items = get_local_size(0);
  const uint parts = min(items, (uint){parts});
  scratch[item] = x;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (item < parts) {{
    for (uint i = item + parts; i < items; i += parts) x = {with_next};
    scratch[item] = x;
  }}
  barrier(CLK_LOCAL_MEM_FENCE);
  x = scratch[0];
  for (uint i = 1; i < parts; ++i) x = {with_next};
#endif
  return x;
}}
"""


@tvm.transform.module_pass(opt_level=0, name="GroupReductions")
class GroupReductions:
    """Rewrite reductions across a whole group into calls."""

    def transform_module(self, mod: IRModule, ctx: PassContext) -> IRModule:
        """What is none of OpenCL's, and reductions of another kind, are left to TVM."""
        mod = s_tir.transform.CanonicalizeLoop()(mod)
        mod = s_tir.transform.LowerCrossThreadReduction()(mod)
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is None or target.kind.name != "opencl":
                continue
            items, along_x = _items_along_one_axis(func)
            if items:
                rewrite = (
                    s_tir.SBlock,
                    lambda block, items=items, along_x=along_x: _with_call(block, items, along_x),
                )
                result[name] = tvm_ffi.structural_map(func, [rewrite])
        return result


def with_functions(source: str) -> str:
    """`source` after the functions of this file that it calls."""
    called = sorted(set(_CALLED.findall(source)))
    if not called:
        return source
    functions = (
        _FUNCTION.format(
            prefix=_PREFIX,
            op=op,
            type=kind,
            parts=_PARTS,
            with_next=_COMBINE[op].format("x", "scratch[i]"),
        )
        for op, kind in called
    )
    return "".join([_EXTENSION, *functions, source])


def _items_along_one_axis(func: tirx.PrimFunc) -> tuple[int, set[tirx.Var]]:
    """Work-items of a group that lie along x, and the variables that count them.

    None where others lie beside them.
    """
    extents: dict[str, set[int]] = {}
    along_x: set[tirx.Var] = set()

    def bound(loop: tirx.For) -> None:
        if loop.thread_binding is not None:
            if loop.thread_binding.thread_tag == "threadIdx.x":
                along_x.update((loop.loop_var, loop.thread_binding.var))
            known = isinstance(loop.extent, tirx.IntImm)
            extents.setdefault(loop.thread_binding.thread_tag, set()).add(
                int(loop.extent) if known else 0
            )

    tvm_ffi.structural_walk(func.body, (tirx.For, bound))
    beside = extents.get("threadIdx.y", {1}) | extents.get("threadIdx.z", {1})
    along = extents.get("threadIdx.x", set())
    return (along.pop() if len(along) == 1 and beside == {1} else 0), along_x


def _with_call(block: s_tir.SBlock, items: int, along_x: set[tirx.Var]) -> s_tir.SBlock:
    scope, reduction = block.body, None
    if isinstance(scope, tirx.AttrStmt) and scope.attr_key == "reduce_scope":
        reduction = scope.body.value
    if not isinstance(reduction, ir.Call) or reduction.op.name != "tirx.tvm_thread_allreduce":
        return block
    count, value, condition, result, *axes = reduction.args
    op = _COMBINERS.get(type(scope.node.result[0]))
    dtype = str(value.ty)
    if op is None or dtype not in _TYPES or int(count) != 1 or len(axes) != 1:
        return block
    # One item along y, say, has a sum that its neighbours along x have no part in.
    if axes[0] not in along_x:
        return block
    if not (isinstance(condition, tirx.IntImm) and int(condition)):
        return block
    scratch = tirx.decl_buffer((items,), dtype, f"{block.name_hint}_scratch", scope="shared")
    # Given as a pointer, the buffer keeps its extent, of which only the function knows the use.
    address = scratch.access_ptr("rw")
    call = tirx.call_extern(dtype, f"{_PREFIX}{op}_{_TYPES[dtype]}", value, address)
    return s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        tirx.BufferStore(result.source, call, result.indices),
        block.init,
        [*block.alloc_buffers, scratch],
        block.match_buffers,
        block.annotations,
    )
