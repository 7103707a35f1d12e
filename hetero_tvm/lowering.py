"""The phases behind the plan: from placed operators to regions, kernels and code."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tvm
from tvm import IRModule

from hetero_tvm import (
    build_record,
    fallback,
    npu_compiler,
    runtime,
    target_set,
    vm_lowering,
)
from hetero_tvm.build_state import State, applied, mode
from hetero_tvm.config import BuildConfig
from hetero_tvm.costs import block_codes, product_form
from hetero_tvm.device_os import device_os
from hetero_tvm.errors import BadInput
from hetero_tvm.lanes import simulated_lanes
from hetero_tvm.plan_run import plan_run
from hetero_tvm.weights import WeightStore
from relay_passes import npu_support
from relay_passes.call_table import call_table
from relay_passes.calls import Call
from relay_passes.group_regions import GroupRegions
from relay_passes.join_launches import JoinLaunches
from relay_passes.lower_cpu import LowerCpu
from relay_passes.lower_gpu import lower_gpu
from relay_passes.lower_npu import lower_npu
from relay_passes.memory_table import MemoryTable, memory_table
from relay_passes.program import read_program
from relay_passes.split_tensor import split_tensor
from schedules.cost_model import CostModel
from schedules.defaults import default_legalizations, default_rules
from schedules.host import host_rules
from schedules.joined_kernel import Joiner
from schedules.tvm_target import tvm_target
from target_specs.spec import GpuSpec


def split(state: State) -> State:
    """Cut what the plan splits into parts, each with a device of its own."""
    assert state.plan is not None
    cut = split_tensor(state.mod, state.plan)
    return dataclasses.replace(state, mod=cut.mod, cut=cut, record=_record(state))


def _record(state: State) -> Mapping[str, Any]:
    """The program and its plan, while operators are whole."""
    assert state.plan is not None
    followed = mode(state.config)
    costs = state.prices.get(followed) or state.costs or CostModel(state.spec)
    element_bytes = 2 if state.config.dtype == "float16" else 4
    # A plan may be given without what its parts take.
    priced = all(op.split_us for op in state.plan.ops if op.split is not None)
    return build_record.function_record(
        read_program(state.mod),
        state.plan,
        costs,
        state.plans,
        state.estimated.get(followed),
        state.model.node_of if state.model is not None else {},
        simulated_lanes(plan_run(state.mod, state.plan, costs, element_bytes)) if priced else None,
    )


def group(state: State) -> State:
    """Gather each device's neighbours into regions."""
    assert state.cut is not None
    mod = applied(GroupRegions(state.cut.region), state.mod)
    return dataclasses.replace(state, mod=mod, cut=dataclasses.replace(state.cut, mod=IRModule()))


def lower_for_npu(state: State) -> State:
    """Take the NPU regions out of the module, as ONNX."""
    # What the form is chosen by was only estimated where it was asked for.
    form = None
    costs = state.prices.get(mode(state.config))
    if state.config.estimate and costs is not None and state.spec.npu.provider == "qnn":
        form = product_form(costs)
    # What a device loads has its weights compiled in.
    outside = state.weights is not None and state.spec.npu.provider == "cpu"
    keep = state.weights.index_of if state.weights is not None and outside else None
    find_codes = block_codes(state.spec.npu, state.four_bit)
    mod, regions = lower_npu(state.mod, state.spec.npu, form, keep, find_codes)
    return dataclasses.replace(state, mod=mod, regions=regions)


def compile_for_npu(state: State) -> State:
    """Context binaries of the NPU regions, by the vendor's compiler, for every target."""
    if state.config.with_fallback:
        assert state.model is not None
        state = dataclasses.replace(state, whole=(fallback.whole(state.model),))
    if not state.regions:
        return state
    npu = state.spec.npu
    if state.config.share_npu_weights and npu.provider == "qnn":
        compiled = npu_compiler.uncompiled(state.regions)  # with those of the other lengths, below
        return dataclasses.replace(state, compiled=_with_substitutes(compiled, state))
    versions = []
    for spec in (state.spec, *state.others):
        if state.others:
            state.note(f"compiling the NPU part for {spec.name}")
        versions.append(
            npu_compiler.compile_regions(
                state.regions, spec.npu, cache_dir=state.config.cache_dir, progress=state.note
            )
        )
    compiled = tuple(
        dataclasses.replace(first, others=tuple(other.onnx for other in others))
        for first, *others in zip(*versions, strict=True)
    )
    return dataclasses.replace(
        state,
        compiled=_with_substitutes(compiled, state),
        npu_compiler_bytes=max(region.peak_bytes for one in versions for region in one),
    )


def _with_substitutes(
    compiled: Sequence[npu_compiler.CompiledRegion], state: State
) -> tuple[npu_compiler.CompiledRegion, ...]:
    """`compiled`, with the regions' own models where they are to be carried."""
    if not state.config.with_fallback or state.spec.npu.provider != "qnn":
        return tuple(compiled)
    return tuple(
        dataclasses.replace(region, substitute=plain.onnx)
        for region, plain in zip(compiled, state.regions, strict=True)
    )


def share_npu(state: State) -> State:
    """Compile the regions of all lengths together, so that they share one set of weights."""
    npu = state.spec.npu
    if not (state.config.share_npu_weights and npu.provider == "qnn" and state.compiled):
        return state
    together = npu_compiler.compile_together(
        state.compiled, npu, cache_dir=state.config.cache_dir, progress=state.note
    )
    largest, window = max(map(len, together.files.values())), npu_support.window_bytes(npu)
    if window is not None and largest > window:
        raise BadInput(
            f"the NPU's weights of all lengths together take {largest / 1e6:.0f} MB, and one of "
            f"its processes can address {window / 1e6:.0f} MB: build with --no-shared-npu-weights"
        )
    return dataclasses.replace(
        state,
        compiled=together.regions,
        npu_files=together.files,
        npu_compiler_bytes=max(region.peak_bytes for region in together.regions),
    )


def lower_for_cpu(state: State) -> State:
    """Kernels of what neither device computes."""
    assert state.plan is not None
    return dataclasses.replace(state, mod=applied(LowerCpu(state.plan, host_rules()), state.mod))


def lower_for_gpu(state: State) -> State:
    """Scheduled OpenCL kernels: by the rules, or by a database of tuned ones."""
    gpu = state.spec.gpu
    if state.config.db is not None:
        from hetero_tvm import tuning  # it needs this module

        tuned = tuning.schedule_with(state, state.config.db, state.note)
        # What was tuned is checked on its own where the artefact meets a new driver.
        mod = _with_joined_launches(tuned.mod, gpu, apart=tuned.names)
        return dataclasses.replace(state, mod=mod, kernels=tuned.uses)
    mod = lower_gpu(
        state.mod,
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu, state.four_bit, state.panels),
        rules=default_rules(gpu),
    )
    return dataclasses.replace(state, mod=_with_joined_launches(mod, gpu))


def _with_joined_launches(mod: IRModule, gpu: GpuSpec, apart: Collection[str] = ()) -> IRModule:
    """`mod` with fewer kernels, where a work-item is a core; those called `apart` stay."""
    if gpu.wave_size > 1:
        return mod
    return applied(JoinLaunches(Joiner(gpu).join, apart), mod)


def codegen(state: State) -> State:
    """Code for the host and the GPU, with what the NPU loads in it."""
    npu, npu_module = state.spec.npu, None
    if state.weights is not None:
        state = dataclasses.replace(state, compiled=_placed(state.compiled, state.weights))
    if state.compiled or state.whole:
        targets = [target_set.described(spec) for spec in (state.spec, *state.others)]
        regions = state.compiled
        npu_module = runtime.npu_module(
            regions,
            npu.provider,
            npu_compiler.session_options(npu),
            state.npu_files,
            [region.substitute for region in regions if region.substitute is not None],
            targets=targets if npu.provider == "qnn" and regions else (),
            binaries={r.symbol: (r.onnx, *r.others) for r in regions if r.others},
            standby=state.whole,
        )
    executable = vm_lowering.compile_executable(
        state.mod,
        tvm_target(state.spec.gpu, _host_target(state.config)),
        npu_module,
        [region.symbol for region in state.compiled],
        state.config.gpu_share,
    )
    calls, memory = _tables(state)
    return dataclasses.replace(state, executable=executable, calls=calls, memory=memory)


def _placed(
    regions: Sequence[npu_compiler.CompiledRegion], weights: WeightStore
) -> tuple[npu_compiler.CompiledRegion, ...]:
    """`regions` with the offsets of their weights, now that all weights are there."""
    places = weights.places()
    return tuple(
        dataclasses.replace(
            region,
            outside=tuple(
                dataclasses.replace(weight, offset=places[weight.number])
                for weight in region.outside
            ),
        )
        for region in regions
    )


def _tables(state: State) -> tuple[Mapping[str, tuple[Call, ...]], Mapping[str, MemoryTable]]:
    """Function -> what it calls, in order; and its memory."""
    assert state.plan is not None
    regions = {region.symbol: region for region in state.compiled}
    ordered = applied(
        tvm.transform.Sequential(vm_lowering.in_order(list(regions)), name="InOrder"), state.mod
    )
    planned = applied(
        tvm.transform.Sequential(vm_lowering.with_memory(list(regions)), name="Memory"), ordered
    )
    plans = state.function_plans or {"main": state.plan}
    return (
        {name: call_table(ordered, name, regions, plan) for name, plan in plans.items()},
        {name: memory_table(planned, name, regions) for name in plans},
    )


def _host_target(config: BuildConfig) -> Mapping[str, Any] | None:
    return None if config.os is None else device_os(config.os).host_target
