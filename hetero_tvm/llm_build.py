"""A language model's folder -> one artefact: a step for each of a few numbers of new tokens.

Every step is a whole function of fixed shapes with a plan of its own: one for decoding, which takes
one token, and some for prompts, which run in chunks of these sizes (`lengths.way`). They share
kernels and weights as the variants of any model do, and all of them write the same caches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tvm

from hetero_tvm import (
    bundle,
    compiler,
    frontend,
    llm_check,
    memory,
    runtime,
    step_beside,
    vm_lowering,
)
from hetero_tvm.build_state import State
from hetero_tvm.compiler import BuildResult
from hetero_tvm.config import BuildConfig
from hetero_tvm.device_os import this_os
from hetero_tvm.errors import EnvironmentProblem
from hetero_tvm.frontend.llm_folder import LlmFolder
from hetero_tvm.kept_steps import KeptSteps
from hetero_tvm.llm_steps import step_configs
from hetero_tvm.progress import Progress
from hetero_tvm.shared_panels import SharedPanels
from hetero_tvm.step_beside import StepBeside
from hetero_tvm.variants import Merger, result_of, variant_of, with_shared_weights
from hetero_tvm.weights import WeightStore
from relay_passes.constant_file import in_file
from schedules.cost_model import CostModel
from schedules.layout import Panels, panels_of

_CHECK = "compare"  # the step that proves the result against ONNX Runtime
_REFERENCE = "reference"  # what it gives, here and for devices
_CHECK_WEIGHT, _REFERENCE_WEIGHT = 10.0, 10.0
_KEPT, _KEPT_WEIGHT = "kept", 3.0  # a step that an earlier build has lowered
_BESIDE = "beside"  # one that a process beside this one lowers
# What a step's phases take of a build of SmolLM2-135M for host, where an import is 10: planning
# thousands of operators takes more of it than in other models.
_WEIGHTS = {"place": 7.0, "split": 1.0, "group": 1.0, "lower_npu": 1.0, "codegen": 4.0}
_LINK_WEIGHT = 15.0


def build(
    config: BuildConfig,
    *,
    prefill: Sequence[int] | None = None,
    capacity: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile the folder `config.model` as `config` says.

    Args:
        config: its `model` is the folder.
        prefill, capacity: see `llm_steps.step_configs`.
        progress: shown to the user.

    Raises:
        BadInput, EnvironmentProblem: see `hetero_tvm.errors`.
    """
    progress = progress or Progress(quiet=True)
    memory.give_back_large()
    shown, given = config.model, config
    configs = step_configs(config, prefill, capacity)
    configs = {rows: with_shared_weights(one) for rows, one in configs.items()}
    config = next(iter(configs.values()))
    assert config.llm is not None
    if not config.llm.folder.has_tokenizer:
        progress.note(f"{shown}: no tokenizer.json: the artefact works on token ids")
    costs = compiler.prepare(config, progress)
    each = [phase for phase in compiler.phases_of(config) if not phase.once]
    together = [phase for phase in compiler.phases_of(config) if phase.once]
    kept = KeptSteps(config, costs)
    found = {rows: kept.find(one) for rows, one in configs.items()}
    # ONNX Runtime has all of the file in memory, which must not come on top of two steps.
    is_early = not _is_compared(config) or kept.has_expected(config, **_run(configs))
    coming = [rows for rows in configs if found[rows] is None and (is_early or rows > min(configs))]
    # The last one: its turn comes when it has long been begun.
    is_apart = len(coming) > 1 and kept.keeps and step_beside.pays(config.model)
    other = coming[-1] if is_apart else None
    weights = {
        f"{phase.name} {rows}": _WEIGHTS.get(phase.name, phase.weight)
        for rows in configs
        for phase in each
        if found[rows] is None and rows != other
    }
    if other is not None:
        weights[f"{_BESIDE} {other}"] = _KEPT_WEIGHT
    weights |= {f"{_KEPT} {rows}": _KEPT_WEIGHT for rows in configs if found[rows] is not None}
    if config.output is not None:
        weights |= {
            phase.name: _WEIGHTS.get(phase.name, phase.weight) * len(configs) for phase in together
        }
        if config.check:
            weights[_REFERENCE] = _REFERENCE_WEIGHT
        weights["link"] = _LINK_WEIGHT
        if config.check:
            weights[_CHECK] = _CHECK_WEIGHT
    if again := [str(rows) for rows in configs if found[rows] is not None]:
        progress.note(f"steps of {', '.join(again)} tokens: kept by an earlier build")
    progress.begin(weights)
    with memory.few_collections(), contextlib.ExitStack() as stack:
        store = None
        if config.output is not None:
            store = stack.enter_context(WeightStore(config.output, kept.weights))

        def begin_other() -> StepBeside | None:
            if other is None:
                return None
            return stack.enter_context(
                step_beside.lowering(given, other, prefill=prefill, capacity=capacity)
            )

        beside = begin_other() if is_early else None
        after_reference = None if is_early else begin_other
        result = _build(configs, costs, store, progress, kept, found, beside, after_reference)
        kept.bound()
        return result


def lower_one(
    config: BuildConfig,
    rows: int,
    *,
    prefill: Sequence[int] | None,
    capacity: int | None,
    note: Callable[[str], None],
) -> None:
    """Lower the step of `rows` tokens and keep it for a later build.

    Args:
        config, prefill, capacity: as for `build`; nothing is written to `config.output`.
        rows: one of the steps that these say.
        note: told what is worth reading.

    Raises:
        BadInput, EnvironmentProblem: as `build`.
    """
    memory.give_back_large()
    assert config.output is not None
    one = with_shared_weights(step_configs(config, prefill, capacity)[rows])
    quiet = Progress(quiet=True)
    costs = compiler.prepare(one, quiet)
    kept = KeptSteps(one, costs)
    phases = [phase for phase in compiler.phases_of(one) if not phase.once]
    files = config.output.parent
    with (
        memory.few_collections(),
        WeightStore(config.output, kept.weights) as store,
        in_file(files) as lasting,
    ):
        assert lasting is not None
        start = _start(one, costs, note, store, SharedPanels(lasting))
        with in_file(files, lasting):
            state, _ = compiler.run_phases(one, costs, phases, quiet, start=start)
            kept.keep(one, rows, state)


def _start(
    one: BuildConfig,
    costs: CostModel,
    note: Callable[[str], None],
    store: WeightStore | None,
    panels: Panels,
) -> State:
    """The state before a step's phases."""
    return State(
        config=dataclasses.replace(one, measure=False),
        spec=costs.spec,
        costs=costs,
        note=note,
        weights=store,
        panels=panels,
    )


def _build(
    configs: Mapping[int, BuildConfig],
    costs: CostModel,
    store: WeightStore | None,
    progress: Progress,
    kept: KeptSteps,
    found: Mapping[int, bytes | None],
    beside: StepBeside | None,
    begin_beside: Callable[[], StepBeside | None] | None,
) -> BuildResult:
    """Every step up to code generation, then all of them together.

    `found`: what `kept` has of each step. `beside`: what lowers one of the others; `begin_beside`
    gives it where it is to begin behind ONNX Runtime's run.
    """
    first, config = next(iter(configs.items()))
    assert config.llm is not None
    folder: LlmFolder = config.llm.folder
    each = [phase for phase in compiler.phases_of(config) if not phase.once]
    together = [phase for phase in compiler.phases_of(config) if phase.once]
    states: dict[int, State] = {}
    seconds: dict[str, float] = {}
    merger = Merger(store)
    wanted: llm_check.Expected | None = None
    files = config.output.parent if config.output is not None else None
    with in_file(files) as lasting:
        panels = SharedPanels(lasting) if lasting is not None else panels_of
        for rows, one in configs.items():
            start = _start(one, costs, progress.note, store, panels)
            clock, before = time.perf_counter(), found[rows]
            again = None
            if beside is not None and rows == beside.rows:
                progress.step(f"{_BESIDE} {rows}")
                for line in beside.wait():
                    progress.note(line)
                before = kept.find(one)
                seconds = compiler.summed(seconds, {_BESIDE: time.perf_counter() - clock})
                clock = time.perf_counter()
            elif before is not None:
                progress.step(f"{_KEPT} {rows}")
            if before is not None:
                again = kept.state_of(before, start, rows)
                seconds = compiler.summed(seconds, {_KEPT: time.perf_counter() - clock})
            with in_file(files, lasting):
                if again is None:
                    state, spent = compiler.run_phases(
                        one, costs, each, progress, start=start, step=f"{{}} {rows}"
                    )
                    seconds = compiler.summed(seconds, spent)
                    state = kept.keep(one, rows, state)
                else:
                    state = again
                if config.output is not None:
                    state = merger.add(rows, state)
            states[rows] = dataclasses.replace(state, panels=panels_of)
            if rows == first and _is_compared(config):
                # Now, while least is in memory: it has all of the file there.
                progress.step(_REFERENCE)
                assert state.model is not None
                run = {**_run(configs), "vocabulary": state.model.outputs[0].shape[-1]}
                wanted = kept.expected(config, **run)
                if begin_beside is not None:
                    beside = begin_beside()
    final, manifest = states[first], None
    assert final.model is not None and final.plan is not None
    if config.output is not None:
        merged = merger.state(states, of=first)
        merged, spent = compiler.run_phases(config, costs, together, progress, start=merged)
        seconds = compiler.summed(seconds, spent)
        unchecked = None if wanted is None else _why_unchecked(merged)
        programs = _keep_programs(merged) if wanted is not None and unchecked is None else None
        progress.step("link")
        clock = time.perf_counter()
        # The dynamic loader wants the name; nothing takes the output's place before it is proven.
        with tempfile.TemporaryDirectory(
            prefix=f".{config.output.name}.", dir=config.output.parent
        ) as draft:
            artefact = Path(draft) / f"{config.output.stem}.so"
            manifest = compiler.write_artefact(
                artefact,
                merged,
                store,
                variants=tuple(variant_of(n, s, False) for n, s in states.items()),
                llm=_description(folder, final.model, config.llm.capacity),
                reference=None if wanted is None else wanted.recorded(),
            )
            seconds["link"] = time.perf_counter() - clock
            if wanted is not None:
                clock = time.perf_counter()
                progress.step(_CHECK)
                if unchecked is not None:
                    progress.note(f"{artefact.name}: not compared with ONNX Runtime{unchecked}")
                else:
                    if programs is not None:
                        programs.join()
                    llm_check.check(artefact, wanted, folder.model, progress.note)
                seconds[_CHECK] = time.perf_counter() - clock
            artefact.replace(config.output)
    return result_of(config, states, seconds, of=first, manifest=manifest)


def _is_compared(config: BuildConfig) -> bool:
    return config.output is not None and config.check


def _run(configs: Mapping[int, BuildConfig]) -> dict[str, int]:
    """What ONNX Runtime is to run; the vocabulary as the file says, 0 where it does not."""
    config = configs[min(configs)]
    assert config.llm is not None
    return {
        "vocabulary": config.llm.folder.vocabulary,
        "capacity": config.llm.capacity,
        "chunk": max(configs),
    }


def _why_unchecked(state: State) -> str | None:
    """Why this machine cannot run what was built in reasonable time, to follow a sentence."""
    if compiler.host_os(state.config) != this_os():
        return " here: `deploy` does, there"
    if state.spec.npu.provider == "qnn" and state.compiled:
        return ": its NPU is only simulated"
    try:
        runtime.open_opencl()
    except EnvironmentProblem as problem:
        return f": {problem}"
    return None


def _keep_programs(state: State) -> threading.Thread:
    """Have the driver compile the kernels while the artefact is written, which takes as long.

    The artefact that is loaded behind this then finds them in the cache. What is wrong with one is
    said there.
    """
    assert state.executable is not None
    modules = vm_lowering.opencl_modules(state.executable)

    def compile_them() -> None:
        with contextlib.suppress(RuntimeError, tvm.error.InternalError):
            for module in modules:
                runtime.prepare(module)

    thread = threading.Thread(target=compile_them, name="hetero_tvm.programs")
    thread.start()
    return thread


def _description(
    folder: LlmFolder, model: frontend.ImportedModel, capacity: int
) -> bundle.LanguageModel:
    names = {cache.name for cache in folder.caches}
    return bundle.LanguageModel(
        caches=tuple(spec for spec in model.inputs if spec.name in names),
        capacity=capacity,
        vocabulary=model.outputs[0].shape[-1],
        stop_tokens=folder.stop_tokens,
        texts=dict(folder.texts),
    )
