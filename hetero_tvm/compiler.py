"""One build from start to end: target, pipeline, link, seal; and what goes with it.

Nothing appears at the output path before it is whole (see `bundle.whole_file`).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import (
    build_record,
    bundle,
    first_load,
    memory,
    memory_limit,
    pipeline,
    reference,
    runtime,
    signing,
    target_set,
    vm_lowering,
)
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.costs import with_measured_kernels
from hetero_tvm.cross_compiler import CrossCompiler, cross_compiler
from hetero_tvm.device_os import DeviceOs, device_os, this_os
from hetero_tvm.errors import BadInput, BadOutputPath, CannotWrite, TargetUnusable
from hetero_tvm.host_profile import host_profile, is_measured
from hetero_tvm.lengths import LengthRules
from hetero_tvm.memory_forecast import PlanMemory
from hetero_tvm.placing import memory_of
from hetero_tvm.progress import Progress
from hetero_tvm.weights import WeightStore
from relay_passes.plan import Plan
from schedules.cost_model import CostModel
from schedules.tuned import Use
from target_specs.loader import SpecError, load_spec, resolve
from target_specs.spec import SocSpec

if TYPE_CHECKING:
    from hetero_tvm.between import Chosen

LINK_WEIGHT = 3.0
_HOST = "host"  # the target that is the machine itself
_VERSIONED = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "onnxruntime-qnn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build made, and why it is as it is."""

    path: Path | None  # None after --plan-only
    target: str
    plan: Plan
    manifest: bundle.Manifest | None
    node_of: dict[str, str]  # operator (binding) name -> ONNX node name
    seconds: dict[str, float]
    peak_memory_bytes: int  # of this process, or of the vendor's compiler where that is more
    variants: Mapping[int, Plan] = dataclasses.field(default_factory=dict)  # length -> its plan
    lengths: LengthRules | None = None  # how other lengths are met; None: no `--length`
    kernels: tuple[Use, ...] = ()  # with a database of tuned kernels: what each one used
    chosen: Chosen | None = None  # with a range of lengths: which were built, and why
    memory: PlanMemory | None = None  # what the plan needs; of a dry run alone

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, the `--json` of the verb."""
        return {
            "output": str(self.path) if self.path else None,
            "target": self.target,
            "placement": {
                "macs": self.plan.macs,
                "operators": [
                    {**dataclasses.asdict(op), "node": self.node_of.get(op.name, op.name)}
                    for op in self.plan.ops
                ],
                "refused": [
                    {**refusal, "node": self.node_of.get(refusal["name"], refusal["name"])}
                    for refusal in self.plan.refused
                ],
                "predicted_us": self.plan.predicted_us,
                "alternatives_us": dict(self.plan.alternatives_us),
                "busy_us": dict(self.plan.busy_us),
                "waits": [dataclasses.asdict(wait) for wait in self.plan.waits],
                "border_bytes": round(self.plan.border_bytes),
                "exact": self.plan.exact,
                "bound_us": self.plan.bound_us,
                "joules": self.plan.joules,
                "provenance": "modelled",
            },
            "npu_regions": self.manifest.npu_regions if self.manifest else None,
            "memory_bytes": dataclasses.asdict(self.memory) if self.memory else None,
            **self._lengths(),
            **({"kernels": [use.to_dict() for use in self.kernels]} if self.kernels else {}),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def _lengths(self) -> dict[str, Any]:
        if not self.variants:
            return {}
        return {
            "variants": [
                {"length": length, "predicted_us": plan.predicted_us, "npu_regions": plan.regions}
                for length, plan in self.variants.items()
            ],
            "lengths": dataclasses.asdict(self.lengths) if self.lengths else None,
            **({"range": self.chosen.to_dict()} if self.chosen else {}),
        }


def build(config: BuildConfig, progress: Progress | None = None) -> BuildResult:
    """Compile as `config` says. See `hetero_tvm.build.build` for the errors."""
    progress = progress or Progress(quiet=True)
    costs = prepare(config, progress)
    weights = {phase.name: phase.weight for phase in phases_of(config)}
    progress.begin(weights if config.output is None else {**weights, "link": LINK_WEIGHT})
    state, seconds = run_phases(config, costs, phases_of(config), progress)
    assert state.model is not None and state.plan is not None
    manifest = None
    if config.output is not None:
        progress.step("link")
        clock = time.perf_counter()
        manifest = write_artefact(config.output, state)
        seconds["link"] = time.perf_counter() - clock
    return BuildResult(
        path=config.output,
        target=state.spec.name,
        plan=state.plan,
        manifest=manifest,
        node_of=dict(state.model.node_of),
        seconds=seconds,
        peak_memory_bytes=max(memory.peak_bytes(), state.npu_compiler_bytes),
        kernels=state.kernels,
        memory=memory_of(state) if config.output is None else None,
    )


def prepare(config: BuildConfig, progress: Progress) -> CostModel:
    """Check what can be checked before the work; what things cost on the target."""
    costs = target_costs(
        config.target, progress, cache_dir=config.cache_dir, reprofile=config.reprofile
    )
    if config.output is not None:
        _check_output(config.output, config.model)
    if config.sign is not None:
        signing.load_key(config.sign)  # a wrong one is said now, not after the work
    if config.dump_ir is not None and config.dump_ir.exists() and not config.dump_ir.is_dir():
        raise BadOutputPath(f"--dump-ir {config.dump_ir}: is a file; name a folder")
    pipeline.check_measure(config, costs.spec)
    if config.db is not None:
        from hetero_tvm import tuning

        tuning.check_db(config.db)
    _others(config, costs.spec, progress)
    _cross_compiler(config)
    runtime.load()
    return costs


def _others(config: BuildConfig, first: SocSpec, progress: Progress) -> tuple[SocSpec, ...]:
    """The specs of `config.more_targets`, which are fit for an artefact together with `first`."""
    others = tuple(target_spec(name, progress) for name in config.more_targets)
    target_set.check([first, *others])
    return others


def host_os(config: BuildConfig) -> DeviceOs:
    """What the artefact's host code is for."""
    return this_os() if config.os is None else device_os(config.os)


def _cross_compiler(config: BuildConfig) -> CrossCompiler | None:
    """What links host code for another machine; None: this machine's own compiler does."""
    host = host_os(config)
    if config.output is None or host == this_os():
        return None
    return cross_compiler(host, config.cache_dir)


def phases_of(config: BuildConfig) -> list[pipeline.Phase]:
    """All of the pipeline, or what planning needs where nothing is to be written."""
    return [phase for phase in pipeline.PHASES if phase.plan or config.output is not None]


def run_phases(
    config: BuildConfig,
    costs: CostModel,
    phases: Sequence[pipeline.Phase],
    progress: Progress,
    *,
    start: State | None = None,
    step: str = "{}",
) -> tuple[State, dict[str, float]]:
    """Run `phases`; the state after them, and seconds by phase.

    `start`: the state before them, where it is not a new one. `step`: how a phase is shown.
    """
    if config.measure is None:
        measured = _is_here(config.target) and is_measured() and config.os is None
        config = dataclasses.replace(config, measure=measured)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def after_phase(phase: pipeline.Phase, state: State) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[phase.name], clock = now - clock, now
        if config.dump_ir is not None:
            _dump(config.dump_ir, phase.name, state)

    state = pipeline.run(
        start
        or State(
            config=config,
            spec=costs.spec,
            others=_others(config, costs.spec, progress),
            costs=costs,
            note=progress.note,
        ),
        phases=phases,
        on_phase=lambda phase: progress.step(step.format(phase.name)),
        after_phase=after_phase,
    )
    return state, seconds


def summed(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase of two runs together."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}


def _check_output(path: Path, model: Path) -> None:
    """Say now what would otherwise be found out after the work."""
    if path.resolve() == model.resolve():
        raise BadOutputPath(f"{path}: is the model itself; give the artefact another name")
    if not path.parent.is_dir():
        raise BadOutputPath(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise BadOutputPath(f"{path}: is a folder; give a file name, as in -o {path / 'model.so'}")
    if not os.access(path.parent, os.W_OK):
        raise BadOutputPath(f"{path}: the folder {path.parent} cannot be written to")


def target_spec(name: str, progress: Progress) -> SocSpec:
    """The spec of a target or TOML file; an alias says what it stands for."""
    try:
        if name.endswith(".toml"):
            return load_spec(Path(name))
        resolved = resolve(name)
        if resolved != name:
            progress.note(f"target {name} stands for {resolved}")
        return load_spec(resolved)
    except SpecError as error:
        raise TargetUnusable(str(error)) from None


def _is_here(target: str) -> bool:
    return not target.endswith(".toml") and resolve(target) == _HOST


def target_costs(
    name: str, progress: Progress, *, cache_dir: Path, reprofile: bool = False
) -> CostModel:
    """What things cost on a target; `host` is this machine, as measured here once and kept.

    Raises:
        BadInput: as `target_spec`; also `reprofile` with a target that is not this machine.
    """
    spec = target_spec(name, progress)
    if not _is_here(name):
        if reprofile:
            raise BadInput(f"--reprofile measures this machine: use it with --target {_HOST}")
        return CostModel(spec)
    profile = host_profile(cache_dir, reprofile=reprofile, progress=progress.note)
    return with_measured_kernels(CostModel(profile.spec), profile.gpu_records)


def write_artefact(
    path: Path, state: State, weights: WeightStore | None = None, **more: Any
) -> bundle.Manifest:
    """Link what `state` holds and seal it; `more` are the manifest's other fields."""
    assert state.model is not None and state.plan is not None and state.executable is not None
    assert state.cut is not None
    host = host_os(state.config)
    manifest = bundle.Manifest(
        target=state.spec.name,
        soc=state.spec.soc,
        htp_arch=state.spec.npu.htp_arch,
        soc_ids=state.spec.soc_ids,
        npu_provider=state.spec.npu.provider,
        os=host.system,
        host=host.machine,
        dtype=state.config.dtype,
        model_name=state.config.model.name,
        model_sha256=state.model.sha256,
        inputs=state.model.inputs,
        outputs=state.model.outputs,
        output_axes=state.cut.output_axes,
        ranges=state.model.ranges,
        versions={
            name: version for name in _VERSIONED if (version := runtime.package_version(name))
        },
        plan=state.plan.to_dict(),
        npu_regions=len(state.compiled),  # of all lengths
        calls=state.calls,
        targets=target_set.targets(state) if state.compiled else (),
        fallback=bool(state.whole),
        kernels=first_load.described(state.kernels, state.mod),
        record=_record(state),
        gpu_share=state.config.gpu_share,
        memory_bytes=memory_limit.artefact_bytes(
            state.memory, state.model.inputs, weights.nbytes if weights is not None else 0
        ),
        **{"reference": _reference(state), **more},
    )
    key = signing.load_key(state.config.sign) if state.config.sign else None
    try:
        with bundle.whole_file(path) as temporary:
            vm_lowering.export(state.executable, temporary, _cross_compiler(state.config))
            sealed = bundle.append_manifest(temporary, manifest, weights)
            if key is not None:
                signing.append_signature(temporary, key)
            return sealed
    except OSError as error:  # a full disk, a folder that went away
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def _record(state: State) -> str:
    """What a report of the artefact shows beside all this."""
    assert state.executable is not None
    functions = state.function_records or ({"main": state.record} if state.record else {})
    sources = build_record.kernel_sources(vm_lowering.opencl_source(state.executable))
    return build_record.pack(functions, state.memory, sources)


def _reference(state: State) -> dict[str, Any] | None:
    """The model's own outputs; none of a language model, whose steps write caches."""
    assert state.model is not None
    if not state.config.check or state.config.llm is not None:
        return None
    return reference.record(state.config.model, state.model.ranges)


def _dump(directory: Path, phase: str, state: State) -> None:
    """One file per phase: the module as TVMScript, constants left out; NPU regions as ONNX."""
    directory.mkdir(parents=True, exist_ok=True)
    index = [p.name for p in pipeline.PHASES].index(phase)
    (directory / f"{index}_{phase}.py").write_text(state.mod.script(show_meta=False))
    if phase == "place" and state.plan is not None:
        (directory / f"{index}_{phase}.json").write_text(state.plan.to_json())
    if phase == "lower_npu":
        for region in state.regions:
            (directory / f"{region.symbol}.onnx").write_bytes(region.onnx)
    if phase == "codegen" and state.executable is not None:
        (directory / "kernels.cl").write_text(vm_lowering.opencl_source(state.executable))
