"""A language model's folder -> one artefact: a step for each of a few numbers of new tokens.

Every step is a whole function of fixed shapes with a plan of its own: one for decoding, which takes
one token, and some for prompts, which run in chunks of these sizes (`lengths.way`). They share
kernels and weights as the variants of any model do, and all of them write the same caches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hetero_tvm import bundle, compiler, frontend, llm_check, pipeline, runtime
from hetero_tvm.compiler import BuildResult
from hetero_tvm.config import BuildConfig, LlmStep
from hetero_tvm.errors import BadInput, EnvironmentProblem
from hetero_tvm.frontend.llm_folder import LlmFolder
from hetero_tvm.progress import Progress
from hetero_tvm.variants import Merger, result_of, variant_of, with_shared_weights
from hetero_tvm.weights import WeightStore
from schedules.cost_model import CostModel

DECODE = 1
PREFILL = (16, 128)  # chunks of prompts, in tokens
DEFAULT_CAPACITY = 2048  # where the model allows so much
_CHECK = "compare"  # the step that proves the result against ONNX Runtime
_CHECK_WEIGHT = 5.0


def build(
    config: BuildConfig,
    *,
    prefill: Sequence[int] = PREFILL,
    capacity: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile the folder `config.model` as `config` says.

    Args:
        config: its `model` is the folder.
        prefill: numbers of tokens that prompts are taken in; decoding's one is always there.
        capacity: longest sequence, prompt and answer together; the least of `DEFAULT_CAPACITY` and
            the model's own where None.
        progress: shown to the user.

    Raises:
        BadInput, EnvironmentProblem: see `hetero_tvm.errors`.
    """
    progress = progress or Progress(quiet=True)
    folder = frontend.read_llm_folder(config.model)
    capacity = checked_capacity(folder, capacity)
    check_dtype(config)
    if not folder.has_tokenizer:
        progress.note(f"{config.model}: no tokenizer.json: the artefact works on token ids")
    steps = sorted({DECODE, *(min(rows, capacity) for rows in prefill)})
    config = dataclasses.replace(config, model=folder.model, measure=False)
    config = with_shared_weights(config)
    costs = compiler.prepare(config, progress)
    each = [phase for phase in compiler.phases_of(config) if not phase.once]
    together = [phase for phase in compiler.phases_of(config) if phase.once]
    weights = {f"{phase.name} {rows}": phase.weight for rows in steps for phase in each}
    if config.output is not None:
        weights |= {phase.name: phase.weight * len(steps) for phase in together}
        weights["link"] = compiler.LINK_WEIGHT
        if config.check:
            weights[_CHECK] = _CHECK_WEIGHT
    progress.begin(weights)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(WeightStore(config.output)) if config.output else None
        return _build(config, folder, steps, capacity, costs, store, progress)


def _build(
    config: BuildConfig,
    folder: LlmFolder,
    steps: Sequence[int],
    capacity: int,
    costs: CostModel,
    store: WeightStore | None,
    progress: Progress,
) -> BuildResult:
    """Every step up to code generation, then all of them together."""
    each = [phase for phase in compiler.phases_of(config) if not phase.once]
    together = [phase for phase in compiler.phases_of(config) if phase.once]
    states: dict[int, pipeline.State] = {}
    seconds: dict[str, float] = {}
    merger = Merger(store)
    for rows in steps:
        one = dataclasses.replace(config, llm=LlmStep(folder=folder, rows=rows, capacity=capacity))
        state, spent = compiler.run_phases(one, costs, each, progress, step=f"{{}} {rows}")
        seconds = compiler.summed(seconds, spent)
        if config.output is not None:
            state = merger.add(rows, state)
        states[rows] = state
    final, manifest = states[steps[0]], None
    assert final.model is not None and final.plan is not None
    if config.output is not None:
        merged = merger.state(states, of=steps[0])
        merged, spent = compiler.run_phases(config, costs, together, progress, start=merged)
        seconds = compiler.summed(seconds, spent)
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
                llm=_description(folder, final.model, capacity),
            )
            seconds["link"] = time.perf_counter() - clock
            if config.check:
                clock = time.perf_counter()
                _check(artefact, folder, merged, progress)
                seconds[_CHECK] = time.perf_counter() - clock
            artefact.replace(config.output)
    return result_of(config, states, seconds, of=steps[0], manifest=manifest)


def _check(artefact: Path, folder: LlmFolder, state: pipeline.State, progress: Progress) -> None:
    """Prove the artefact against ONNX Runtime, where this machine can run it in reasonable time."""
    progress.step(_CHECK)
    if state.spec.npu.provider == "qnn" and state.compiled:
        progress.note(f"{artefact.name}: not compared with ONNX Runtime: its NPU is only simulated")
        return
    try:
        runtime.open_opencl()
    except EnvironmentProblem as problem:
        progress.note(f"{artefact.name}: not compared with ONNX Runtime: {problem}")
        return
    llm_check.check(artefact, folder, progress.note)


def check_dtype(config: BuildConfig) -> None:
    """Refuse a storage type of the user's.

    Raises:
        BadInput: there is one.
    """
    if config.dtype != "float32":
        raise BadInput(f"--dtype {config.dtype}: language models are stored as their file has them")


def checked_capacity(folder: LlmFolder, asked: int | None) -> int:
    """Positions of the caches."""
    if asked is None:
        return min(DEFAULT_CAPACITY, folder.context)
    if not 2 <= asked <= folder.context:
        raise BadInput(
            f"--context {asked}: the model takes 2 to {folder.context} tokens in one sequence"
        )
    return asked


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
