"""The compilation, as a table of contents.

Each phase takes the state of the build and gives the next one. The runner, not the phase, checks
after each that the module is well formed, and reports to one hook (dumps, timing, progress).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tvm import IRModule, relax

from hetero_tvm import frontend, measure_plans, npu_compiler
from hetero_tvm.build_state import State, allowed_modes
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.lowering import (
    codegen,
    compile_for_npu,
    group,
    lower_for_cpu,
    lower_for_gpu,
    lower_for_npu,
    share_npu,
    split,
)
from hetero_tvm.placing import fitting_modes, place, precision, to_half
from relay_passes.constant_file import forget_pages
from target_specs.spec import SocSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One row of the table. `weight`: its usual share of a build's time, for the estimate."""

    name: str
    run: Callable[[State], State]
    weight: float
    plan: bool = False  # part of `--plan-only` too
    once: bool = False  # for all lengths of a model together, see `variants`


def _import(state: State) -> State:
    config = state.config
    if config.llm is not None:
        step = config.llm.importer.step(config.llm.rows, config.llm.capacity)
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
    allowed = allowed_modes(state.config) if limit is None else fitting_modes(state, limit)
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


PHASES = (
    Phase(name="import", run=_import, weight=10, plan=True),
    # Before placing: costs and support depend on the storage type.
    Phase(name="to_half", run=to_half, weight=0.1, plan=True),
    Phase(name="precision", run=precision, weight=3, plan=True),
    Phase(name="place", run=place, weight=0.5, plan=True),
    Phase(name="measure", run=_measure, weight=0.1),
    Phase(name="split", run=split, weight=0.2),
    Phase(name="group", run=group, weight=0.2),
    # NPU regions leave the module first, so that nothing below can change what is in them.
    Phase(name="lower_npu", run=lower_for_npu, weight=0.5),
    Phase(name="compile_npu", run=compile_for_npu, weight=5),
    # CPU kernels are made one by one before the GPU's, so that fusion never mixes the two.
    Phase(name="lower_cpu", run=lower_for_cpu, weight=0.2),
    Phase(name="lower_gpu", run=lower_for_gpu, weight=5),
    Phase(name="share_npu", run=share_npu, weight=0.1, once=True),
    Phase(name="codegen", run=codegen, weight=8, once=True),
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
