"""A program planned four ways and run on the simulator: one device, whole operators, cut ones.

    gpu, npu    every operator on the one device
    layer       every operator whole, where the planner puts it
    split       operators may be cut

The planner minimises its own two clocks; of a mode's plan and those of the modes that it includes,
the one is taken that the simulator finishes first.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import llm_graph
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.lengths import way
from hetero_tvm.llm_graph import Graph, Policy
from hetero_tvm.progress import Progress
from hetero_tvm.simulator import Machine, Renderer, Run, Step, simulate
from hetero_tvm.steps import bounded, program
from relay_passes.planner.problem import Waiting
from relay_passes.planner.solve import solve
from schedules.cost_model import CostModel
from target_specs.llm import LlmSpec
from target_specs.spec import SocSpec

SIMULATED = "simulated"
MODES: Mapping[str, tuple[str, ...]] = {  # mode -> where its operators may run
    "gpu": ("gpu",),
    "npu": ("npu",),
    "layer": ("gpu", "npu"),
    "split": ("gpu", "npu", "gpu+npu"),
}
_INCLUDES = {"gpu": (), "npu": (), "layer": ("gpu", "npu"), "split": ("layer", "gpu", "npu")}
_BEAM = 48  # ways that the planner follows; 200 gave the same plans for the models tried
_TOKENS_SHOWN = 8  # decoded beside a renderer, so that frames have time to be late


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What surrounds the program."""

    fast_sync: bool = True
    renderer: Renderer | None = None
    gpu_share: float | None = None  # bound of a stretch of GPU work, as a share of a frame's time

    @property
    def stretch_us(self) -> float | None:
        """The most work of ours in the GPU's queue."""
        if self.renderer is None or self.gpu_share is None:
            return None
        return self.gpu_share * 1e6 / self.renderer.frames_per_second

    @property
    def left_of_gpu(self) -> float:
        """The share of the GPU's time that the renderer leaves."""
        if self.renderer is None:
            return 1.0
        return 1.0 - self.renderer.frame_us * self.renderer.frames_per_second / 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass through the program, simulated."""

    plan_of: str  # the mode whose plan was taken
    planned_us: float  # by the planner's clocks
    run: Run
    repeats: int  # of the pass in `run`
    alone_us: float  # one pass of the mode's best plan without a renderer and compiling
    operators: Mapping[str, int]  # "gpu", "npu", "cpu", "gpu+npu" -> how many
    splits: Mapping[str, int]  # kind -> how many
    regions: int
    border_bytes: float
    compile_us: float = 0.0  # of NPU graphs, at run time

    @property
    def us(self) -> float:
        """Of one pass."""
        return self.run.total_us / self.repeats + self.compile_us

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        run = self.run
        return {
            "us": self.us,
            "planned_us": self.planned_us,
            "without_renderer_us": self.alone_us + self.compile_us,
            "compile_us": self.compile_us,
            "plan_of": self.plan_of,
            "operators": dict(self.operators),
            "splits": dict(self.splits),
            "waits": run.waits // self.repeats,
            "waited_us": run.waited_us / self.repeats,
            "npu_regions": self.regions,
            "busy_share": {d: us / run.total_us for d, us in run.busy_us.items()},
            "memory_bytes": run.nbytes / self.repeats,
            "border_bytes": self.border_bytes,
            "frames": None if run.frames is None else dataclasses.asdict(run.frames),
            "provenance": SIMULATED,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmReport:
    """All that the verb says of a language model."""

    target: str
    figures: Mapping[str, int]  # provenance -> how many of the target's figures have it
    llm: LlmSpec
    prompt: int
    decode: int
    policy: Policy
    conditions: Conditions
    modes: Mapping[str, Mapping[str, Pass]]  # mode -> "prefill" and "decode"
    seconds: float

    def tokens_per_s(self, mode: str, phase: str) -> float:
        """Of the prompt, or of what is generated."""
        tokens = self.prompt if phase == "prefill" else 1
        return tokens / self.modes[mode][phase].us * 1e6

    def rates(self) -> dict[str, Any]:
        """The length and each mode's tokens a second, as plain data."""
        phases = ("prefill", "decode")
        return {
            "prompt": self.prompt,
            "modes": {
                mode: {f"{phase}_tokens_per_s": self.tokens_per_s(mode, phase) for phase in phases}
                for mode in self.modes
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the `--json` of the verb."""
        return {
            "target": self.target,
            "figures": dict(self.figures),
            "llm": dataclasses.asdict(self.llm),
            "prompt": self.prompt,
            "decode": self.decode,
            "npu_policy": self.policy,
            **conditions_dict(self.conditions),
            "modes": {
                mode: {
                    **{f"{phase}_tokens_per_s": self.tokens_per_s(mode, phase) for phase in passes},
                    "predicted_us": passes["prefill"].us + self.decode * passes["decode"].us,
                    "provenance": SIMULATED,
                    **{phase: done.to_dict() for phase, done in passes.items()},
                }
                for mode, passes in self.modes.items()
            },
            "provenance": SIMULATED,
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReport:
    """All that the verb says of an ONNX model."""

    model: Path
    target: str
    figures: Mapping[str, int]  # provenance -> how many of the target's figures have it
    dtype: str
    conditions: Conditions
    modes: Mapping[str, Pass]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the `--json` of the verb."""
        return {
            "target": self.target,
            "figures": dict(self.figures),
            "model": str(self.model),
            "dtype": self.dtype,
            **conditions_dict(self.conditions),
            "modes": {
                mode: {"runs_per_s": 1e6 / done.us, "predicted_us": done.us, **done.to_dict()}
                for mode, done in self.modes.items()
            },
            "provenance": SIMULATED,
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderReport:
    """All that the verb says of a language model's folder."""

    model: Path
    target: str
    figures: Mapping[str, int]  # provenance -> how many of the target's figures have it
    prompt: int
    decode: int
    conditions: Conditions
    chunks: Mapping[int, int]  # new tokens of a step -> how often the prompt takes it
    modes: Mapping[str, Mapping[int, Pass]]  # mode -> new tokens of a step -> one pass of it
    decode_step: int  # new tokens of the step that decodes
    seconds: float

    def prefill_us(self, mode: str) -> float:
        """The whole prompt."""
        return sum(self.modes[mode][rows].us * count for rows, count in self.chunks.items())

    def decode_us(self, mode: str) -> float:
        """One token."""
        return self.modes[mode][self.decode_step].us

    def tokens_per_s(self, mode: str, phase: str) -> float:
        """Of the prompt, or of what is generated."""
        if phase == "prefill":
            return self.prompt / self.prefill_us(mode) * 1e6
        return 1e6 / self.decode_us(mode)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the `--json` of the verb."""
        return {
            "target": self.target,
            "figures": dict(self.figures),
            "model": str(self.model),
            "prompt": self.prompt,
            "decode": self.decode,
            "chunks": [{"tokens": rows, "count": n} for rows, n in sorted(self.chunks.items())],
            **conditions_dict(self.conditions),
            "modes": {
                mode: {
                    "prefill_tokens_per_s": self.tokens_per_s(mode, "prefill"),
                    "decode_tokens_per_s": self.tokens_per_s(mode, "decode"),
                    "predicted_us": self.prefill_us(mode) + self.decode * self.decode_us(mode),
                    "provenance": SIMULATED,
                    "steps": [{"tokens": rows, **done.to_dict()} for rows, done in steps.items()],
                }
                for mode, steps in self.modes.items()
            },
            "provenance": SIMULATED,
            "seconds": round(self.seconds, 3),
        }


def conditions_dict(conditions: Conditions) -> dict[str, Any]:
    """As plain data."""
    renderer = conditions.renderer
    return {
        "fast_sync": conditions.fast_sync,
        "renderer": None if renderer is None else dataclasses.asdict(renderer),
        "gpu_share": conditions.gpu_share,
    }


def machine(spec: SocSpec, waiting: Waiting) -> Machine:
    """The SoC as the engine has it; prices of waiting as the planner has them."""
    seen = {"cpu": 0.0, "gpu": waiting.wait_us["cpu", "gpu"], "npu": waiting.wait_us["cpu", "npu"]}
    rates = {"gpu": spec.gpu.both_rate, "npu": spec.npu.both_rate}
    return Machine(
        two_devices_gbps=spec.memory.two_devices_gbps,
        launch_us=spec.gpu.launch_us,
        drained_us=waiting.wait_us["gpu", "npu"] - waiting.wait_us["cpu", "npu"],
        region_us=waiting.region_us,
        seen_us=seen,
        both_rate={device: rate for device, rate in rates.items() if rate is not None},
    )


def waiting_of(costs: CostModel, *, fast: bool, element_bytes: int) -> Waiting:
    """The cost model's prices as the planner wants them."""
    prices = costs.waiting(fast=fast, element_bytes=element_bytes)
    return Waiting(
        wait_us=prices.wait_us,
        region_us=prices.region_us,
        border_us_per_byte=prices.border_us_per_byte,
    )


def simulate_llm(
    spec: SocSpec,
    llm: LlmSpec,
    *,
    prompt: int,
    decode: int,
    policy: Policy,
    conditions: Conditions,
    on_step: Callable[[str], None] = lambda name: None,
    costs: CostModel | None = None,
) -> LlmReport:
    """The prompt in one pass, then a token at the mean length of the context.

    That token stands for all of them. On one device a token's time is a line in the context, so it
    is their mean; a split is planned for that token, and its cuts move in steps, so there it is
    near the mean. `costs`: other than the spec's alone.
    """
    begin = time.perf_counter()
    costs = costs or CostModel(spec)
    waiting = waiting_of(costs, fast=conditions.fast_sync, element_bytes=2)
    soc = machine(spec, waiting)
    passes: dict[str, dict[str, Pass]] = {mode: {} for mode in MODES}
    for phase in ("prefill", "decode"):
        on_step(phase)
        rows, past = (prompt, 0) if phase == "prefill" else (1, prompt + decode // 2)
        graph = llm_graph.build(llm, costs, waiting, rows=rows, past=past, policy=policy)
        repeats = 1
        if phase == "decode" and conditions.renderer is not None:
            repeats = min(decode, _TOKENS_SHOWN)
        compile_us = 0.0
        if policy == "online" and rows > 1 and rows not in llm_graph.NPU_LENGTHS:
            compile_us = llm_graph.online_compile_us(rows)
        for mode, done in simulate_modes(graph, soc, conditions, repeats, compile_us).items():
            passes[mode][phase] = done
    return LlmReport(
        target=spec.name,
        figures=spec.provenance_counts(),
        llm=llm,
        prompt=prompt,
        decode=decode,
        policy=policy,
        conditions=conditions,
        modes=passes,
        seconds=time.perf_counter() - begin,
    )


def simulate_model(config: BuildConfig, progress: Progress, conditions: Conditions) -> ModelReport:
    """An ONNX model as `plan` places it, once through.

    Raises:
        BadInput, EnvironmentProblem: as `plan` does.
    """
    from hetero_tvm import compiler, pipeline

    begin = time.perf_counter()
    spec = compiler.target_spec(config.target, progress)
    steps = {phase.name: phase.weight for phase in pipeline.PHASES if phase.plan}
    progress.begin({**steps, "simulate": 1.0})
    passes, _ = _planned_modes(config, spec, progress, conditions, "{}")
    return ModelReport(
        model=config.model,
        target=spec.name,
        figures=spec.provenance_counts(),
        dtype=config.dtype,
        conditions=conditions,
        modes=passes,
        seconds=time.perf_counter() - begin,
    )


def simulate_folder(
    config: BuildConfig, *, prompt: int, decode: int, progress: Progress, conditions: Conditions
) -> FolderReport:
    """An ONNX language model's steps as `plan` places them: a prompt in chunks, then tokens.

    The caches are as long as prompt and answer together, and every step is counted as if they were
    full: so times are those at the end.

    Raises:
        BadInput, EnvironmentProblem: as `plan` does; also a text that is too long for the model.
    """
    from hetero_tvm import compiler, frontend, pipeline
    from hetero_tvm.llm_steps import DECODE, step_configs

    begin = time.perf_counter()
    model = config.model
    longest = frontend.read_llm_folder(model).context
    if prompt + decode > longest:
        raise BadInput(
            f"--prompt {prompt} and --decode {decode} are {prompt + decode} tokens together; "
            f"{model} takes at most {longest}"
        )
    configs = step_configs(config, capacity=prompt + decode)
    spec = compiler.target_spec(config.target, progress)
    phases = [phase for phase in pipeline.PHASES if phase.plan]
    progress.begin(
        {f"{phase.name} {rows}": phase.weight for rows in configs for phase in phases}
        | {f"simulate {rows}": 1.0 for rows in configs}
    )
    passes: dict[int, dict[str, Pass]] = {}
    predicted: dict[int, float] = {}
    for rows, step in configs.items():
        found = _planned_modes(step, spec, progress, conditions, f"{{}} {rows}")
        passes[rows], predicted[rows] = found
    pieces = way(prompt, predicted, padding=True, chunking=True)
    assert pieces is not None, "a prompt can always be cut"
    return FolderReport(
        model=model,
        target=spec.name,
        figures=spec.provenance_counts(),
        prompt=prompt,
        decode=decode,
        conditions=conditions,
        chunks=Counter(piece.length for piece in pieces),
        modes={mode: {rows: passes[rows][mode] for rows in passes} for mode in MODES},
        decode_step=DECODE,
        seconds=time.perf_counter() - begin,
    )


def _planned_modes(
    config: BuildConfig,
    spec: SocSpec,
    progress: Progress,
    conditions: Conditions,
    step: str,
) -> tuple[dict[str, Pass], float]:
    """What `plan` places, in every mode; and what the planner's clocks say of the best.

    `step`: how a phase is shown.
    """
    from hetero_tvm import pipeline
    from hetero_tvm.build_state import State
    from hetero_tvm.plan_graph import plan_graph

    state = pipeline.run(
        State(config=config, spec=spec, note=progress.note),
        plan_only=True,
        on_phase=lambda phase: progress.step(step.format(phase.name)),
    )
    progress.step(step.format("simulate"))
    costs = CostModel(spec)
    element_bytes = 2 if config.dtype == "float16" else 4
    waiting = waiting_of(costs, fast=conditions.fast_sync, element_bytes=element_bytes)
    graphs = {
        mode: plan_graph(state.mod, state.plans[mode], state.prices[mode], waiting)
        for mode in MODES
    }
    passes = _best_of(graphs, machine(spec, waiting), conditions)
    return passes, state.plans["split"].predicted_us


def simulate_modes(
    graph: Graph,
    soc: Machine,
    conditions: Conditions,
    repeats: int = 1,
    compile_us: float = 0.0,
) -> dict[str, Pass]:
    """One program in every mode."""
    graphs = {mode: graph.only(devices) for mode, devices in MODES.items()}
    return _best_of(graphs, soc, conditions, repeats, compile_us)


def _best_of(
    graphs: Mapping[str, Graph],
    soc: Machine,
    conditions: Conditions,
    repeats: int = 1,
    compile_us: float = 0.0,
) -> dict[str, Pass]:
    """Mode -> the soonest of its own plan and of those that it includes."""
    best: dict[str, Pass] = {}
    quiet: Mapping[str, Pass] = {}
    if conditions.renderer is not None:
        quiet = _best_of(graphs, soc, Conditions(fast_sync=conditions.fast_sync))
    for mode in MODES:
        found = _simulate(graphs[mode], soc, conditions, mode, repeats, compile_us)
        rivals = [best[name] for name in _INCLUDES[mode]]
        best[mode] = min([found, *rivals], key=lambda done: done.us)
        if quiet:
            best[mode] = dataclasses.replace(best[mode], alone_us=quiet[mode].us)
    return best


def _simulate(
    graph: Graph,
    soc: Machine,
    conditions: Conditions,
    mode: str,
    repeats: int,
    compile_us: float,
) -> Pass:
    solution = solve(graph.problem, beam=_BEAM, gpu_share=conditions.left_of_gpu)
    chosen = solution.choices
    loads = [ways[number] for ways, number in zip(graph.loads, chosen, strict=True)]
    planned = program(graph.problem, chosen, loads, graph.names)
    steps: tuple[Step, ...] = planned.steps
    stretch = conditions.stretch_us
    if stretch is not None:
        steps = bounded(steps, stretch, soc.launch_us)
    run = simulate(steps * repeats, soc, renderer=conditions.renderer, stretch_us=stretch)
    picked = [op.choices[number] for op, number in zip(graph.problem.ops, chosen, strict=True)]
    uses_npu = any("npu" in choice.us for choice in picked)
    return Pass(
        plan_of=mode,
        planned_us=solution.timeline.total_us,
        run=run,
        repeats=repeats,
        alone_us=run.total_us / repeats,
        operators=Counter(choice.device for choice in picked),
        splits=Counter(choice.kind for choice in picked if choice.kind is not None),
        regions=planned.regions,
        border_bytes=planned.border_bytes,
        compile_us=compile_us if uses_npu else 0.0,
    )
