"""The compilation, as a table of contents.

Each phase takes the state of the build and gives the next one. The runner, not the phase, checks
after each that the module is well formed, and reports to one hook (dumps, timing, progress).
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax

from hetero_tvm import (
    build_record,
    fallback,
    frontend,
    measure_plans,
    memory_limit,
    npu_compiler,
    npu_weights,
    runtime,
    target_set,
    vm_lowering,
)
from hetero_tvm.config import BuildConfig
from hetero_tvm.costs import (
    can_estimate,
    product_form,
    products_of,
    with_estimates,
    with_packed_weights,
)
from hetero_tvm.device_os import device_os
from hetero_tvm.errors import BadInput, TargetUnusable
from hetero_tvm.lanes import simulated_lanes
from hetero_tvm.memory_forecast import PlanMemory, plan_memory
from hetero_tvm.plan_regions import Region, estimate_regions
from hetero_tvm.plan_rounds import plan_by_regions
from hetero_tvm.plan_run import plan_run
from hetero_tvm.sample_inputs import read_sample
from relay_passes import gpu_support, npu_precision, npu_support
from relay_passes.call_table import call_table
from relay_passes.calls import Call
from relay_passes.constant_file import forget_pages
from relay_passes.group_regions import GroupRegions
from relay_passes.lower_cpu import LowerCpu
from relay_passes.lower_gpu import lower_gpu
from relay_passes.lower_npu import NpuRegion, lower_npu
from relay_passes.memory_table import MemoryTable, memory_table
from relay_passes.npu_window import window_breaks
from relay_passes.part_work import part_work
from relay_passes.place import MODES, place_all, reprice
from relay_passes.plan import Plan
from relay_passes.planner.problem import Waiting
from relay_passes.program import read_program
from relay_passes.split_tensor import Splitted, split_tensor
from relay_passes.to_half import ToHalf
from schedules.cost_model import CostModel
from schedules.defaults import default_legalizations, default_rules
from schedules.host import host_rules
from schedules.tuned import Use
from schedules.tvm_target import tvm_target
from schedules.w4a16_table import W4Table
from target_specs.spec import SocSpec

# Inputs on which the effect of float16 is looked at; none that a user's comparison starts with.
_PRECISION_SEEDS = (1001, 1002)
_TO_REGIONS = ("split", "group", "lower_npu")  # the phases that make a plan's NPU regions


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What is known about the build so far; a phase returns a new one."""

    config: BuildConfig
    spec: SocSpec
    note: Callable[[str], None]
    costs: CostModel | None = None  # of operators by themselves; None: the spec's
    # Puts a weight of an NPU region into the artefact, at the offset that it gives; None: they stay
    # in the regions.
    place_weight: Callable[[np.ndarray], int] | None = None
    model: frontend.ImportedModel | None = None
    mod: IRModule = dataclasses.field(default_factory=IRModule)
    unfit: Mapping[str, str] = dataclasses.field(default_factory=dict)  # operator -> why not NPU
    plans: Mapping[str, Plan] = dataclasses.field(default_factory=dict)  # of each `place.MODES`
    prices: Mapping[str, CostModel] = dataclasses.field(default_factory=dict)  # of each plan
    plan: Plan | None = None  # the one of these that is followed
    done: frozenset[str] = frozenset()  # phases to come that have been run already
    # Mode -> the NPU regions of its plan, as the vendor estimates them; where they were estimated.
    estimated: Mapping[str, tuple[Region, ...]] = dataclasses.field(default_factory=dict)
    cut: Splitted | None = None  # what split operators became
    regions: tuple[NpuRegion, ...] = ()
    compiled: tuple[npu_compiler.CompiledRegion, ...] = ()  # the regions, as the NPU loads them
    npu_files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)  # of `compiled`
    others: tuple[SocSpec, ...] = ()  # further targets, of `config.more_targets`
    whole: tuple[NpuRegion, ...] = ()  # the model itself, for a CPU: see `fallback`
    npu_compiler_bytes: int = 0  # memory that the vendor's compiler took at most
    # Function -> the plan that it follows; empty: `main`, and `plan`.
    function_plans: Mapping[str, Plan] = dataclasses.field(default_factory=dict)
    kernels: tuple[Use, ...] = ()  # what a database of tuned kernels did; without one nothing
    executable: relax.VMExecutable | None = None
    # Function -> what it calls, in order: of all functions, once there is code for them.
    calls: Mapping[str, tuple[Call, ...]] = dataclasses.field(default_factory=dict)
    memory: Mapping[str, MemoryTable] = dataclasses.field(default_factory=dict)  # of the same
    record: Mapping[str, Any] | None = None  # how the program was placed; see `build_record`
    # Function -> its record; empty: `main`, and `record`.
    function_records: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def four_bit(self) -> W4Table:
        """The 4-bit weights that some of the model's float constants came from."""
        return W4Table(self.model.four_bit if self.model is not None else ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One row of the table. `weight`: its usual share of a build's time, for the estimate."""

    name: str
    run: Callable[[State], State]
    weight: float
    plan: bool = False  # part of `--plan-only` too
    once: bool = False  # for all lengths of a model together, see `variants`


def _apply(step: Any, mod: IRModule) -> IRModule:
    return tvm.transform.Sequential([step])(mod)


def _import(state: State) -> State:
    config = state.config
    if config.llm is not None:
        step = frontend.import_step(config.llm.folder, config.llm.rows, config.llm.capacity)
        # Later phases give weights back as they are done with them; nobody else may hold them.
        bare = dataclasses.replace(step, mod=IRModule())
        return dataclasses.replace(state, model=bare, mod=step.mod)
    model = frontend.import_model(
        config.model,
        input_shapes=config.inputs,
        check=config.check and config.output is not None,
        keep_going=config.keep_going,
    )
    return dataclasses.replace(state, model=model, mod=model.mod)


def _to_half(state: State) -> State:
    if state.config.dtype == "float32":
        return state
    return dataclasses.replace(state, mod=_apply(ToHalf(), state.mod))


def _precision(state: State) -> State:
    """Find the operators that the NPU's float16 would harm too much."""
    assert state.model is not None
    npu = state.spec.npu
    kept = dict.fromkeys(_off_npu(state), "kept off the NPU by --off-npu")
    if "npu" not in state.config.devices or not npu_support.is_half_inside(npu):
        return dataclasses.replace(state, unfit=kept)
    names = [parameter.name for parameter in state.mod["main"].params]
    sets = [frontend.draw_inputs(state.model.ranges, seed) for seed in _PRECISION_SEEDS]
    samples = state.config.samples
    if samples:
        sets = [{**sets[0], **read_sample(path, state.model.inputs)} for path in samples]
    inputs = [dict(zip(names, each.values(), strict=True)) for each in sets]
    harmed = npu_precision.precision_declines(state.mod, npu, inputs, strict=bool(samples))
    return dataclasses.replace(state, unfit={**harmed, **kept})


def _off_npu(state: State) -> tuple[str, ...]:
    """The operators that the user keeps off the NPU, by name or by pattern."""
    wanted = state.config.off_npu
    known = [node.name for node in read_program(state.mod)] if wanted else []
    kept: dict[str, None] = {}
    for pattern in wanted:
        # A name may have what a pattern gives a meaning to.
        found = [pattern] if pattern in known else fnmatch.filter(known, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"--off-npu {pattern}: no such operator; `inspect --json` lists them{hint}"
            )
        kept |= dict.fromkeys(found)
    return tuple(kept)


def _place(state: State) -> State:
    """Ask every device about every operator, then choose by cost."""
    config, wanted = state.config, mode(state.config)
    costs = state.costs or CostModel(state.spec)
    costs = with_packed_weights(costs, read_program(state.mod), state.four_bit)
    if config.estimate:
        works = [node.work for node in read_program(state.mod)]
        costs = with_estimates(
            costs, products_of(works), cache_dir=config.cache_dir, progress=state.note
        )
    planner = _Planner(dataclasses.replace(state, costs=costs, prices={wanted: costs}))
    if not _wants_estimates(state):
        plans = planner.place(costs)
        prices = dict.fromkeys(plans, costs)
        placed = dataclasses.replace(state, plan=plans[wanted], plans=plans, prices=prices)
        return _within_memory(placed)
    found = plan_by_regions(planner, costs, wanted, state.note)
    placed = dataclasses.replace(
        state,
        plan=found.plans[wanted],
        plans=found.plans,
        prices={name: found.costs.get(name, costs) for name in found.plans},
        estimated=found.regions,
    )
    return _within_memory(placed)


def _within_memory(state: State) -> State:
    """Follow the fastest plan that keeps the limit on memory, where there is one."""
    limit = state.config.memory_limit
    if limit is None:
        return state
    fitting = _fitting(state, limit)
    if mode(state.config) in fitting:
        return state
    best = min(fitting, key=lambda name: state.plans[name].predicted_us)
    state.note(
        f"{mode(state.config)} needs more than {limit:,} bytes: following the plan of {best}"
    )
    return dataclasses.replace(state, plan=state.plans[best])


def _fitting(state: State, limit: int) -> list[str]:
    """The modes that the build may follow and whose plans keep the limit; OverMemoryLimit."""
    assert state.model is not None
    inputs = state.model.inputs
    needs = {
        name: memory_of(dataclasses.replace(state, plan=state.plans[name]))
        for name in allowed_modes(state.config)
    }
    fitting = [n for n, need in needs.items() if memory_limit.needed_bytes(need, inputs) <= limit]
    if not fitting:
        raise memory_limit.refusal(needs, inputs, limit)
    return fitting


def _wants_estimates(state: State) -> bool:
    """Of NPU regions: as the user says, else where they can be had and do not take too long."""
    config = state.config
    if config.estimate is not None:
        return config.estimate
    # A language model's regions have thousands of operators, and are planned for every length.
    return config.llm is None and can_estimate(state.spec.npu)


class _Planner:
    """`plan_rounds.Planner` of a program; one use for each."""

    def __init__(self, state: State) -> None:
        spec, config = state.spec, state.config
        self.state = state
        self.nodes = read_program(state.mod)

        def declined(call: relax.Call, device: str) -> str | None:
            if device == "npu":
                return npu_support.decline_reason(call, spec.npu)
            return gpu_support.decline_reason(call, spec.gpu)

        assert state.costs is not None
        waits = state.costs.waiting(element_bytes=2 if config.dtype == "float16" else 4)
        self.shared: dict[str, Any] = {
            "declined": declined,
            "waiting": Waiting(
                wait_us=waits.wait_us,
                region_us=waits.region_us,
                border_us_per_byte=waits.border_us_per_byte,
            ),
            "unfit": state.unfit,
            "tile": spec.npu.tile,
            "objective": config.objective,
            "gpu_share": config.gpu_share,
            "power_w": _power(spec, needed=config.objective != "latency"),
            "npu_rows": config.npu_rows,
        }

    def place(self, costs: CostModel, also: Sequence[Plan] = (), **search: Any) -> dict[str, Plan]:
        # Thousands of operators: nobody looks at what is not asked for, unless it is to be shown.
        if self.state.config.llm is not None and self.state.config.output is not None:
            search = {"modes": allowed_modes(self.state.config), **search}
        plans = place_all(self.state.mod, cost_us=costs.cost_us, also=also, **search, **self.shared)
        return self._within_window(plans, costs)

    def _within_window(self, plans: dict[str, Plan], costs: CostModel) -> dict[str, Plan]:
        """`plans` with regions cut that the NPU could not address."""
        cut = {}
        for name, plan in plans.items():
            breaks = window_breaks(self.nodes, plan, self.state.spec.npu)
            if breaks:
                fits = self._repriced(plan, costs, name, breaks)
                bound = min(plan.bound_us, fits.predicted_us)
                cut[name] = dataclasses.replace(fits, bound_us=bound, exact=False)
        if not cut:
            return plans
        plans = {**plans, **cut}
        us = {name: plan.predicted_us for name, plan in plans.items()}
        return {n: dataclasses.replace(plan, alternatives_us=us) for n, plan in plans.items()}

    def reprice(self, plan: Plan, costs: CostModel, mode: str, breaks: Sequence[str]) -> Plan:
        again = self._repriced(plan, costs, mode, breaks)
        more = window_breaks(self.nodes, again, self.state.spec.npu)
        return self._repriced(plan, costs, mode, (*breaks, *more)) if more else again

    def _repriced(self, plan: Plan, costs: CostModel, mode: str, breaks: Sequence[str]) -> Plan:
        return reprice(
            self.state.mod,
            plan,
            cost_us=costs.cost_us,
            wanted=mode,
            breaks=breaks,
            **self.shared,
        )

    def estimate(self, plan: Plan, costs: CostModel) -> tuple[Region, ...]:
        state = dataclasses.replace(self.state, plan=plan)
        for phase in PHASES:
            if phase.name in _TO_REGIONS:
                state = phase.run(state)
        parts = {
            node.name: part_work(node, placed, "npu")
            for node, placed in zip(self.nodes, plan.ops, strict=True)
        }
        return estimate_regions(
            state.regions,
            {name: work for name, work in parts.items() if work is not None},
            costs,
            cache_dir=state.config.cache_dir,
            progress=state.note,
        )


def mode(config: BuildConfig) -> str:
    """Which of `place.MODES` the build follows."""
    if config.devices == "gpu+npu":
        return "split" if config.split else "layer"
    return config.devices


def allowed_modes(config: BuildConfig) -> tuple[str, ...]:
    """Those of `place.MODES` whose plans the build may follow."""
    followed = mode(config)
    return (followed,) if followed in ("gpu", "npu") else MODES[: MODES.index(followed) + 1]


def _power(spec: SocSpec, *, needed: bool) -> dict[str, float]:
    """Watts of GPU and NPU; nothing where one is not known."""
    power = {"gpu": spec.gpu.power_w, "npu": spec.npu.power_w}
    known = {device: watts for device, watts in power.items() if watts is not None}
    if needed and len(known) < len(power):
        missing = " and ".join(f"[{d}] power_w" for d in power if d not in known)
        raise TargetUnusable(
            f"target {spec.name} does not say what power its devices take ({missing}): "
            "plan for latency, or add it to a TOML file of the target"
        )
    return known if len(known) == len(power) else {}


def check_measure(config: BuildConfig, spec: SocSpec) -> None:
    """Refuse to measure what does not run on this machine.

    Raises:
        BadInput: says what `measure` goes with.
    """
    if config.measure and spec.soc_ids:
        raise BadInput("--measure runs on this machine: use it with --target host")
    if config.measure and config.os is not None:
        raise BadInput("--measure runs on this machine: use it without --os")


def _measure(state: State) -> State:
    """Where the target is this machine: the plan that is the fastest, and all that it becomes."""
    check_measure(state.config, state.spec)
    if not state.config.measure:
        return state
    assert state.model is not None
    limit = state.config.memory_limit
    allowed = allowed_modes(state.config) if limit is None else _fitting(state, limit)
    plans = measure_plans.distinct({name: state.plans[name] for name in allowed})
    if len(plans) == 1:
        return state
    later = PHASES[[phase.name for phase in PHASES].index("measure") + 1 :]
    built: dict[str, State] = {}
    executables: dict[str, relax.VMExecutable] = {}
    for name, plan in plans.items():
        state.note(f"building {name} to measure it")
        built[name] = dataclasses.replace(state, plan=plan)
        for phase in later:
            built[name] = phase.run(built[name])
        executable = built[name].executable
        assert executable is not None
        executables[name] = executable
    measured = measure_plans.time_plans(executables, state.model.ranges)
    best = measure_plans.fastest(measured)
    state.note(
        f"{best} is the fastest here: "
        + ", ".join(f"{name} {us / 1e3:.2f} ms" for name, us in measured.items())
    )
    plan = dataclasses.replace(plans[best], measured_us=measured)
    done = frozenset(phase.name for phase in later)
    return dataclasses.replace(built[best], plan=plan, done=done)


def _split(state: State) -> State:
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


def memory_of(state: State) -> PlanMemory:
    """What the plan needs on each device.

    Requires: operators are whole, as `place` leaves them.
    """
    assert state.plan is not None
    costs = state.prices.get(mode(state.config)) or state.costs
    packed = costs.packed if costs is not None else {}
    return plan_memory(read_program(state.mod), state.plan, state.spec.npu, packed)


def _group(state: State) -> State:
    assert state.cut is not None
    mod = _apply(GroupRegions(state.cut.region), state.mod)
    return dataclasses.replace(state, mod=mod, cut=dataclasses.replace(state.cut, mod=IRModule()))


def _lower_npu(state: State) -> State:
    # What the form is chosen by was only estimated where it was asked for.
    form = None
    costs = state.prices.get(mode(state.config))
    if state.config.estimate and costs is not None and state.spec.npu.provider == "qnn":
        form = product_form(costs)
    mod, regions = lower_npu(state.mod, state.spec.npu, form)
    return dataclasses.replace(state, mod=mod, regions=regions)


def _compile_npu(state: State) -> State:
    if state.config.with_fallback:
        assert state.model is not None
        state = dataclasses.replace(state, whole=(fallback.whole(state.model),))
    if not state.regions:
        return state
    npu = state.spec.npu
    if state.config.share_npu_weights and npu.provider == "qnn":
        compiled = npu_compiler.uncompiled(state.regions)  # with those of the other lengths, below
        return dataclasses.replace(state, compiled=_with_substitutes(compiled, state))
    if state.place_weight is not None and npu.provider == "cpu":
        lifted = tuple(
            dataclasses.replace(region, onnx=onnx, outside=outside)
            for region in npu_compiler.uncompiled(state.regions)
            for onnx, outside in [npu_weights.lift(region.onnx, state.place_weight)]
        )
        return dataclasses.replace(state, compiled=lifted, regions=())
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


def _share_npu(state: State) -> State:
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


def _lower_cpu(state: State) -> State:
    assert state.plan is not None
    return dataclasses.replace(state, mod=_apply(LowerCpu(state.plan, host_rules()), state.mod))


def _lower_gpu(state: State) -> State:
    gpu = state.spec.gpu
    if state.config.db is not None:
        from hetero_tvm import tuning  # it needs this module

        mod, kernels = tuning.schedule_with(state, state.config.db, state.note)
        return dataclasses.replace(state, mod=mod, kernels=kernels)
    mod = lower_gpu(
        state.mod,
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu, state.four_bit),
        rules=default_rules(gpu),
    )
    return dataclasses.replace(state, mod=mod)


def _codegen(state: State) -> State:
    npu, npu_module = state.spec.npu, None
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


def _tables(state: State) -> tuple[Mapping[str, tuple[Call, ...]], Mapping[str, MemoryTable]]:
    """Function -> what it calls, in order; and its memory."""
    assert state.plan is not None
    regions = {region.symbol: region for region in state.compiled}
    ordered = _apply(
        tvm.transform.Sequential(vm_lowering.in_order(list(regions)), name="InOrder"), state.mod
    )
    planned = _apply(
        tvm.transform.Sequential(vm_lowering.with_memory(list(regions)), name="Memory"), ordered
    )
    plans = state.function_plans or {"main": state.plan}
    return (
        {name: call_table(ordered, name, regions, plan) for name, plan in plans.items()},
        {name: memory_table(planned, name, regions) for name in plans},
    )


def _host_target(config: BuildConfig) -> Mapping[str, Any] | None:
    return None if config.os is None else device_os(config.os).host_target


PHASES = (
    Phase(name="import", run=_import, weight=10, plan=True),
    # Before placing: costs and support depend on the storage type.
    Phase(name="to_half", run=_to_half, weight=0.1, plan=True),
    Phase(name="precision", run=_precision, weight=3, plan=True),
    Phase(name="place", run=_place, weight=0.5, plan=True),
    Phase(name="measure", run=_measure, weight=0.1),
    Phase(name="split", run=_split, weight=0.2),
    Phase(name="group", run=_group, weight=0.2),
    # NPU regions leave the module first, so that nothing below can change what is in them.
    Phase(name="lower_npu", run=_lower_npu, weight=0.5),
    Phase(name="compile_npu", run=_compile_npu, weight=5),
    # CPU kernels are made one by one before the GPU's, so that fusion never mixes the two.
    Phase(name="lower_cpu", run=_lower_cpu, weight=0.2),
    Phase(name="lower_gpu", run=_lower_gpu, weight=5),
    Phase(name="share_npu", run=_share_npu, weight=0.1, once=True),
    Phase(name="codegen", run=_codegen, weight=8, once=True),
)


def run(
    state: State,
    *,
    plan_only: bool = False,
    phases: Sequence[Phase] | None = None,
    on_phase: Callable[[Phase], None] = lambda phase: None,
    after_phase: Callable[[Phase, State], None] = lambda phase, state: None,
) -> State:
    """Run `phases`, all by default, in order; `on_phase` before each, `after_phase` after it.

    `plan_only` leaves out those that placing does not need.

    With `keep_going`, a region that the vendor's compiler rejects sends the build back to placing,
    with that region's operators kept off the NPU; each round keeps off more, so it ends.
    """
    unplaced: State | None = state
    phases = PHASES if phases is None else phases
    phases = [phase for phase in phases if phase.plan or not plan_only]
    position = 0
    while position < len(phases):
        phase = phases[position]
        if phase.name in state.done:
            position += 1
            continue
        if phase.name == "place":
            unplaced = state
        on_phase(phase)
        try:
            state = phase.run(state)
        except npu_compiler.NpuRegionRejected as error:
            if not state.config.keep_going or unplaced is None:
                raise
            state.note(f"{error}; keeping its operators off the NPU")
            region = next(r for r in state.regions if r.symbol == error.symbol)
            unfit = dict.fromkeys(region.names, f"rejected: {'; '.join(error.reasons)}")
            state = dataclasses.replace(unplaced, unfit={**unplaced.unfit, **unfit})
            position = [phase.name for phase in phases].index("place")
            continue
        if phase.name == "compile_npu":
            unplaced = None  # nothing is rejected any more, and it holds every weight
        relax.analysis.well_formed(state.mod)  # raises and names the node
        forget_pages()
        after_phase(phase, state)
        position += 1
    return state
