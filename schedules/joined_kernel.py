"""Several kernels as one launch, where a work-item is a core.

    a: groups 0 .. 95   b: groups 0 .. 95   c: groups 0 .. 47
        ->  group g of 48:  a's 2 g, 2 g + 1;  b's 2 g, 2 g + 1;  c's g          one after the other

Right where no group reads what another one writes: what kernels hand to each other is compared
group by group. With one group that always holds.

What a group needs of others it may also compute itself, into memory of its own, where that is
little, such as the norm before a product of one row:

    a: group 0   b: groups 0 .. 95   ->   group g of 2:  all of a;  b's 48 g .. 48 g + 47

It pays where launches cost more than what is lost: what is computed again, and cores that have
nothing to do. How long groups take is estimated by counting what they execute.

Requires: scheduled functions of static shapes, whose whole work is one launch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir import Range
from tvm.sym.analyzer import Analyzer

from target_specs.spec import GpuSpec

# That a core does in a microsecond, as they are counted here: on a busy Zen 5 core 1536 numbers are
# rounded to 16 bits, 2832 operations, in 1.3 us.
_OPERATIONS_PER_US = 2000.0
_CALL = 4  # operations that a function such as `exp` counts for
_WORTH = 0.5  # of what is saved, that may be lost: both are estimates
# What a launch takes at least, 2.2 to 3.8 where it was measured: while other programs run, the
# figure that is measured is at times next to nothing, and the kernels would change with it.
_LAUNCH_US = 2.0
_OWN_BYTES = 16_384  # of results that every group has for itself, at most: half of a core's L1
_MANY = 1 << 20  # cores, where it is not known how many there are
_THREADS = "thread_extent"
_PRIVATE = "local"


class _Unknown(Exception):
    """Something that is not looked through."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Access:
    """One load or store in a parameter."""

    param: int
    offset: tirx.Expr  # in elements
    is_store: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Kernel:
    """A function taken apart: items that know nothing of each other, each the same body."""

    params: tuple[tirx.Var, ...]
    threads: tuple[tuple[tirx.Var, int], ...]  # outermost first, with how many there are
    body: tirx.Stmt
    private: tuple[tirx.Var, ...]  # arrays of an item

    @property
    def items(self) -> int:
        """How many there are, over all axes of groups and items."""
        return math.prod(extent for _, extent in self.threads)

    def at(self, item: tirx.Expr) -> dict[tirx.Var, tirx.Expr]:
        """What the variables of `threads` are for the item of that number."""
        found: dict[tirx.Var, tirx.Expr] = {}
        inner = 1
        for var, extent in reversed(self.threads):
            dtype = str(var.ty)
            number = item if str(item.ty) == dtype else tirx.Cast(dtype, item)
            outer = inner * extent
            if extent == 1:
                number = tirx.const(0, dtype)
            else:
                number = number if inner == 1 else tirx.floordiv(number, inner)
                number = number if outer == self.items else tirx.floormod(number, extent)
            found[var] = number
            inner = outer
        return found


class Joiner:
    """Joins kernels for a device whose work-items are cores."""

    def __init__(self, gpu: GpuSpec) -> None:
        assert gpu.wave_size == 1, "items in lockstep are no cores"
        self._launch = max(gpu.launch_us, _LAUNCH_US) * _OPERATIONS_PER_US
        self._cores = gpu.cores or _MANY
        self._looked: dict[tirx.PrimFunc, _Walk | None] = {}

    def join(
        self,
        funcs: Sequence[tirx.PrimFunc],
        places: Sequence[Sequence[int]],
        count: int,
        given: int,
    ) -> tirx.PrimFunc | None:
        """One function that does what `funcs` do one after the other; None where it does not pay.

        Args:
            funcs: at least two.
            places: of each function, which parameter of the result each of its own is.
            count: parameters of the result; each is somebody's.
            given: so many of them, the first ones, hold something before; the others nothing.
        """
        looked = [self._look(func) for func in funcs]
        walks = [walk for walk in looked if walk is not None]
        if len(walks) < len(looked):
            return None
        most = sum(self._time(walk.kernel.items, walk.operations) for walk in walks)
        most += _WORTH * (len(funcs) - 1) * self._launch
        ways: list[tuple[float, int, Collection[int], int]] = []
        # Where it is not known how many cores there are, each of very many would do it again.
        for first in range(len(funcs) if self._cores < _MANY else 1):
            own = _own_results(walks, places, given, first)
            found = None if own is None else self._groups(walks, places, first, most)
            if own is not None and found is not None:
                ways.append((*found, own, first))
        if not ways:
            return None
        # Of ways that take as long the first one, which computes least again.
        _, groups, own_results, first = min(ways, key=lambda way: way[0])
        return _written(funcs, places, count, groups, own_results, first)

    def _groups(
        self, walks: Sequence[_Walk], places: Sequence[Sequence[int]], first: int, most: float
    ) -> tuple[float, int] | None:
        """What equal groups take at least, each doing all of the `first` kernels, and how many.

        Where several are as fast, the most groups: one that has to wait stops less. None where all
        of them take longer than `most`.
        """
        again = sum(walk.operations for walk in walks[:first])
        rest = sum(walk.operations for walk in walks[first:])
        shared = _handed_over(walks[first:], places[first:])
        items = math.gcd(*(walk.kernel.items for walk in walks[first:]))
        times = {
            groups: self._time(groups, groups * again + rest)
            for groups in range(items, 0, -1)
            if items % groups == 0
        }
        for groups in sorted(times, key=lambda groups: times[groups]):
            if times[groups] > most:
                return None
            if all(
                _is_own(walk, groups, {n for n, at in enumerate(own) if at in shared})
                for walk, own in zip(walks[first:], places[first:], strict=True)
            ):
                return times[groups], groups
        return None

    def _time(self, groups: int, operations: float) -> float:
        """In operations of one core, how long equal groups take."""
        return -(-groups // self._cores) * operations / groups

    def _look(self, func: tirx.PrimFunc) -> _Walk | None:
        if func not in self._looked:
            try:
                self._looked[func] = _Walk(_taken_apart(_without_blocks(func)))
            except _Unknown:
                self._looked[func] = None
        return self._looked[func]


def _without_blocks(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with indices in terms of loops."""
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    lowered = tvm.transform.Sequential(
        [s_tir.transform.LowerInitBlock(), s_tir.transform.ConvertBlocksToOpaque()]
    )(mod)
    return lowered["main"]


def _taken_apart(func: tirx.PrimFunc) -> _Kernel:
    threads: list[tuple[tirx.Var, int]] = []
    private: list[tirx.Var] = []
    statement = func.body
    while True:
        if isinstance(statement, s_tir.SBlockRealize) and not statement.block.iter_vars:
            block = statement.block
            if block.match_buffers or block.init is not None:
                raise _Unknown
            private.extend(block.alloc_buffers)
            statement = block.body
        elif isinstance(statement, tirx.For) and statement.thread_binding is not None:
            threads.append((statement.loop_var, _number(statement.extent)))
            statement = statement.body
        elif isinstance(statement, tirx.AttrStmt) and statement.attr_key == _THREADS:
            threads.append((statement.node.var, _number(statement.value)))
            statement = statement.body
        else:
            break
    if not threads or any(buffer.scope() != _PRIVATE for buffer in private):
        raise _Unknown
    return _Kernel(
        params=tuple(func.params), threads=tuple(threads), body=statement, private=tuple(private)
    )


def _number(extent: Any) -> int:
    if not isinstance(extent, int | tirx.IntImm):
        raise _Unknown
    return int(extent)


class _Walk:
    """What the items of a kernel read and write, and how much all of them do."""

    def __init__(self, kernel: _Kernel) -> None:
        self.kernel = kernel
        self.accesses: list[_Access] = []
        self.ranges: dict[tirx.Var, tuple[tirx.Expr, tirx.Expr]] = {}  # of a loop: begin, length
        self.operations = 0
        self._params = {param: n for n, param in enumerate(kernel.params)}
        self._known: dict[tirx.Var, tirx.Expr] = {}  # variables that are bound to expressions
        self._statement(kernel.body, kernel.items)

    def _statement(self, node: Any, times: int) -> None:
        if isinstance(node, tirx.SeqStmt):
            for part in node.seq:
                self._statement(part, times)
        elif isinstance(node, tirx.For):
            if node.thread_binding is not None or node.step is not None:
                raise _Unknown
            self.ranges[node.loop_var] = (node.min, node.extent)
            once = node.kind == tirx.ForKind.VECTORIZED
            self._statement(node.body, times if once else times * _number(node.extent))
        elif isinstance(node, s_tir.SBlockRealize):
            block = node.block
            if block.iter_vars or block.match_buffers or block.init is not None:
                raise _Unknown
            if any(buffer.scope() != _PRIVATE for buffer in block.alloc_buffers):
                raise _Unknown
            self._values(node.predicate, times)
            self._statement(block.body, times)
        elif isinstance(node, tirx.IfThenElse):
            self._values(node.condition, times)
            for branch in (node.then_case, node.else_case):
                if branch is not None:
                    self._statement(branch, times)
        elif isinstance(node, tirx.Bind):
            if self._values(node.value, times) == 0:
                self._known[node.var] = self._by_loops(node.value)
        elif isinstance(node, tirx.BufferStore):
            self._values(node.value, times)
            for index in node.indices:
                self._values(index, times)
            self._access(node.buffer, node.indices, is_store=True)
            self.operations += times
        elif isinstance(node, tirx.AllocBuffer):
            if node.buffer.scope() != _PRIVATE:
                raise _Unknown
        else:
            raise _Unknown

    def _values(self, value: Any, times: int) -> int:
        """Note what `value` reads; how many loads and calls there are in it."""
        loads: list[ir.TensorLoad] = []
        calls: list[ir.Call] = []
        # Only collected in the walk: an error that leaves its callback would damage the heap.
        tvm_ffi.structural_walk(value, ((ir.TensorLoad, loads.append), (ir.Call, calls.append)))
        for load in loads:
            self._access(load.source, load.indices, is_store=False)
        self.operations += times * (len(loads) + _CALL * len(calls))
        return len(loads) + len(calls)

    def _access(self, buffer: tirx.Var, indices: Sequence[tirx.Expr], *, is_store: bool) -> None:
        param = self._params.get(buffer)
        if param is None:
            return
        offset: tirx.Expr = tirx.const(0, "int32")
        for index, extent in zip(indices, buffer.shape, strict=True):
            offset = offset * _number(extent) + self._by_loops(index)
        self.accesses.append(_Access(param=param, offset=offset, is_store=is_store))

    def _by_loops(self, expr: tirx.Expr) -> tirx.Expr:
        return _replaced(expr, self._known)


def _replaced(node: Any, values: dict[tirx.Var, Any]) -> Any:
    if not values:
        return node
    return tvm_ffi.structural_map(node, [(tirx.Var, lambda var: values.get(var, var))])


def _handed_over(walks: Sequence[_Walk], places: Sequence[Sequence[int]]) -> set[int]:
    """The parameters of the result that one kernel writes and another one reads or writes."""
    writers: dict[int, set[int]] = {}
    users: dict[int, set[int]] = {}
    for number, (walk, own) in enumerate(zip(walks, places, strict=True)):
        for access in walk.accesses:
            users.setdefault(own[access.param], set()).add(number)
            if access.is_store:
                writers.setdefault(own[access.param], set()).add(number)
    return {place for place in writers if len(users[place]) > 1}


def _own_results(
    walks: Sequence[_Walk], places: Sequence[Sequence[int]], given: int, first: int
) -> Collection[int] | None:
    """What each group has for itself if each does all of the `first` kernels; None: they cannot."""
    read: set[int] = set()
    made: dict[int, int] = {}  # with bytes
    for walk, own in zip(walks[:first], places[:first], strict=True):
        for access in walk.accesses:
            place, param = own[access.param], walk.kernel.params[access.param]
            if access.is_store and str(param.dtype) == "float16":
                return None  # of what stays in registers compilers keep more bits than memory does
            if access.is_store:
                made[place] = _nbytes(param)
            else:
                read.add(place)
    if min(made, default=given) < given or sum(made.values()) > _OWN_BYTES:
        return None
    for walk, own in zip(walks[first:], places[first:], strict=True):
        for access in walk.accesses:
            if access.is_store and first and own[access.param] in read | made.keys():
                return None
    return sorted(made)


def _nbytes(param: tirx.Var) -> int:
    return math.prod(map(_number, param.shape)) * np.dtype(str(param.dtype)).itemsize


def _is_own(walk: _Walk, groups: int, params: set[int]) -> bool:
    """Whether each of `groups` groups stays in its own part of those parameters."""
    if groups == 1 or not params:
        return True
    kernel, analyzer = walk.kernel, Analyzer()
    # In the type of the kernel's own numbers: nothing is proven through conversions.
    dtype = next(str(var.ty) for var, extent in kernel.threads if extent > 1)
    steps = kernel.items // groups
    group, step = tirx.Var("group", dtype), tirx.Var("step", dtype)
    for var, count in ((group, groups), (step, steps)):
        analyzer.bind(var, Range.from_min_extent(tirx.const(0, dtype), tirx.const(count, dtype)))
    for var, (begin, length) in walk.ranges.items():
        analyzer.bind(var, Range.from_min_extent(begin, length))
    at = kernel.at(group * steps + step)
    for access in walk.accesses:
        if access.param not in params:
            continue
        part, rest = divmod(math.prod(map(_number, kernel.params[access.param].shape)), groups)
        offset = _replaced(access.offset, at) - group * part
        bound = analyzer.const_int_bound(analyzer.simplify(offset))
        if rest or bound.min_value < 0 or bound.max_value >= part:
            return False
    return True


def _written(
    funcs: Sequence[tirx.PrimFunc],
    places: Sequence[Sequence[int]],
    count: int,
    groups: int,
    own_results: Collection[int],
    first: int,
) -> tirx.PrimFunc:
    """The joined function; each group does all of the `first` kernels, with results of its own."""
    # A function may be there twice, and every variable is defined once.
    kernels = [_taken_apart(s_tir.renew_defs(func)) for func in funcs]
    params: list[Any] = [None] * count
    for kernel, own in zip(kernels, places, strict=True):
        for place, param in zip(own, kernel.params, strict=True):
            # What one of them knows of the memory, such as where it begins, holds for all.
            if params[place] is None or _promise(param) > _promise(params[place]):
                params[place] = param
    group = tirx.Var("group", "int32")
    arrays = {place: _array_like(params[place]) for place in own_results}
    parts = []
    for number, (kernel, own) in enumerate(zip(kernels, places, strict=True)):
        given = {
            param: arrays.get(place, params[place])
            for place, param in zip(own, kernel.params, strict=True)
        }
        if number < first:
            parts.append(_part(kernel, given, tirx.const(0, "int32"), 1))
        else:
            parts.append(_part(kernel, given, group, groups))
    # Every result stays one, for whoever else reads it.
    for place, array in arrays.items():
        parts.append(tirx.IfThenElse(group == 0, _copied(array, params[place]), None))
    loop = tirx.For(
        group,
        tirx.const(0, "int32"),
        tirx.const(groups, "int32"),
        tirx.ForKind.THREAD_BINDING,
        _block("group", tirx.SeqStmt(parts), list(arrays.values())),
        thread_binding=tirx.IterVar(
            Range(0, groups), tirx.Var("", "int32"), tirx.IterVar.ThreadIndex, "blockIdx.x"
        ),
    )
    return tirx.PrimFunc(params, _block("root", loop)).with_attrs(
        {"tirx.noalias": True, "tirx.is_scheduled": True, "s_tir": True}
    )


def _array_like(param: tirx.Var) -> tirx.Var:
    """A work-item's own array of the same shape."""
    return tirx.decl_buffer(param.shape, param.dtype, f"own_{param.name}", scope=_PRIVATE)


def _copied(array: tirx.Var, param: tirx.Var) -> tirx.Stmt:
    index = [tirx.Var(f"n{axis}", "int32") for axis in range(len(param.shape))]
    body: tirx.Stmt = tirx.BufferStore(param, array[tuple(index)], index)
    for var, extent in zip(reversed(index), reversed(param.shape), strict=True):
        body = tirx.For(var, tirx.const(0, "int32"), extent, tirx.ForKind.SERIAL, body)
    return body


def _part(
    kernel: _Kernel, given: Mapping[tirx.Var, tirx.Var], group: tirx.Expr, groups: int
) -> tirx.Stmt:
    """What `group` does of `kernel`, on the parameters `given`."""
    steps = kernel.items // groups
    step = tirx.Var("step", "int32")
    body = _replaced(kernel.body, {**given, **kernel.at(group * steps + step)})
    body = _block("part", body, kernel.private)
    zero, end = (tirx.const(n, "int32") for n in (0, steps))
    return tirx.For(step, zero, end, tirx.ForKind.SERIAL, body)


def _block(name: str, body: tirx.Stmt, arrays: Sequence[tirx.Var] = ()) -> tirx.Stmt:
    block = s_tir.SBlock([], [], [], name, body, alloc_buffers=list(arrays))
    return s_tir.SBlockRealize([], tirx.const(True, "bool"), block)


def _promise(param: tirx.Var) -> tuple[int, int]:
    return int(param.data_alignment), int(param.offset_factor)
