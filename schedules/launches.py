"""A scheduled function as OpenCL C and launches that anybody can make, without TVM's host code.

The function's shapes are fixed, so everything that TVM's host code would compute for a launch is a
number here: which buffers a kernel takes, how many groups there are, and of how many items.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.tirx.build import codegen_build, split_host_device_mods

from schedules.host_memory import host_memory_pipeline
from schedules.image_reads import FROM_MEMORY
from schedules.trials import entry_of

_AXES = ("x", "y", "z")


class NoLaunch(ValueError):
    """A function that cannot be launched without TVM; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel: which buffers, how many groups, of how many items, along three axes."""

    kernel: str
    arguments: tuple[int, ...]  # places among the function's parameters, then among the scratch
    groups: tuple[int, ...]
    items: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launches:
    """What a function does on a device."""

    source: str  # OpenCL C of all kernels
    steps: tuple[Launch, ...]  # in order
    scratch: tuple[int, ...]  # bytes of buffers between its kernels


def launches_of(mod: IRModule, target: tvm.target.Target) -> Launches:
    """Build `mod`, one scheduled function of fixed shapes, for `target`.

    Raises:
        NoLaunch: it takes anything but whole buffers, or allocates by what it computes.
    """
    names = [param.name for param in entry_of(mod).params]
    bound = tvm.tirx.transform.BindTarget(target)(mod)
    pipeline, _, finish = tvm.tirx.get_tir_pipeline(host_memory_pipeline())
    host, devices = split_host_device_mods(pipeline(bound))
    if len(devices) != 1:
        raise NoLaunch("it is not one program for one device")
    ((device, kernels),) = devices.items()
    # Whoever makes the launches binds buffers.
    sources = FROM_MEMORY + codegen_build(finish()(kernels), device).inspect_source()
    (func,) = (f for f in host.functions.values() if isinstance(f, tirx.PrimFunc))
    # Only collected in the walk: an error that leaves its callback would damage the heap.
    buffers: list[Any] = []
    calls: list[ir.Call] = []

    def allocated(node: tirx.AllocBuffer) -> None:
        buffers.append(node.buffer)

    def called(call: ir.Call) -> None:
        calls.append(call)

    tvm_ffi.structural_walk(func.body, (tirx.AllocBuffer, allocated))
    tvm_ffi.structural_walk(func.body, (ir.Call, called))
    sizes = {str(buffer.name): _bytes(buffer) for buffer in buffers}
    clash = sizes.keys() & set(names)
    if clash:
        raise NoLaunch(f"{min(clash)} is a parameter and allocated")
    places = {name: place for place, name in enumerate([*names, *sizes])}
    kernel = ir.Op.get("tirx.call_ffi_kernel")
    steps = tuple(_launch(call, places) for call in calls if call.op == kernel)
    return Launches(source=sources, steps=steps, scratch=tuple(sizes.values()))


def _launch(call: ir.Call, places: dict[str, int]) -> Launch:
    name, *rest = call.args
    tags = [str(tag) for tag in call.attrs["launch_params"]]
    given, extents = rest[: len(rest) - len(tags)], rest[len(rest) - len(tags) :]
    arguments = [_place(argument, places) for argument in given]
    sizes: dict[str, int] = {}
    for tag, extent in zip(tags, extents, strict=True):
        if not isinstance(extent, int | tirx.IntImm):
            raise NoLaunch(f"how many {tag} there are is computed")
        sizes[tag] = int(extent)
    return Launch(
        kernel=str(getattr(name, "value", name)),
        arguments=tuple(arguments),
        groups=tuple(sizes.get(f"blockIdx.{axis}", 1) for axis in _AXES),
        items=tuple(sizes.get(f"threadIdx.{axis}", 1) for axis in _AXES),
    )


def _place(argument: Any, places: dict[str, int]) -> int:
    """Which buffer an argument is."""
    if isinstance(argument, ir.Call) and argument.op == ir.Op.get("tirx.buffer_data"):
        name = str(argument.args[0].name)
        if name in places:
            return places[name]
    raise NoLaunch(f"a kernel takes {argument}, which is no whole buffer")


def _bytes(buffer: Any) -> int:
    if not all(isinstance(n, int | tirx.IntImm) for n in buffer.shape):
        raise NoLaunch(f"the size of {buffer.name} is computed")
    return math.prod(int(n) for n in buffer.shape) * (tvm.DataType(buffer.dtype).bits // 8)
